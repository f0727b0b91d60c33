"""A study trains its runs as fit would, and no end of its process changes what comes out."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import random
import re
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
from msngan.study import scheduler
from msngan.study.plan import make_study

Run = Callable[..., int]
CONTENT: dict[str, Any] = {
    "config": "digits_cnn3_msn",
    "options": {
        "epochs": 2,
        "threads": 1,
        "data": {"size": 8, "limit": 48, "validation": 16, "test_limit": 40, "batch_size": 16},
        "model.width": 2,
        "records.every": 1,
        "checkpoint.every": 1,
    },
    "arms": {"plain": {"model.norm": "none"}, "msn": {"model.norm": "mean_spectral"}},
    "baseline": "plain",
}
RUNS = ["grid-plain-s0", "grid-msn-s0"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


def write(**changed: Any) -> str:
    Path("grid.yaml").write_text(yaml.safe_dump({**CONTENT, **changed}, sort_keys=False))
    return "grid.yaml"


def table(root: Path = Path()) -> dict[str, Any]:
    """A study's results, without what depends on the clock."""
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


def test_a_run_of_a_study_is_the_run_that_fit_makes(reference, run):
    children = table(reference)["children"]
    assert [child["run"] for child in children] == RUNS
    arguments = children[1]["command"].split()
    assert arguments[:2] == ["msngan", "fit"]
    assert run(*arguments[1:]) == 0
    ours, alone = (root / "checkpoints" / RUNS[1] for root in (reference, Path()))
    assert same_bits(weights(ours), weights(alone))


def test_the_same_command_again_trains_nothing_and_ends_in_the_same_table(reference, run, capsys):
    shutil.copytree(reference, Path(), dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in Path().glob("checkpoints/grid-*/*")}
    capsys.readouterr()
    assert run("study", "grid.yaml") == 0
    assert "after the last epoch" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path().glob("checkpoints/grid-*/*")}
    assert table() == table(reference)
    capsys.readouterr()
    for only in ((), ("--table",)):  # what is shown and kept is the command that trained
        assert run("study", "grid.yaml", *only, "--format", "json") == 0
        commands = {json.loads(capsys.readouterr().out)["command"]}
        commands |= {json.loads(Path("checkpoints/grid/results.json").read_text())["command"]}
        assert commands == {f"msngan study {reference}/grid.yaml --root {reference} --jobs 2"}


def test_what_is_missing_is_trained_and_what_has_fewer_epochs_is_resumed(reference, run):
    assert run("study", write(), "--set", "epochs=1") == 0
    half = Path(f"checkpoints/{RUNS[0]}/accuracy.jsonl")
    first = half.read_bytes()
    (half.parent / "result.json").unlink()  # killed after its last step
    shutil.rmtree(f"checkpoints/{RUNS[1]}")
    Path(f"checkpoints/{RUNS[1]}").mkdir()  # killed before it had a config
    Path(f"checkpoints/{RUNS[1]}/.config.yaml.abc.tmp").write_text("steps")
    assert run("study", "grid.yaml") == 0
    assert table() == table(reference)
    assert half.read_bytes().startswith(first)  # resumed, and not trained anew


def test_a_diverged_run_is_a_result_and_the_others_are_trained(run, capsys):
    arms = {"wild": {"model.norm": "none", "model.lr": 1e18}, "plain": {"model.norm": "none"}}
    name = write(arms=arms)
    assert run("study", name, "--set", "epochs=1") == 0
    wild, plain = table()["children"]
    assert (wild["state"], plain["state"]) == ("diverged", "done")
    assert "diverged at step" in wild["reason"]
    assert "1 diverged" in capsys.readouterr().out
    log = Path("checkpoints/grid/logs/grid-wild-s0.txt")
    size = log.stat().st_size
    for again, grows in ((), False), (("--retry",), True):
        assert run("study", name, "--set", "epochs=1", *again) == 0
        assert (log.stat().st_size > size) == grows


