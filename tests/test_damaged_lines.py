"""A damaged line of a record costs itself alone, is named, and survives a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import report_runs
from classifier_runs import TINY_CLASSIFIER
from conftest import QUIET, TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msngan.runs.jsonl import keep_until, read_lines
from msngan.runs.safe_read import object_or_empty

Run = Callable[..., int]
LINES = [
    b'{"step": 1}',
    b'{"step": 2',
    b'{"step": 3}',
    b"",
    b"[4]",
    b'{"step": "x"}',
    b'{"step": 6}',
]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "scores.jsonl"
    path.write_bytes(b"\n".join(LINES) + b'\n{"step": 7, "cut')
    return path


def test_damaged_lines_are_named_once_and_a_cut_last_one_is_not(
    record: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [line["step"] for line in read_lines(record)] == [1, 3, "x", 6]
    shown = capfd.readouterr().err.splitlines()
    assert shown == [
        f"msngan: warning: {record}: line {number} is not valid JSON and was skipped"
        for number in (2, 5)
    ]
    read_lines(record)
    assert not capfd.readouterr().err


def test_many_damaged_lines_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text("x\n" * 25)
    assert read_lines(path) == []
    shown = capfd.readouterr().err.splitlines()
    assert len(shown) == 11
    assert shown[-1] == f"msngan: warning: {path}: 15 more lines were skipped"


def test_a_resume_keeps_what_it_cannot_read_as_it_is(
    record: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep_until(record, 3)
    assert record.read_bytes().split(b"\n") == [
        *(LINES[0], LINES[1], LINES[2], LINES[4], LINES[5]),
        b"",
    ]
    assert "line 2 is not valid JSON and was skipped" in capfd.readouterr().err


@given(st.lists(st.binary(max_size=12) | st.sampled_from(LINES), max_size=8), st.integers(-1, 8))
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_only_later_records_and_a_cut_line_are_ever_dropped(
    tmp_path: Path, lines: list[bytes], step: int
) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    *whole, last = b"\n".join(lines).split(b"\n")
    dropped = [b'{"step": %d}' % number for number in (1, 3, 6) if number > step]
    kept = [line for line in whole if line.strip() and line not in dropped]
    if last in LINES and last.endswith(b"}") and last not in dropped:
        kept.append(last)
    keep_until(path, step)
    found = [line for line in path.read_bytes().split(b"\n") if line]
    assert found[: len(kept)] == kept


def test_a_resumed_run_goes_on_beside_a_damaged_line(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of every record; the lines after it are as without it."""
    options = [*TINY, "--scores.extractor", "embedded", "--scores.samples", "16"]
    options += ["--scores.runs", "2", "--scores.every", "2", "--records.every", "2"]
    options += [*QUIET[2:], "--health.every", "2"]
    assert run("fit", *options, "--steps", "4", "--run", "mine") == 0
    folder = Path("checkpoints/mine")
    for name in ("scores", "metrics", "health"):
        path = folder / f"{name}.jsonl"
        first, rest = path.read_bytes().split(b"\n", 1)
        path.write_bytes(first + b'\n{"step": 2, "sco\n' + rest)
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "6") == 0
    shown = capfd.readouterr().err
    for name in ("scores", "metrics", "health"):
        assert f"{name}.jsonl: line 2 is not valid JSON and was skipped" in shown
        lines = (folder / f"{name}.jsonl").read_bytes().splitlines()
        assert lines[1] == b'{"step": 2, "sco'
        assert [json.loads(line)["step"] for line in [lines[0], *lines[2:]]] == [2, 4, 6]
    assert run("leaderboard", "--format", "json") == 0
    assert "scores.jsonl: line 2 is not valid JSON and was skipped" in capfd.readouterr().err


def test_a_report_names_the_line(run: Run, tmp_path: Path) -> None:
    folder = report_runs.classifier(tmp_path)
    path = folder / "accuracy.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"format"', b"{format", 1))
    assert run("report", "c") == 0
    page = (folder / "report.html").read_text()
    assert "accuracy.jsonl: line 1 is not valid JSON and was skipped" in page


def test_a_classifier_goes_on_beside_strange_accuracies_and_environment(run: Run) -> None:
    one = ["fit", *TINY_CLASSIFIER, "--run", "mine"]
    assert run(*one, "--epochs", "1") == 0
    folder = Path("checkpoints/mine")
    path = folder / "accuracy.jsonl"
    odd = '{"step": 3, "validation_accuracy": "high"}\n{"step": null, "test_accuracy": []}\n'
    path.write_text(odd + path.read_text())
    (folder / "environment.json").write_text('{"threads": 1')
    assert object_or_empty(folder / "environment.json") == {}
    assert run("resume", "mine", "--epochs", "2") == 0
    assert path.read_text().startswith(odd)
