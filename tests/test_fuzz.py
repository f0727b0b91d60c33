"""Any input is answered by a result or by one clear line; the long form tries over 100,000."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import fuzz_cases as cases
import pytest
import report_runs
from conftest import QUIET, TINY, TINY_CLASSIFIER

from msngan.data.image_files import load_folder
from msngan.report.html.chart import logarithmic
from msngan.runs.folder import Failure, UserError
from msngan.training import dynamics

# How many inputs of each kind: in CI, and in the long form.
KINDS: dict[str, tuple[Callable[[Path], cases.Case], int, int]] = {
    "config": (cases.config, 40, 2500),
    "command line": (cases.command_line, 40, 2500),
    "training": (cases.training, 12, 600),
    "checkpoint": (cases.checkpoint, 300, 20_000),
    "sample": (cases.sampled, 40, 2000),
    "zip of pictures": (cases.zip_of_pictures, 300, 20_000),
    "arrays": (cases.arrays, 400, 25_000),
    "dynamics": (cases.measurements, 200, 10_000),
    "leaderboard": (cases.leaderboard, 100, 4000),
    "report": (cases.report, 60, 2500),
    "figures": (cases.figures, 100, 3000),
    "resume": (cases.resumed, 600, 12_000),
    "callbacks": (cases.judged, 300, 8000),
    "study file": (cases.study, 200, 6000),
    "study runs": (cases.children, 40, 1000),
}
SEED = os.environ.get("MSNGAN_FUZZ_SEED", "0")
SECONDS = 10  # for one input
MOST_GROWTH = 512  # MiB of memory that all inputs of a kind may leave more than there was


class TooSlow(BaseException):
    """An input took longer than SECONDS."""


def late(*_: object) -> None:
    raise TooSlow


def outcome(call: Callable[[], Any]) -> str:
    """ok, refused or failed; whatever else is raised is a defect, and is raised."""
    said, err = "", io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(err):
            warnings.simplefilter("ignore")
            result = call()
        code = result if isinstance(result, int) else 0
        said = err.getvalue().strip().splitlines()[-1] if code == 2 else "ok"
    except (UserError, Failure) as problem:
        said, code = str(problem), 2 if isinstance(problem, UserError) else 1
    except SystemExit as ending:
        said, code = "usage", int(ending.code or 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert said.strip(), "it says nothing"
    assert len(said) < 20_000, said[:200]
    return {0: "ok", 1: "failed", 2: "refused"}[code]


def memory() -> float:
    """The most that this process has held so far, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform != "darwin" else most / 2**20


def tried(kind: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The outcomes of `count` inputs. An input is known by its seed, which an error names."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # nobody pulls a plug here
    case, found, before = KINDS[kind][0](folder), Counter[str](), memory()
    for number in range(count):
        name = f"{kind}/{SEED}/{number}"
        call = case(random.Random(name))
        try:
            found[outcome(call)] += 1
        except BaseException as problem:
            problem.args = (f"input {name!r}: {problem!r}",)
            raise
        if number % 50 == 0 or number == count - 1:
            left = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
            assert not left, f"input {name!r} or one before it left {left}"
    assert memory() - before < MOST_GROWTH
    assert found["ok"], "nothing got past the first check"
    return found


def test_the_long_form_is_over_a_hundred_thousand():
    assert sum(count for _, _, count in KINDS.values()) >= 100_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_every_input_is_answered(kind, form, tmp_path, monkeypatch, capsys):
    start = time.monotonic()
    found = tried(kind, KINDS[kind][form], tmp_path, monkeypatch)
    if form == 2:
        with capsys.disabled():
            print(f"\n{kind}: {dict(found)}, {time.monotonic() - start:.0f} s")


FILES = {
    "mine.yaml": 'run: "a\\0b"\ndata: {root: "\\0"}\nsteps: "\\0"\n',
    "task.yaml": "task: [gan]\n",
    "config.yaml": "config: 3\n",
    "nonsense.yaml": "arms: {a: !!timestamp x}\n",
    "sets.yaml": "config: digits_msn\ngrid:\n  steps: [!!set {a, b}]\n",
    "deep.yaml": f"arms: {'[' * 3000}\n",
}


# What such inputs found once, and what each is answered now.
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fit", *TINY_CLASSIFIER, "--steps=1", "--model.lr=1e30"], 1, "diverged at step 1"),
        (["fit", *TINY, *QUIET, f"--model.latent_dim={2**63}"], 2, "is more than 1048576"),
        (["fit", "--seed=!!timestamp x"], 2, "--seed: '!!timestamp x' is not an int"),
        (["fit", "--config", "mine.yaml"], 2, "mine.yaml"),
        (["fit", "--config", "task.yaml"], 2, "task ['gan'] is not known"),
        (["fit", "--config", "config.yaml"], 2, "config.yaml"),
        (["study", "x" * 300], 2, "x"),
        (["study", "nonsense.yaml", "--list"], 2, "nonsense.yaml"),
        (["study", "sets.yaml", "--list"], 2, "is not supported"),
        (["study", "deep.yaml", "--list"], 2, "not valid YAML"),
    ],
    ids=lambda value: value[-1][:20] if isinstance(value, list) else "",
)
def test_what_was_found_stays_answered(arguments, code, words, run, capfd):
    for name, text in FILES.items():
        Path(name).write_text(text)
    assert run(*arguments) == code
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last
    assert words in last


@pytest.mark.parametrize("held", [b"", b"PK", b"x" * 200])
def test_a_zip_with_a_member_without_a_name_is_read(held, tmp_path):
    path = tmp_path / "pictures.zip"
    draw = random.Random(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", held)
        archive.filelist[0].filename = ""
        for name in ("a.png", "b.png"):
            archive.writestr(name, cases.picture_bytes(draw))
    assert outcome(lambda: load_folder(path, None, None) and None) in ("ok", "refused")


def test_a_curve_may_span_more_than_a_number_holds():
    axis = logarithmic([5e-324, 1e308])
    assert 0 < axis.low < axis.high
    assert 0 <= axis.fraction(1e308) <= 1


def test_dynamics_with_a_member_that_is_no_array_are_refused(tmp_path):
    path = tmp_path / "dynamics.npz"
    report_runs.write(path, report_runs.dynamics(1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other", b"x")
    with pytest.raises(ValueError, match="cannot be read as training dynamics"):
        dynamics.read(path)