@pytest.mark.parametrize(
    ("arm", "where", "words"),
    [
        ({"model.norm": "bach"}, "grid-bad-s0", "did you mean 'batch'"),
        ({"modle.norm": "batch"}, "study grid", "did you mean 'model.norm'"),
        (
            {"model.norm": "mean_spectral", "model.norm_options": {"gian": True}},
            "grid-bad-s0",
            "gian",
        ),
    ],
    ids=["value", "option", "network"],
)
def test_bad_input_of_any_run_is_found_before_the_first_begins(run, arm, where, words, capsys):
    assert run("study", write(arms={**CONTENT["arms"], "bad": arm}, baseline="msn")) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert where in shown
    assert "Traceback" not in shown
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize("only", [(), ("--list",), ("--table",)])
def test_an_unknown_option_of_set_is_refused_even_where_nothing_is_left(
    reference, run, refused, only
):
    shutil.copytree(reference, Path(), dirs_exist_ok=True)
    for change in ("foo=1", "model.nrm=batch", "steps.x=1"):
        line = refused("study", "grid.yaml", "--set", change, *only)
        assert f"--set: unknown option '{change.partition('=')[0]}'" in line
    assert run("study", "grid.yaml", "--set", "model.norm_options.gain=true", "--list") == 0


@pytest.mark.slow
def test_an_arm_may_lack_the_penalty_of_the_others_but_not_all_arms(run):
    options = {"steps": 1, "data": {"size": 8, "limit": 48, "batch_size": 8}, "model.width": 2}
    content = {"config": "digits_msn", "options": {**options, "model.penalty_weight": 3}}
    arms: dict[str, Any] = {"plain": {}, "r1": {"model.penalty": "r1"}}
    plain, r1 = children = make_study("s", {**content, "arms": arms}).children
    new = {child.name for child in children}
    assert scheduler.ask(children, new) is None
    assert "penalty" not in plain.command()
    assert {"--model.penalty_weight=3", "--model.penalty=r1"} <= {*r1.command().split()}
    arms["r1"] = {"model.norm": "none"}
    children = make_study("s", {**content, "arms": arms}).children
    said = scheduler.ask(children, new)
    assert said is not None
    assert "no run has a penalty: --model.penalty_weight 3.0 without a penalty changes" in said
    assert scheduler.ask(children, set()) is None  # begun by an older version
    arms["r1"] = {"model.penalty": ["none", "r1"], "model.penalty_weight": [0, 1]}
    content["options"] = options
    children = make_study("s", {**content, "arms": arms}).children
    assert "none goes with no other penalty" in str(scheduler.ask(children, new))
    assert scheduler.ask(children, set()) is None


def test_sigterm_to_all_processes_at_any_moment_changes_no_result(reference, run):
    """As a batch system sends it. Kills are tried on `fit`: a study has no state of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "msngan", "study", write(), "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(Path("checkpoints/grid/logs").glob("*")):
        time.sleep(0.025)
    time.sleep(random.SystemRandom().uniform(0, 0.5))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    shown = process.communicate()[1]
    assert "Traceback" not in shown
    if code := process.returncode:
        # After the last run nothing is left to save, and the signal may have its usual effect.
        assert code == 143 or (shown.count(": done at") == 2 and code == -signal.SIGTERM), shown
        states = {child["state"] for child in table()["children"]}
        assert states <= {"done", "part", "to do"}  # and none runs on
    assert run("study", "grid.yaml") == 0
    assert table() == table(reference)


@pytest.mark.quick
def test_the_server_preloads_what_a_run_imports():
    """Without that each run would spend seconds on importing torch; a wrong name is ignored."""
    imported = set(
        re.findall(r"from (msngan\.training[\w.]*) import", inspect.getsource(scheduler))
    )
    assert imported == set(scheduler.PRELOADED)
    assert all(map(importlib.util.find_spec, imported))


def test_a_run_does_not_outlive_the_study():
    code = (
        "import multiprocessing, os, time\n"
        "from msngan.study.scheduler import leave_with_parent\n"
        "def leaf():\n"
        "    leave_with_parent()\n"
        "    time.sleep(600)\n"
        "multiprocessing.get_context('fork').Process(target=leaf).start()\n"
        "os.kill(os.getpid(), 9)"
    )
    # The run's process holds the pipe, too: it is closed when both have ended.
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)


def test_ctrl_c_saves_and_says_how_to_go_on(run, capfd):
    name = write(options={**CONTENT["options"], "epochs": 100_000})
    last = Path(f"checkpoints/{RUNS[0]}/last.ckpt")

    def press() -> None:
        while not last.is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert run("study", name) == 130
    shown = capfd.readouterr().err
    assert "continue with:\n  msngan study grid.yaml" in shown
    assert "Traceback" not in shown
    assert "SIGTERM" in Path(f"checkpoints/grid/logs/{RUNS[0]}.txt").read_text()
    assert [child["state"] for child in table()["children"]] == ["part", "to do"]
