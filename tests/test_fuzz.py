"""Any input is answered by a result or by one clear line; the long form tries over 100,000."""

from __future__ import annotations

import os
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_options
import fuzz_records
import pytest
import report_runs
from classifier_runs import TINY_CLASSIFIER
from conftest import QUIET, TINY
from fuzz_harness import many, outcome

from msngan.data.image_files import load_folder
from msngan.report.html.chart import logarithmic
from msngan.training import dynamics

# How many inputs of each kind: in CI, and in the long form.
KINDS: dict[str, tuple[Callable[[Path], Any], int, int]] = {
    "config": (fuzz_options.config, 40, 2500),
    "command line": (fuzz_options.command_line, 40, 2500),
    "training": (fuzz_options.training, 12, 600),
    "checkpoint": (fuzz_files.checkpoint, 300, 20_000),
    "sample": (fuzz_files.sampled, 40, 2000),
    "zip of pictures": (fuzz_files.zip_of_pictures, 300, 20_000),
    "arrays": (fuzz_files.arrays, 400, 25_000),
    "dynamics": (fuzz_files.measurements, 200, 10_000),
    "leaderboard": (fuzz_records.leaderboard, 100, 4000),
    "report": (fuzz_records.report, 60, 2500),
    "figures": (fuzz_records.figures, 100, 3000),
    "resume": (fuzz_records.resumed, 600, 12_000),
    "callbacks": (fuzz_records.judged, 300, 8000),
    "study file": (fuzz_records.study, 200, 6000),
    "study runs": (fuzz_records.children, 40, 1000),
}
SEED = os.environ.get("MSNGAN_FUZZ_SEED", "0")


def test_the_long_form_is_over_a_hundred_thousand() -> None:
    assert sum(count for _, _, count in KINDS.values()) >= 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_answered(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(kind, KINDS[kind][1], tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_many_inputs_is_answered(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    found = tried(kind, KINDS[kind][2], tmp_path, monkeypatch)
    with capsys.disabled():
        print(f"\n{kind}: {dict(found)}, {time.monotonic() - start:.0f} s")


def tried(kind: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # nobody pulls a plug here
    case = KINDS[kind][0](folder)
    found = many(case, count, folder, f"{kind}/{SEED}")
    assert found["ok"], "nothing got past the first check"
    return found


# What was found by such inputs once, and what each is answered now.
FOUND = {
    "a learning rate at which the first update is the last": (
        ["fit", *TINY_CLASSIFIER, "--steps", "1", "--model.lr=1e30"],
        1,
        "diverged at step 1",
    ),
    "a size that torch cannot hold": (
        ["fit", *TINY, *QUIET, f"--model.latent_dim={2**63}"],
        2,
        "is more than 1048576",
    ),
    "a tag that the value is not of": (
        ["fit", "--seed=!!timestamp x"],
        2,
        "--seed: '!!timestamp x' is not an int",
    ),
    "a NUL": (["fit", "--config", "mine.yaml"], 2, "mine.yaml"),
    "a task that is a list": (["fit", "--config", "task.yaml"], 2, "task ['gan'] is not known"),
    "a config in a config": (["fit", "--config", "config.yaml"], 2, "config.yaml"),
    "a name too long for a file": (["study", "x" * 300], 2, "x"),
    "a study of nonsense": (["study", "nonsense.yaml", "--list"], 2, "nonsense.yaml"),
    "a study of sets": (["study", "sets.yaml", "--list"], 2, "is not supported"),
    "a study nested too deep": (["study", "deep.yaml", "--list"], 2, "not valid YAML"),
}
FILES = {
    "mine.yaml": 'run: "a\\0b"\ndata: {root: "\\0"}\nsteps: "\\0"\n',
    "task.yaml": "task: [gan]\n",
    "config.yaml": "config: 3\n",
    "nonsense.yaml": "arms: {a: !!timestamp x}\n",
    "sets.yaml": "config: digits_msn\ngrid:\n  steps: [!!set {a, b}]\n",
    "deep.yaml": f"arms: {'[' * 3000}\n",
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_answered(
    what: str, run: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, code, words = FOUND[what]
    for name, text in FILES.items():
        Path(name).write_text(text)
    assert run(*arguments) == code
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last
    assert words in last


@pytest.mark.parametrize("held", [b"", b"PK", b"x" * 200])
def test_a_zip_with_a_member_without_a_name_is_read(held: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    draw = random.Random(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", held)
        archive.filelist[0].filename = ""
        for name in ("a.png", "b.png"):
            archive.writestr(name, fuzz_files.picture_bytes(draw))
    assert outcome(lambda: load_folder(path, None, None) and None) in ("ok", "refused")


def test_a_curve_may_span_more_than_a_number_holds() -> None:
    axis = logarithmic([5e-324, 1e308])
    assert 0 < axis.low < axis.high
    assert 0 <= axis.fraction(1e308) <= 1


def test_dynamics_with_a_member_that_is_no_array_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.npz"
    report_runs.write(path, report_runs.dynamics(1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other", b"x")
    with pytest.raises(ValueError, match="cannot be read as training dynamics"):
        dynamics.read(path)
