from __future__ import annotations

from pathlib import Path

import pytest
from score_lines import CS, FD, official, score_line, write_run

from msngan.leaderboard.ranking import BETTER, Block, By, blocks, describe, select, tied
from msngan.runs.folder import UserError
from msngan.runs.score_records import Score, find_runs, read_scores


def board(root: Path, metric: str | None = None, by: By = "last") -> list[Block]:
    entries, warnings = read_scores(find_runs([], root))
    assert warnings == []
    return blocks(entries, metric, by)


def order(block: Block) -> list[str]:
    return [row.run for row in block.rows]


def test_two_protocols_are_never_sorted_together(tmp_path: Path) -> None:
    small = {"protocol_id": "aaaa00000000"}
    large = {"protocol_id": "cccc00000000", "samples": 50000}
    write_run(tmp_path, "one", score_line(1.0, **small), score_line(9.0, **large))
    write_run(tmp_path, "two", score_line(2.0, **small), score_line(8.0, **large))
    write_run(tmp_path, "three", official(0.5))
    found = {block.protocol_id: block for block in board(tmp_path)}
    assert order(found["aaaa00000000"]) == ["one", "two"]
    assert order(found["cccc00000000"]) == ["two", "one"]
    assert order(found["bbbb00000000"]) == ["three"]


@pytest.mark.parametrize("family", sorted(BETTER))
def test_the_better_value_ranks_first_and_is_the_best_step(tmp_path: Path, family: str) -> None:
    low_first = family in ("fid", "fd", "kid", "kd")
    for name, mean in (("low", 1.0), ("high", 2.0)):
        line = score_line(official_inception=True, scores={family: {"mean": mean, "sd": 0.01}})
        early = score_line(
            step=5, official_inception=True, scores={family: {"mean": 1.5, "sd": 0.01}}
        )
        write_run(tmp_path, name, early, line)
    (block,) = board(tmp_path)
    assert order(block) == (["low", "high"] if low_first else ["high", "low"])
    assert [row.rank for row in block.rows] == [1, 2]
    assert block.rows[0].best[family].step == 1000
    assert block.rows[1].best[family].step == 5


def test_a_metric_of_unknown_direction_is_listed_but_neither_ranked_nor_best(
    tmp_path: Path,
) -> None:
    for name, mean in (("b", 1.0), ("a", 2.0), ("c", 0.0)):
        write_run(tmp_path, name, score_line(scores={"novelty": {"mean": mean, "sd": 0.1}}))
    (block,) = board(tmp_path, "novelty")
    assert order(block) == ["a", "b", "c"]
    assert {(row.rank, row.tie, len(row.best)) for row in block.rows} == {(None, None, 0)}
    assert block.rows[0].last["novelty"].mean == 2.0


def test_last_is_the_largest_step_and_of_equal_steps_the_latest_line(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "run",
        score_line(7.0, step=300),
        score_line(5.0, step=200),
        score_line(8.0, step=300),
        score_line(6.0, step=100),
    )
    (row,) = board(tmp_path)[0].rows
    assert (row.last[FD].step, row.last[FD].mean) == (300, 8.0)
    assert (row.best[FD].step, row.best[FD].mean) == (200, 5.0)


def test_a_row_shows_the_scores_of_one_step_only(tmp_path: Path) -> None:
    early = {FD: {"mean": 5.0, "sd": 0.1}, CS: {"mean": 2.0, "sd": 0.1}}
    late = {FD: {"mean": 1.0, "sd": 0.1}}
    write_run(
        tmp_path, "run", score_line(scores=early, step=100), score_line(scores=late, step=900)
    )
    (row,) = board(tmp_path)[0].rows
    assert {name: (score.step, score.mean) for name, score in row.last.items()} == {FD: (900, 1.0)}
    assert row.best[CS].step == 100


def test_a_replaced_line_cannot_be_the_best(tmp_path: Path) -> None:
    write_run(tmp_path, "run", score_line(1.0), score_line(3.0), score_line(4.0, step=2000))
    assert board(tmp_path)[0].rows[0].best[FD].mean == 3.0


def test_runs_are_ranked_by_the_last_step_or_if_asked_by_the_best(tmp_path: Path) -> None:
    write_run(tmp_path, "collapsed", score_line(1.0), score_line(50.0, step=2000))
    write_run(tmp_path, "steady", score_line(3.0), score_line(2.0, step=2000))
    assert order(board(tmp_path)[0]) == ["steady", "collapsed"]
    assert order(board(tmp_path, by="best")[0]) == ["collapsed", "steady"]


def test_raw_and_averaged_weights_are_two_rows(tmp_path: Path) -> None:
    write_run(tmp_path, "run", score_line(2.0, weights="raw"), score_line(1.0, weights="ema"))
    (block,) = board(tmp_path)
    assert [(row.run, row.weights) for row in block.rows] == [("run", "ema"), ("run", "raw")]


def test_a_failed_last_score_stands_last_with_its_reason_and_keeps_its_best(tmp_path: Path) -> None:
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
        (score(10.0, 0.3), score(10.448, 0.4), False),
        (score(10.447, 0.4), score(10.0, 0.3), True),
        # over 1 and 4: 2 sqrt(0.09 + 0.04) = 0.7211103
        (score(10.0, 0.3, 1), score(10.721, 0.4, 4), True),
        (score(10.0, 0.3, 1), score(10.722, 0.4, 4), False),
        (score(10.0, 0.0), score(10.0, 0.0), True),
        (score(10.0, None), score(10.0, None), True),
        (score(10.0, None), score(11.0, 0.1), None),
        (score(None, None), score(11.0, 0.1), None),
    ],
)
def test_a_tie_is_a_difference_below_two_standard_errors(
    one: Score, other: Score, expected: bool | None
) -> None:
    assert tied(one, other) is expected


