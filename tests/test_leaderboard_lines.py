from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from score_lines import FD, score_line, write_run

from msngan.runs.score_records import UNSAID, clean, find_runs, read_scores
from msngan.scores.protocol import ADDED, Protocol


def changed(path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """A sound line with one field, named by dots, changed, or taken out where value is ..."""
    line = json.loads(json.dumps(score_line(floors={FD: {"mean": 0.1, "kind": "estimated"}})))
    *parents, last = path.replace("FD", FD).split(".")
    inner = line
    for name in parents:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return line


BARE = ("precision", "recall", "density", "coverage")
NO_JSON = {
    "cut by a kill": '{"format": 1, "run": "x',
    "nested too deep": "[" * 100_000,
    "NaN": json.dumps(score_line(math.nan)),
    "NaN where no number is due": json.dumps(score_line(more=math.nan)),
    "infinity by size": json.dumps(score_line(more=1.0)).replace('"more": 1.0', '"more": 1e999'),
    "no object": "[1, 2]",
    "nested lists": json.dumps(score_line(more=0, protocol_id="deep")).replace(
        ": 0}", ": " + "[" * 99 + "]" * 99 + "}"
    ),
    "nested objects": json.dumps(score_line(more=0, protocol_id="deep")).replace(
        ": 0}", ": " + '{"a": ' * 99 + "0" + "}" * 100
    ),
}
MALFORMED = {
    **NO_JSON,
    "an integer beyond float": json.dumps(score_line(1)).replace(
        '"mean": 1,', f'"mean": {10**400},'
    ),
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
            *(("scores.fid", {"mean": 1.0, "sd": 0.1}), ("floors", 3), ("floors.FD.kind", 1)),
            *(("scores.FD.mean", 1e101), ("scores.FD.sd", 1e300), ("floors.FD.mean", -1e101)),
            *(("dimensions", value) for value in (0, -1, 1.5, "2048", True, None, [256])),
            *((f"scores.{name}", {"mean": 1.0}) for name in ("fid/x", "is/x", "kid/x")),
            *((f"scores.{name}", {"mean": 1.0}) for name in ("is", "kid", *BARE)),
        ]
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_left_out_with_one_warning_that_names_it(
    tmp_path: Path, name: str
) -> None:
    write_run(tmp_path, "run", score_line(1.0), MALFORMED[name], "", score_line(2.0, step=2000))
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert [entry.step for entry in entries] == [1000, 2000]
    assert len(warnings) == 1
    assert "scores.jsonl: line 2 " in warnings[0]
    assert ("not valid JSON" in warnings[0]) == (name in NO_JSON)
    assert "\n" not in warnings[0]
    assert len(warnings[0]) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("name", BARE)
def test_a_bare_neighbour_metric_is_the_official_network_s_and_a_named_one_anyone_s(
    tmp_path: Path, name: str
) -> None:
    score = {"mean": 0.5, "sd": 0.1}
    other = {"protocol_id": "c" * 12, "official_inception": True}
    lines = [score_line(scores={f"{name}/x": score}), score_line(scores={name: score}, **other)]
    write_run(tmp_path, "run", *lines)
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert ([list(entry.scores) for entry in entries], warnings) == ([[f"{name}/x"], [name]], [])


def test_a_line_may_say_its_features_and_its_seconds_and_an_old_one_need_not(
    tmp_path: Path,
) -> None:
    times = {"generator": 1.0, "extractor": 2.0, "scores": 0.1}
    lines = [score_line(), {**score_line(), "dimensions": 256}]
    lines += [{**line, "seconds": times} for line in lines]
    write_run(tmp_path, "run", *lines)
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert ([entry.dimensions for entry in entries], warnings) == ([None, 256, None, 256], [])


def test_lines_from_before_a_field_was_added_stand_with_those_that_have_it(tmp_path: Path) -> None:
    added = {name: getattr(Protocol, name) for name in ADDED}
    assert added == UNSAID
    old, new, other = (score_line(step=step) for step in (1, 2, 3))
    new["protocol"] |= added
    other["protocol"] |= added | {ADDED[0]: 7}
    write_run(tmp_path, "mine", old, new, other)
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert [entry.step for entry in entries] == [1, 2]
    (warning,) = warnings
    assert "its protocol_id means another protocol" in warning


def test_one_protocol_id_cannot_stand_for_two_protocols(tmp_path: Path) -> None:
    write_run(tmp_path, "a", score_line(1.0), score_line(1.5, name="other name", step=1500))
    write_run(tmp_path, "b", score_line(0.1, samples=50000))
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert [entry.run for entry in entries] == ["a", "a"]
    assert len(warnings) == 1
    assert "means another protocol" in warnings[0]


def test_an_unreadable_file_is_left_out_with_a_warning(tmp_path: Path) -> None:
    (write_run(tmp_path, "run") / "scores.jsonl").mkdir()
    entries, warnings = read_scores(find_runs([], tmp_path))
    assert entries == []
    assert len(warnings) == 1


def test_strings_lose_everything_unprintable_and_are_cut() -> None:
    assert clean({"a\x1b[31m\n": ["\u202eb\x00\ud800", 3]}) == {"a[31m": ["b", 3]}
    assert len(clean("x" * 10_000)) == 300
