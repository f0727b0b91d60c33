from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from score_lines import FD, official, score_line, write_run

from msngan.leaderboard.board import Board, make_board
from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.seeds import Pooled, groups, pool
from msngan.runs.score_records import find_runs, read_scores


def board(root: Path, **options: Any) -> Board:  # noqa: ANN401
    runs = find_runs([], root)
    entries, warnings = read_scores(runs)
    setups, unknown = read_setups(runs)
    assert [*warnings, *unknown] == []
    return make_board(entries, setups, **options)


def pooled(made: Board) -> list[Pooled]:
    (block,) = made.blocks
    return made.pools[block.protocol_id].rows


def notes(made: Board) -> list[str]:
    (block,) = made.blocks
    return made.pools[block.protocol_id].notes


def seeds(root: Path, name: str, *means: float, sd: float = 0.2, **line: Any) -> None:  # noqa: ANN401
    """A run for each mean, seeds from 0."""
    for seed, mean in enumerate(means):
        write_run(root, f"{name}-s{seed}", score_line(mean, sd=sd, **line), of=name, seed=seed)


def test_seeds_are_pooled_to_the_mean_and_the_spread_over_seeds(tmp_path: Path) -> None:
    seeds(tmp_path, "config", 10.0, 12.0, 14.0, sd=0.01)
    (row,) = pooled(board(tmp_path))
    last = row.last[FD]
    # sd: sqrt((4 + 0 + 4) / 2) = 2; t of 2 degrees: 4.302653; 4.302653 * 2 / sqrt(3) = 4.968276
    assert (last.n, last.mean, last.sd) == (3, 12.0, 2.0)
    assert last.low == pytest.approx(7.031724, abs=1e-6)
    assert last.high == pytest.approx(16.968276, abs=1e-6)
    assert (row.config, row.steps[FD]) == ("config", 1000)
    assert [(member.seed, member.run) for member in row.members] == [
        (0, "config-s0"),
        (1, "config-s1"),
        (2, "config-s2"),
    ]


def test_last_is_at_the_largest_step_that_all_seeds_share_and_best_is_each_run_s(
    tmp_path: Path,
) -> None:
    curves = [{100: 9.0, 200: 5.0, 300: 7.0}, {100: 8.0, 200: 6.0}, {100: 4.0, 150: 1.0, 200: 8.0}]
    for seed, curve in enumerate(curves):
        lines = [score_line(fd, step=step) for step, fd in curve.items()]
        write_run(tmp_path, f"run-{seed}", *lines, of="c", seed=seed)
    made = board(tmp_path)
    (row,) = pooled(made)
    assert row.steps[FD] == 200
    assert row.last[FD].mean == pytest.approx((5 + 6 + 8) / 3)
    assert row.best[FD].mean == pytest.approx((5 + 6 + 1) / 3)
    (note,) = notes(made)
    assert "step 200 is the last that every seed shares" in note
    assert "run-1, run-2 ends at step 200" in note


def test_a_step_whose_score_failed_for_one_seed_is_not_shared(tmp_path: Path) -> None:
    for seed, second in ((0, 3.0), (1, None)):
        lines = [score_line(2.0, step=100), score_line(second, step=200)]
        write_run(tmp_path, f"run-{seed}", *lines, of="c", seed=seed)
    (row,) = pooled(board(tmp_path))
    assert (row.steps[FD], row.last[FD].mean) == (100, 2.0)


def test_a_seed_that_never_had_a_sound_score_is_not_dropped_from_the_mean(tmp_path: Path) -> None:
    seeds(tmp_path, "sound", 50.0, 51.0)
    seeds(tmp_path, "broken", 1.0, 1.1)
    write_run(tmp_path, "broken-s2", score_line(None), of="broken", seed=2)
    made = board(tmp_path)
    first, second = pooled(made)
    assert (first.config, first.rank) == ("sound", 1)
    assert (second.config, second.rank) == ("broken", None)
    assert (second.last, second.best, len(second.members)) == ({}, {}, 3)
    assert any("broken-s2 has no valid score" in note for note in notes(made))


def test_two_runs_of_one_seed_are_one_experiment_and_the_longer_is_counted(tmp_path: Path) -> None:
    seeds(tmp_path, "c", 5.0, 7.0)
    write_run(tmp_path, "again", score_line(1.0, step=500), of="c", seed=1)
    write_run(tmp_path, "z-again", score_line(1.0), of="c", seed=1)
    made = board(tmp_path)
    (row,) = pooled(made)
    assert (row.last[FD].n, row.last[FD].mean) == (2, 6.0)
    assert sorted(notes(made)) == [
        f"{run} has the config and the seed of c-s1: one experiment, counted once"
        for run in ("again", "z-again")
    ]


