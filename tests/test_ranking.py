"""Runs are ranked within one protocol, by one metric, at one step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from score_lines import CS, FD, official, score_line, write_run

from msngan.leaderboard.ranking import Block, By, blocks, describe, hollow_note, select, tied
from msngan.runs.folder import UserError
from msngan.runs.score_records import BETTER, Score, find_runs, read_scores
from msngan.scores.distances import neighbours

pytestmark = pytest.mark.quick


def board(root: Path, metric: str | None = None, by: By = "last") -> list[Block]:
    entries, warnings = read_scores(find_runs([], root))
    assert warnings == []
    return blocks(entries, metric, by)


def order(block: Block) -> list[str]:
    return [row.run for row in block.rows]


def test_two_protocols_are_never_sorted_together(tmp_path):
    large = {"protocol_id": "cccc00000000", "samples": 50000}
    write_run(tmp_path, "one", score_line(1.0), score_line(9.0, **large))
    write_run(tmp_path, "two", score_line(2.0), score_line(8.0, **large))
    write_run(tmp_path, "three", official(0.5))
    found = {block.protocol_id: order(block) for block in board(tmp_path)}
    assert found == {
        "aaaa00000000": ["one", "two"],
        "cccc00000000": ["two", "one"],
        "bbbb00000000": ["three"],
    }


@pytest.mark.parametrize("family", sorted(BETTER))
def test_the_better_value_ranks_first_and_is_the_best_step(tmp_path, family):
    for name, mean in (("low", 1.0), ("high", 2.0)):
        scores = [
            (step, {family: {"mean": value, "sd": 0.01}}) for step, value in ((5, 1.5), (9, mean))
        ]
        lines = [
            score_line(step=step, official_inception=True, scores=each) for step, each in scores
        ]
        write_run(tmp_path, name, *lines)
    (block,) = board(tmp_path)
    low_first = family.removeprefix("intra-") in ("fid", "fd", "kid", "kd")
    assert order(block) == (["low", "high"] if low_first else ["high", "low"])
    assert [row.rank for row in block.rows] == [1, 2]
    assert [row.best[family].step for row in block.rows] == [9, 5]


def test_a_metric_of_unknown_direction_is_listed_but_neither_ranked_nor_best(tmp_path):
    for name, mean in (("b", 1.0), ("a", 2.0), ("c", 0.0)):
        write_run(tmp_path, name, score_line(scores={"novelty": {"mean": mean, "sd": 0.1}}))
    (block,) = board(tmp_path, "novelty")
    assert order(block) == ["a", "b", "c"]
    assert {(row.rank, row.tie, len(row.best)) for row in block.rows} == {(None, None, 0)}
    assert block.rows[0].last["novelty"].mean == 2.0


def test_last_is_the_largest_step_alone_and_of_equal_steps_the_latest_line(tmp_path):
    curve = ((300, 1.0), (200, 5.0), (300, 8.0), (100, 6.0))
    both = {FD: {"mean": 7.0, "sd": 0.1}, CS: {"mean": 2.0, "sd": 0.1}}
    lines = [score_line(fd, step=step) for step, fd in curve]
    write_run(tmp_path, "run", *lines, score_line(scores=both, step=150))
    (row,) = board(tmp_path)[0].rows
    assert {name: (score.step, score.mean) for name, score in row.last.items()} == {FD: (300, 8.0)}
    assert (row.best[FD].step, row.best[FD].mean) == (200, 5.0)  # a replaced line is not the best
    assert row.best[CS].step == 150


def test_runs_are_ranked_by_the_last_step_or_if_asked_by_the_best_and_ties_are_said(tmp_path):
    write_run(tmp_path, "collapsed", score_line(1.0), score_line(50.0, step=2000))
    write_run(tmp_path, "steady", score_line(3.0), score_line(2.0, step=2000))
    write_run(tmp_path, "tied", score_line(3.1), score_line(2.2, step=2000))
    (block,) = board(tmp_path)
    assert order(block) == ["steady", "tied", "collapsed"]
    assert [row.tie for row in block.rows] == [None, True, False]
    assert order(board(tmp_path, by="best")[0]) == ["collapsed", "steady", "tied"]


def test_rows_are_runs_and_kinds_of_weights_named_after_their_folder(tmp_path):
    write_run(tmp_path, "folder", score_line(2.0, weights="raw"), score_line(1.0, weights="ema"))
    write_run(tmp_path, "bare")
    (block,) = board(tmp_path)
    assert [(row.run, row.weights) for row in block.rows] == [("folder", "ema"), ("folder", "raw")]
    assert [run.name for run in find_runs([], tmp_path)] == ["bare", "folder"]
    with pytest.raises(UserError, match="no run 'foldr'.*did you mean 'folder'"):
        find_runs(["foldr"], tmp_path)


def test_a_failed_last_score_stands_last_with_its_reason_and_keeps_its_best(tmp_path):
    write_run(tmp_path, "broken", score_line(0.5), score_line(None, step=2000))
    write_run(tmp_path, "never", score_line(None))
    write_run(tmp_path, "sound", score_line(99.0))
    (block,) = board(tmp_path)
    assert order(block) == ["sound", "broken", "never"]
    assert [row.rank for row in block.rows] == [1, None, None]
    assert block.rows[1].last[FD].reason == "NaN images"
    assert block.rows[1].best[FD].mean == 0.5
    assert block.rows[2].best == {}


def score(mean: float | None, sd: float | None, runs: int = 5) -> Score:
    return Score(1, mean, sd, runs, (), None, None, None)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # sd 0.3 and 0.4 over 5: 2 sqrt((0.09 + 0.16) / 5) = 0.4472136
        (score(10.0, 0.3), score(10.447, 0.4), True),
        (score(10.448, 0.4), score(10.0, 0.3), False),
        # over 1 and 4: 2 sqrt(0.09 + 0.04) = 0.7211103
        (score(10.0, 0.3, 1), score(10.721, 0.4, 4), True),
        (score(10.0, 0.3, 1), score(10.722, 0.4, 4), False),
        (score(10.0, 0.0), score(10.0, 0.0), True),
        (score(10.0, None), score(10.0, None), True),
        (score(10.0, None), score(11.0, 0.1), None),
        (score(None, None), score(11.0, 0.1), None),
    ],
)
def test_a_tie_is_a_difference_below_two_standard_errors(one, other, expected):
    assert tied(one, other) is expected


def test_a_row_counts_the_sample_sets_and_a_block_prefers_measured_floors(tmp_path):
    values = {FD: {"mean": 2.0, "sd": 0.1, "values": [1.9, 2.0, 2.1]}, CS: {"mean": 1.0}}
    lines = [
        score_line(step=step, scores=values, floors={FD: {"mean": step / 10, "kind": kind}})
        for step, kind in enumerate(("estimated", "real-vs-real", "estimated"))
    ]
    write_run(tmp_path, "run", *lines)
    (block,) = board(tmp_path)
    last, floor = block.rows[0].last, block.floors[FD]
    assert (last[FD].runs, last[CS].runs) == (3, 5)  # of the values, else the protocol's
    assert (floor.mean, floor.kind) == (0.1, "real-vs-real")


def test_a_metric_is_named_whole_or_by_family_and_blocks_without_it_are_left_out(tmp_path):
    both = {FD: {"mean": 1.0, "sd": 0.1}, CS: {"mean": 2.0, "sd": 0.1}}
    write_run(tmp_path, "run", score_line(scores=both), official(3.0))
    assert [block.metric for block in board(tmp_path)] == [FD, "fid"]
    assert [block.metric for block in board(tmp_path, CS)] == [CS]
    assert [block.metrics for block in board(tmp_path, "cs")] == [[CS, FD]]
    with pytest.raises(UserError, match="--metric 'fidd'.*did you mean 'fid'"):
        board(tmp_path, "fidd")


def test_entries_are_selected_by_data_set_and_by_protocol(tmp_path):
    other = score_line(protocol_id="dddd00000000", dataset="digits", name="50k")
    write_run(tmp_path, "run", score_line(), other)
    entries, _ = read_scores(find_runs([], tmp_path))
    for wanted in (("digits", None), (None, "50k"), (None, "dddd00000000"), (None, "dddd")):
        assert [each.protocol_id for each in select(entries, *wanted)] == ["dddd00000000"]
    with pytest.raises(UserError, match="--dataset 'digit' .*'digits'"):
        select(entries, "digit", None)
    with pytest.raises(UserError, match="--protocol 'ddd' "):
        select(entries, None, "ddd")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{**score_line(samples=256), "dimensions": 256}], None),
        (
            [{**score_line(samples=256), "dimensions": 257}],
            "256 samples a run are fewer than the 257 features: the cov",
        ),
        (
            [{**score_line(), "dimensions": 2048}],
            "2,000 samples a run are fewer than the 2,048 features: ",
        ),
        ([score_line(samples=10)], None),  # the number of features is not guessed
        ([{**score_line(scores={CS: {"mean": 2.0}}), "dimensions": 4096}], None),
    ],
)
def test_fewer_samples_than_features_are_said_to_bias_the_frechet_distance(tmp_path, lines, said):
    write_run(tmp_path, "run", *lines)
    (block,) = board(tmp_path)
    warnings = [line for line in describe(block) if "features" in line]
    assert len(warnings) == (said is not None)
    assert all(warning.startswith(said or "") for warning in warnings)


def test_a_precision_that_one_real_image_gives_is_said(tmp_path):
    draw = torch.Generator().manual_seed(0)
    real, good = torch.randn(2, 500, 8, generator=draw).double()
    far = real.norm(dim=1).argmax()  # of the most remote image, whose ball is the largest
    alike = real[far] + 0.1 * torch.randn(500, 8, generator=draw).double()
    given = {"alike": alike, "good": good, "elsewhere": good + 50}
    for name, samples in given.items():
        found = neighbours(real, samples)
        note = hollow_note({f"{each}/x": value for each, value in found.items()})
        assert (note is not None) == (name == "alike"), found
        scores = {each: {"mean": value, "sd": 0.0} for each, value in found.items()}
        write_run(tmp_path, name, score_line(official_inception=True, scores=scores))
    (block,) = board(tmp_path, "precision")
    said = [line for line in describe(block) if "near a few real images" in line]
    assert [line.partition(":")[0] for line in said] == ["alike"]
    assert said[0].startswith("alike: precision 1 with coverage 0.0")
    assert "so this precision says little; trust the coverage" in said[0]


def test_the_columns_stand_in_one_order(tmp_path):
    families = [each for each in ("z", *sorted(BETTER)) if each not in ("fid", "is", "intra-fid")]
    names = [*(f"{family}/x" for family in families), "coverage", "precision"]
    scores = {name: {"mean": 1.0, "sd": 0.1} for name in names}
    write_run(tmp_path, "run", score_line(scores=scores, official_inception=True))
    shown = [name.split("/")[0] for name in board(tmp_path)[0].metrics]
    expected = ["fd", "cs", "kid", "kd", "precision", "precision", "recall", "density"]
    assert shown == [*expected, "coverage", "coverage", "agreement", "intra-fd", "z"]
