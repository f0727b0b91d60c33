"""A damaged line of a record costs itself alone, is named, and survives a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import QUIET, TINY, TINY_CLASSIFIER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msngan.runs.jsonl import LONGEST, keep_until, newest, read_lines, read_thinned

LINES = [b'{"step": 1}', b'{"step": 2', b'{"step": 3}', b"", b"[4]", b'{"step": "x"}']
LINES += [b'{"step": 6}']
ONCE = [HealthCheck.function_scoped_fixture]  # tmp_path is the same for all examples
SKIPPED = "is not valid JSON and was skipped"


@pytest.mark.quick
def test_damaged_lines_are_named_once_and_kept_and_a_cut_last_one_is_not(tmp_path, capfd):
    path = tmp_path / "scores.jsonl"
    long = b'{"step": "' + b"x" * LONGEST + b'"}'
    path.write_bytes(b"\n".join([*LINES, long]) + b'\n{"step": 7, "cut')
    assert [line["step"] for line in read_lines(path)] == [1, 3, "x", 6]
    shown = capfd.readouterr().err.splitlines()
    assert shown == [f"msngan: warning: {path}: line {n} {SKIPPED}" for n in (2, 5, 8)]
    keep_until(path, 3)
    read_lines(path)
    kept = [LINES[0], LINES[1], LINES[2], LINES[4], LINES[5], long]
    assert path.read_bytes() == b"\n".join(kept) + b"\n"
    assert len(capfd.readouterr().err.splitlines()) == 3  # they stand at other numbers now
    read_lines(path)
    assert not capfd.readouterr().err
    many = tmp_path / "many.jsonl"
    many.write_text("x\n" * 25)
    assert read_lines(many) == []
    shown = capfd.readouterr().err.splitlines()
    assert len(shown) == 11
    assert shown[-1] == f"msngan: warning: {many}: 15 more lines were skipped"


def test_a_long_file_is_thinned_evenly_and_the_newest_is_its_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert (read_thinned(path, 10).records, newest(path)) == ([], {})
    lines = [json.dumps({"step": step}) for step in range(1, 43)]
    path.write_text("\n".join([*lines, "x", '{"step": 43, "cut']))
    found = read_thinned(path, 10)
    assert [each["step"] for each in found.records] == [1, 9, 17, 25, 33, 41]
    assert (found.every, found.total, found.note) == (8, 44, "1 line in 8 is read, of 44")
    assert newest(path) == {"step": 42}
    path.write_text("\n".join(["x", *lines, "[]", ""]))
    found = read_thinned(path, None)
    assert (len(found.records), found.damaged) == (42, (1, 44))
    assert found.note == "line 1 and 1 more are not valid JSON and were skipped"


@given(st.lists(st.binary(max_size=12) | st.sampled_from(LINES), max_size=8), st.integers(-1, 8))
@settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=ONCE
)
def test_only_later_records_and_a_cut_line_are_ever_dropped(tmp_path, lines, step):
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


def test_a_resumed_run_goes_on_beside_damaged_lines_of_every_record(run, capfd):
    options = [*TINY, "--scores.extractor", "embedded", "--scores.samples", "16"]
    options += ["--scores.runs", "2", "--scores.every", "2", "--records.every", "2"]
    options += [*QUIET[2:], "--health.every", "2"]
    assert run("fit", *options, "--steps", "4", "--run", "mine") == 0
    paths = [Path(f"checkpoints/mine/{name}.jsonl") for name in ("scores", "metrics", "health")]
    for path in paths:
        first, rest = path.read_bytes().split(b"\n", 1)
        path.write_bytes(first + b'\n{"step": 2, "sco\n' + rest)
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "6") == 0
    shown = capfd.readouterr().err
    for path in paths:
        assert f"{path.name}: line 2 {SKIPPED}" in shown
        lines = path.read_bytes().splitlines()
        assert lines[1] == b'{"step": 2, "sco'
        assert [json.loads(line)["step"] for line in [lines[0], *lines[2:]]] == [2, 4, 6]
    assert run("leaderboard", "--format", "json") == 0
    assert f"scores.jsonl: line 2 {SKIPPED}" in capfd.readouterr().err


def test_a_classifier_goes_on_beside_strange_accuracies_and_environment(run):
    assert run("fit", *TINY_CLASSIFIER, "--run", "mine", "--epochs", "1") == 0
    path = Path("checkpoints/mine/accuracy.jsonl")
    odd = '{"step": 3, "validation_accuracy": "high"}\n{"step": null, "test_accuracy": []}\n'
    path.write_text(odd + path.read_text())
    path.with_name("environment.json").write_text('{"threads": 1')
    assert run("resume", "mine", "--epochs", "2") == 0
    assert path.read_text().startswith(odd)
