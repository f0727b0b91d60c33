"""A line of scores.jsonl is used only if it is sound, and says so if it is not."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from score_lines import FD, score_line, write_run

from msngan.runs.safe_read import clean
from msngan.runs.score_records import UNSAID, Entry, find_runs, read_scores
from msngan.scores.protocol import ADDED, Protocol


def changed(path: str, value: Any) -> dict[str, Any]:
    """A sound line with one field, named by dots, changed, or taken out where value is ..."""
    line = copy.deepcopy(score_line(floors={FD: {"mean": 0.1, "kind": "estimated"}}))
    *parents, last = path.replace("FD", FD).split(".")
    inner = line
    for name in parents:
        inner = inner[name]
    inner[last] = value
    if value is ...:
        del inner[last]
    return line


def deep(value: str) -> str:
    return json.dumps(score_line(more=0, protocol_id="deep")).replace(": 0}", f": {value}}}")


BARE = ("precision", "recall", "density", "coverage")
NO_JSON = {
    "cut in the middle": '{"format": 1, "run": "x',
    "not an object": "[1, 2]",
    "nested too deep": "[" * 100_000,
    "nested lists": deep("[" * 99 + "]" * 99),
    "nested objects": deep('{"a": ' * 99 + "0" + "}" * 99),
    "NaN": json.dumps(score_line(math.nan)),
    "NaN where no number is due": json.dumps(score_line(more=math.nan)),
    "infinity by size": deep("1e999"),
    "a key twice": deep('{"a": 1, "a": 2}'),
    "too long": deep(f'"{"x" * 2**20}"'),
}
MALFORMED = {
    **NO_JSON,
    "an integer beyond float": json.dumps(score_line(1)).replace('mean": 1,', f'mean": {10**400},'),
    **{
        f"{path}={value!r}": changed(path, value)
        for path, value in [
            *((name, ...) for name in ("format", "config", "step", "weights", "protocol")),
            *((name, ...) for name in ("protocol_id", "scores", "protocol.name")),
            *(("format", 2), ("config", 3), ("step", "9"), ("step", True), ("step", -1)),
            *(("step", 1.5), ("weights", "swa"), ("protocol", []), ("protocol_id", "")),
            *(("protocol.runs", 0), ("protocol.samples", "2000"), ("protocol.dataset", None)),
            *(("protocol.official_inception", "no"), ("scores", {}), ("scores", [1])),
            *(("scores.FD", 3.0), ("scores.FD.mean", ...), ("scores.FD.mean", "3")),
            *(("scores.FD.sd", -1), ("scores.FD.values", [1, None]), ("scores.FD.mean", True)),
            *(("floors", 3), ("floors.FD.kind", 1), ("floors.FD.mean", -1e101)),
            *(("scores.FD.mean", 1e101), ("scores.FD.sd", 1e300)),
            *(("dimensions", value) for value in (0, 1.5, "2048", True, None)),
            *((f"scores.{name}", {"mean": 1.0}) for name in ("fid", "fid/x", "is/x", "kid")),
            *((f"scores.{name}", {"mean": 1.0}) for name in BARE),
        ]
    },
}


def read(root: Path) -> tuple[list[Entry], list[str]]:
    return read_scores(find_runs([], root))


@pytest.mark.quick
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_skipped_with_one_warning_that_names_it(tmp_path, name):
    write_run(tmp_path, "run", score_line(1.0), MALFORMED[name], "", score_line(2.0, step=2000))
    entries, (warning,) = read(tmp_path)
    assert [entry.step for entry in entries] == [1000, 2000]
    assert "scores.jsonl: line 2 " in warning
    assert ("is not valid JSON and was skipped" in warning) == (name in NO_JSON)
    assert "\n" not in warning
    assert len(warning) < len(str(tmp_path)) + 200


def test_metrics_of_any_extractor_and_old_and_new_fields_are_read(tmp_path):
    official = {"protocol_id": "c" * 12, "official_inception": True}
    lines: list[dict[str, Any]] = []
    for name in BARE:  # a bare name is the official network's, a named one anyone's
        scores = {f"{name}/x": {"mean": 0.5}}, {name: {"mean": 0.5}}
        lines += [score_line(scores=scores[0]), score_line(scores=scores[1], **official)]
    lines.append({**score_line(), "dimensions": 256, "seconds": {"generator": 1.0}})
    write_run(tmp_path, "run", *lines)
    entries, warnings = read(tmp_path)
    assert warnings == []
    found = [name for entry in entries[:-1] for name in entry.scores]
    assert found == [each for name in BARE for each in (f"{name}/x", name)]
    assert [entries[0].dimensions, entries[-1].dimensions] == [None, 256]


def test_one_protocol_id_cannot_stand_for_two_protocols(tmp_path):
    write_run(tmp_path, "a", score_line(1.0), score_line(1.5, name="other name", step=1500))
    write_run(tmp_path, "b", score_line(0.1, samples=50000))
    added = {name: getattr(Protocol, name) for name in ADDED}
    assert added == UNSAID
    lines = [score_line(step=step, protocol_id="added") for step in (1, 2, 3)]
    lines[1]["protocol"] |= added  # what older lines lack
    lines[2]["protocol"] |= added | {ADDED[0]: 7}
    write_run(tmp_path, "c", *lines)
    entries, warnings = read(tmp_path)
    assert [entry.run for entry in entries] == ["a", "a", "c", "c"]
    assert [warning.count("means another protocol") for warning in warnings] == [1, 1]


def test_an_unreadable_file_is_a_warning_and_a_line_that_a_kill_has_cut_is_none(tmp_path):
    (write_run(tmp_path, "run") / "scores.jsonl").mkdir()
    path = write_run(tmp_path, "cut", score_line()) / "scores.jsonl"
    path.write_text(path.read_text() + '{"format": 1, "ru')
    entries, (warning,) = read(tmp_path)
    assert [entry.run for entry in entries] == ["cut"]
    assert "run/scores.jsonl was skipped: it is a folder" in warning


def test_strings_lose_everything_unprintable_and_are_cut():
    assert clean({"a\x1b[31m\n": ["\u202eb\x00\ud800", 3]}) == {"a[31m": ["b", 3]}
    assert len(clean("x" * 10_000)) == 300