def test_a_row_says_whether_it_is_tied_with_the_row_above(tmp_path: Path) -> None:
    for name, fd in (("a", 10.0), ("b", 10.2), ("c", 11.0)):
        write_run(tmp_path, name, score_line(fd, sd=0.2))
    assert [row.tie for row in board(tmp_path)[0].rows] == [None, True, False]


def test_the_number_of_drawings_is_that_of_the_values_else_the_protocol_s(tmp_path: Path) -> None:
    values = {"mean": 2.0, "sd": 0.1, "values": [1.9, 2.0, 2.1]}
    write_run(tmp_path, "run", score_line(scores={FD: values, CS: {"mean": 1.0, "sd": 0.1}}))
    last = board(tmp_path)[0].rows[0].last
    assert (last[FD].runs, last[CS].runs) == (3, 5)


def test_a_measured_floor_is_never_replaced_by_an_estimate(tmp_path: Path) -> None:
    kinds = ("estimated", "real-vs-real", "estimated")
    lines = [
        score_line(step=step, floors={FD: {"mean": step / 10, "kind": kind}})
        for step, kind in enumerate(kinds)
    ]
    write_run(tmp_path, "run", *lines)
    floor = board(tmp_path)[0].floors[FD]
    assert (floor.mean, floor.kind) == (0.1, "real-vs-real")


def test_a_metric_is_named_whole_or_by_family_and_blocks_without_it_are_left_out(
    tmp_path: Path,
) -> None:
    both = {FD: {"mean": 1.0, "sd": 0.1}, CS: {"mean": 2.0, "sd": 0.1}}
    write_run(tmp_path, "run", score_line(scores=both), official(3.0))
    assert [block.metric for block in board(tmp_path)] == [FD, "fid"]
    assert [block.metric for block in board(tmp_path, CS)] == [CS]
    assert [block.metrics for block in board(tmp_path, "cs")] == [[CS, FD]]
    with pytest.raises(UserError, match="--metric 'fidd'.*did you mean 'fid'"):
        board(tmp_path, "fidd")


def test_entries_are_selected_by_data_set_and_by_protocol(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "run",
        score_line(),
        score_line(protocol_id="dddd00000000", dataset="digits", name="50k"),
    )
    entries, _ = read_scores(find_runs([], tmp_path))
    assert [each.protocol_id for each in select(entries, "digits", None)] == ["dddd00000000"]
    for wanted in ("50k", "dddd00000000", "dddd"):
        assert [each.protocol_id for each in select(entries, None, wanted)] == ["dddd00000000"]
    with pytest.raises(UserError, match="--dataset 'digit' .*'digits'"):
        select(entries, "digit", None)
    with pytest.raises(UserError, match="--protocol 'ddd' "):
        select(entries, None, "ddd")


def test_a_row_is_named_after_its_folder_and_runs_without_scores_are_no_rows(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "folder", score_line())
    write_run(tmp_path, "bare")
    assert order(board(tmp_path)[0]) == ["folder"]
    assert [run.name for run in find_runs([], tmp_path)] == ["bare", "folder"]
    with pytest.raises(UserError, match="no run 'foldr'.*did you mean 'folder'"):
        find_runs(["foldr"], tmp_path)


def bias(root: Path) -> list[list[str]]:
    return [[line for line in describe(block) if "features" in line] for block in board(root)]


def test_fewer_samples_than_features_are_said_to_bias_the_distance(tmp_path: Path) -> None:
    for name, dimensions, samples in (("a", 256, 256), ("b", 257, 256), ("c", 2048, 2000)):
        line = score_line(protocol_id=name * 12, samples=samples, name=name)
        write_run(tmp_path, name, {**line, "dimensions": dimensions})
    enough, fewer, paper = bias(tmp_path)
    assert enough == []
    assert fewer[0].startswith("256 samples < 257 features: the covariance is rank-deficient")
    assert paper[0].startswith("2,000 samples < 2,048 features: ")


def test_the_features_of_the_official_network_are_known_and_others_are_not_guessed(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, "run", official(33.0), score_line(samples=10))
    assert [len(lines) for lines in bias(tmp_path)] == [0, 1]


def test_two_numbers_of_features_under_one_protocol_are_not_believed(tmp_path: Path) -> None:
    lines = [{**score_line(), "dimensions": dimensions} for dimensions in (4096, 8192)]
    write_run(tmp_path, "run", *lines)
    assert bias(tmp_path) == [[]]


def test_without_a_frechet_distance_nothing_is_said_of_its_bias(tmp_path: Path) -> None:
    write_run(tmp_path, "run", {**score_line(scores={CS: {"mean": 2.0}}), "dimensions": 4096})
    assert bias(tmp_path) == [[]]


def test_the_columns_stand_in_one_order(tmp_path: Path) -> None:
    scores = {f"{family}/x": {"mean": 1.0, "sd": 0.1} for family in ("z", *sorted(BETTER))}
    scores |= {family: {"mean": 1.0, "sd": 0.1} for family in ("coverage", "precision")}
    kept = {
        name: score for name, score in scores.items() if name.split("/")[0] not in ("fid", "is")
    }
    write_run(tmp_path, "run", score_line(scores=kept, official_inception=True))
    families = [name.split("/")[0] for name in board(tmp_path)[0].metrics]
    expected = ["fd", "cs", "kid", "kd", "precision", "precision", "recall", "density"]
    assert families == [*expected, "coverage", "coverage", "z"]
