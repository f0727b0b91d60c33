"""Any input is answered by a result or by one clear line; the long form tries over 100,000."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_options
import fuzz_records
import pytest
from fuzz_harness import many

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
