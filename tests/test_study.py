"""A study trains its runs as fit would, and no end of its process changes what comes out."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import same_bits, weights

from msngan.__main__ import main

Run = Callable[..., int]
CONTENT: dict[str, Any] = {
    "config": "digits_cnn3_msn",
    "options": {
        "epochs": 2,
        "threads": 1,
        "data": {"size": 8, "limit": 80, "validation": 16, "test_limit": 40, "batch_size": 16},
        "model.width": 2,
        "records.every": 1,
        "checkpoint.every": 1,
    },
    "arms": {"plain": {"model.norm": "none"}, "msn": {"model.norm": "mean_spectral"}},
    "grid": {"seed": [0, 1]},
    "baseline": "plain",
}
RUNS = ["grid-plain-s0", "grid-msn-s0", "grid-plain-s1", "grid-msn-s1"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def write(name: str = "grid", **changed: Any) -> str:  # noqa: ANN401
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**CONTENT, **changed}, sort_keys=False))
    return f"{name}.yaml"


def table(root: Path = Path()) -> dict[str, Any]:
    """What a study's results say, without what the clock has to do with."""
    found = json.loads((root / "checkpoints/grid/results.json").read_text())
    for each in [*found["cells"], *found["children"]]:
        del each["steps_per_second"]
    for name in ("command", "time", "environments"):
        del found[name]
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that nothing has disturbed, two runs at a time."""
    root = tmp_path_factory.mktemp("reference")
    path = root / "grid.yaml"
    path.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    assert main(["study", str(path), "--root", str(root), "--jobs", "2"]) == 0
    return root


@pytest.fixture
def copied(reference: Path, run: Run) -> Path:
    """A copy of that folder, to be worked in."""
    shutil.copytree(reference, Path(), dirs_exist_ok=True)
    return reference


def test_a_run_of_a_study_is_the_run_that_fit_makes(reference: Path, run: Run) -> None:
    children = table(reference)["children"]
    assert [child["run"] for child in children] == RUNS
    arguments = children[1]["command"].split()
    assert arguments[:2] == ["msngan", "fit"]
    assert run(*arguments[1:]) == 0
    ours, alone = (root / "checkpoints/grid-msn-s0" for root in (reference, Path()))
    assert same_bits(weights(ours), weights(alone))


def test_the_same_command_again_trains_nothing_and_ends_in_the_same_table(
    copied: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().glob("checkpoints/grid-*/*")}
    capsys.readouterr()
    assert run("study", "grid.yaml") == 0
    assert "after the last epoch" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path().glob("checkpoints/grid-*/*")}
    assert table() == table(copied)


def test_what_is_missing_is_trained_what_was_begun_is_resumed(copied: Path, run: Run) -> None:
    shutil.rmtree("checkpoints/grid-msn-s1")  # never begun
    shutil.rmtree("checkpoints/grid-plain-s1")  # killed before it had a config
    Path("checkpoints/grid-plain-s1").mkdir()
    Path("checkpoints/grid-plain-s1/.config.yaml.abc.tmp").write_text("steps")
    Path("checkpoints/grid-plain-s0/result.json").unlink()  # killed after its last step
    shutil.rmtree("checkpoints/grid-msn-s0")
    options = table()["children"][1]["command"].split()[2:]
    assert run("fit", *options, "--epochs", "1") == 0  # half done
    assert run("study", "grid.yaml") == 0
    assert table() == table(copied)


def test_more_epochs_resume_every_run(copied: Path, run: Run) -> None:
    assert run("study", "grid.yaml", "--set", "epochs=3") == 0
    assert [len(child["epochs"]) for child in table()["children"]] == [3] * 4
    for name in RUNS:  # resumed, and not trained anew: the lines hold their seconds
        lines = Path(f"checkpoints/{name}/accuracy.jsonl")
        assert lines.read_bytes().startswith((copied / lines).read_bytes())
    for old, new in zip(table(copied)["children"], table()["children"], strict=True):
        assert new["epochs"][:2] == old["epochs"]


def test_a_diverged_run_is_a_result_and_the_others_are_trained(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"wild": {"model.norm": "none", "model.lr": 1e30}, "plain": {"model.norm": "none"}}
    name = write(arms=arms, grid={"seed": [0]})
    assert run("study", name) == 0
    wild, plain = table()["children"]
    assert (wild["state"], plain["state"]) == ("diverged", "done")
    assert "diverged at step" in wild["reason"]
    assert "1 diverged" in capsys.readouterr().out
    log = Path("checkpoints/grid/logs/grid-wild-s0.txt")
    size = log.stat().st_size
    assert run("study", name) == 0
    assert log.stat().st_size == size
    assert run("study", name, "--retry") == 0
    assert log.stat().st_size > size


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"model.norm": "bach"}, "no 'bach' (did you mean 'batch'?)"),
        ({"modle.norm": "batch"}, "did you mean 'model.norm'"),
        ({"model.norm": "mean_spectral", "model.norm_options": {"gian": True}}, "gian"),
        ({"model.lr": "fast"}, "--model.lr"),
        ({"data.dataset": "digit"}, "digit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_of_any_run_is_found_before_the_first_begins(
    run: Run, arm: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("study", write(arms={**CONTENT["arms"], "bad": arm}, baseline="msn")) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "grid-bad-s0" in shown
    assert "Traceback" not in shown
    assert not Path("checkpoints").exists()


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The study in a process group of its own, once it has begun to train."""
    command = [sys.executable, "-m", "msngan", "study", "grid.yaml", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(2400):
        if list(folder.glob("checkpoints/grid/logs/*")):
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.025)
    pytest.fail("no run in a minute")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGKILL), (os.kill, signal.SIGKILL), (os.killpg, signal.SIGTERM)],
    ids=["kill -9 of all", "kill -9 of the study's own process", "SIGTERM to all"],
)
def test_no_end_at_any_moment_changes_the_results(
    reference: Path, run: Run, tmp_path: Path, send: Callable[..., None], number: int
) -> None:
    write()
    process = begin(tmp_path, "--jobs", "2")
    moment = random.SystemRandom().uniform(0, 1)
    time.sleep(moment)
    send(process.pid, number)
    _, shown = process.communicate()
    if number == signal.SIGTERM and process.returncode:
        # After the last run nothing is left to save, and the signal may have its usual effect.
        over = shown.count(": done at") == 4
        assert process.returncode in ({143, -number} if over else {143}), (moment, shown)
        assert "Traceback" not in shown
        states = {child["state"] for child in table()["children"]}
        assert states <= {"done", "part", "to do"}, moment  # and none runs on
    assert run("study", "grid.yaml") == 0, moment
    assert table() == table(reference), moment


def test_a_run_does_not_outlive_the_study() -> None:
    code = (
        "import multiprocessing, os, time\n"
        "from msngan.study.worker import leave_with_parent\n"
        "def leaf():\n"
        "    leave_with_parent()\n"
        "    time.sleep(600)\n"
        "multiprocessing.get_context('fork').Process(target=leaf).start()\n"
        "os.kill(os.getpid(), 9)"
    )
    # The run's process holds the pipe, too: it is closed when both have ended.
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)


def test_ctrl_c_saves_and_says_how_to_go_on(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    name = write(options={**CONTENT["options"], "epochs": 100_000})
    last = Path("checkpoints/grid-plain-s0/last.ckpt")

    def press() -> None:
        while not last.is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert run("study", name) == 130
    shown = capfd.readouterr().err
    assert "continue with:\n  msngan study grid.yaml" in shown
    assert "Traceback" not in shown
    assert "SIGTERM" in Path("checkpoints/grid/logs/grid-plain-s0.txt").read_text()
    assert [child["state"] for child in table()["children"]] == ["part"] + 3 * ["to do"]