def test_one_seed_is_not_pooled_though_it_was_run_twice(tmp_path: Path) -> None:
    write_run(tmp_path, "a", score_line(1.0), of="c")
    write_run(tmp_path, "b", score_line(2.0), of="c")
    made = board(tmp_path)
    assert pooled(made) == []
    assert len(notes(made)) == 1


def test_raw_and_averaged_weights_are_pooled_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        lines = [score_line(1.0 + seed), score_line(9.0 + seed, weights="raw")]
        write_run(tmp_path, f"run-{seed}", *lines, of="c", seed=seed)
    assert [(row.weights, row.last[FD].mean) for row in pooled(board(tmp_path))] == [
        ("ema", 1.5),
        ("raw", 9.5),
    ]


@pytest.mark.parametrize("trial", range(5))
def test_nothing_of_two_protocols_is_pooled_or_ranked_together(tmp_path: Path, trial: int) -> None:
    # Every value says its protocol: those of the k-th lie in (100 k, 100 k + 10).
    drawn = random.Random(trial)
    for name in "abcd":
        for seed in range(drawn.randint(1, 4)):
            lines = [
                score_line(
                    100 * k + drawn.uniform(1, 9),
                    protocol_id=f"{k:012d}",
                    samples=1000 + k,
                    step=drawn.choice((100, 200)),
                    weights=drawn.choice(("ema", "raw")),
                )
                for k in drawn.sample(range(4), drawn.randint(1, 4))
            ]
            write_run(tmp_path, f"{name}-{seed}", *lines, of=name, seed=seed)
    made = board(tmp_path)
    assert len(made.blocks) == len(made.pools) > 1
    for block in made.blocks:
        k = int(block.protocol_id)
        rows = made.pools[block.protocol_id].rows
        for found in [s for row in rows for each in (row.last, row.best) for s in each.values()]:
            assert 100 * k < found.mean < 100 * k + 10
            assert found.sd < 10
        ranks = [row.rank for row in rows if row.rank]
        assert ranks == list(range(1, len(ranks) + 1))


def test_entries_of_two_protocols_are_refused_where_one_is_due(tmp_path: Path) -> None:
    write_run(tmp_path, "a", score_line(1.0), score_line(2.0, protocol_id="c" * 12, samples=9))
    runs = find_runs([], tmp_path)
    entries, setups = read_scores(runs)[0], read_setups(runs)[0]
    with pytest.raises(ValueError, match="too many values"):
        groups(entries, setups)
    made = make_board(entries, setups)
    with pytest.raises(AssertionError):
        pool(made.blocks[0], entries, setups, "last")


def test_configs_rank_by_their_mean_over_seeds_last_or_best(tmp_path: Path) -> None:
    for name, early, late in (("a", 1.0, 9.0), ("b", 3.0, 4.0)):
        for seed in (0, 1):
            lines = [score_line(early + seed / 9, step=1), score_line(late + seed / 9, step=2)]
            write_run(tmp_path, f"{name}-{seed}", *lines, of=name, seed=seed)
    assert [(row.config, row.rank) for row in pooled(board(tmp_path))] == [("b", 1), ("a", 2)]
    assert [(row.config, row.rank) for row in pooled(board(tmp_path, by="best"))] == [
        ("a", 1),
        ("b", 2),
    ]


def test_a_tie_of_configs_is_about_seeds_and_not_about_drawings(tmp_path: Path) -> None:
    seeds(tmp_path, "a", 1.0, 9.0, sd=1e-6)
    seeds(tmp_path, "b", 2.0, 9.0, sd=1e-6)
    seeds(tmp_path, "c", 90.0, 90.1, sd=1e-6)
    assert [row.tie for row in pooled(board(tmp_path))] == [None, True, False]


def test_configs_at_different_steps_are_said_to_be(tmp_path: Path) -> None:
    seeds(tmp_path, "a", 1.0, 2.0, step=100)
    seeds(tmp_path, "b", 1.0, 2.0, step=200)
    assert any("different steps (100, 200)" in note for note in notes(board(tmp_path)))


def test_configs_of_the_official_network_are_pooled_in_their_own_block(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, f"r{seed}", score_line(1.0), official(33.0 + seed), of="c", seed=seed)
    made = board(tmp_path)
    means = {
        block.metric: made.pools[block.protocol_id].rows[0].last[block.metric].mean
        for block in made.blocks
    }
    assert means == {FD: 1.0, "fid": 33.5}
