"""Runs of one config are pooled over their seeds, and the intervals are those of scipy."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from score_lines import FD, KINDS, is_marked, marked_line, score_line, write_run

from msngan.leaderboard.board import Board, make_board
from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.seeds import Pooled, Summary, alike, student, summary
from msngan.runs.score_records import find_runs, read_scores


def board(root: Path, **options: Any) -> Board:
    runs = find_runs([], root)
    entries, warnings = read_scores(runs)
    setups, unknown = read_setups(runs)
    assert [*warnings, *unknown] == []
    return make_board(entries, setups, **options)


def pooled(made: Board) -> list[Pooled]:
    return made.pools[made.blocks[0].protocol_id].rows


def notes(made: Board) -> list[str]:
    return made.pools[made.blocks[0].protocol_id].notes


def seeds(root: Path, name: str, *means: float, sd: float = 0.2, **line: Any) -> None:
    """A run for each mean, seeds from 0."""
    for seed, mean in enumerate(means):
        write_run(root, f"{name}-s{seed}", score_line(mean, sd=sd, **line), of=name, seed=seed)


def curves(root: Path, *each: dict[int, float | None], name: str = "c") -> None:
    """A run for each curve, of scores by step."""
    for seed, curve in enumerate(each):
        lines = [score_line(fd, step=step) for step, fd in curve.items()]
        write_run(root, f"{name}-{seed}", *lines, of=name, seed=seed)


@pytest.mark.quick
def test_seeds_are_pooled_to_the_mean_and_the_spread_over_seeds(tmp_path):
    seeds(tmp_path, "config", 10.0, 12.0, 14.0, sd=0.01)
    (row,) = pooled(board(tmp_path))
    last = row.last[FD]
    # sd: sqrt((4 + 0 + 4) / 2) = 2; t of 2 degrees: 4.302653; 4.302653 * 2 / sqrt(3) = 4.968276
    assert (last.n, last.mean, last.sd) == (3, 12.0, 2.0)
    assert (last.low, last.high) == pytest.approx((7.031724, 16.968276), abs=1e-6)
    assert (row.config, row.steps[FD]) == ("config", 1000)
    members = [(member.seed, member.run) for member in row.members]
    assert members == [(seed, f"config-s{seed}") for seed in range(3)]


def test_last_is_at_the_largest_step_that_all_seeds_share_and_best_is_each_run_s(tmp_path):
    third = {100: 4.0, 150: 1.0, 200: 8.0, 300: None}  # a failed score is not shared
    curves(tmp_path, {100: 9.0, 200: 5.0, 300: 7.0}, {100: 8.0, 200: 6.0}, third)
    made = board(tmp_path)
    (row,) = pooled(made)
    assert row.steps[FD] == 200
    assert row.last[FD].mean == pytest.approx((5 + 6 + 8) / 3)
    assert row.best[FD].mean == pytest.approx((5 + 6 + 1) / 3)
    (note,) = notes(made)
    assert "step 200 is the last that every seed shares" in note
    assert "without a valid score at step 300: c-1, c-2" in note


def test_a_seed_that_never_had_a_valid_score_is_not_dropped_from_the_mean(tmp_path):
    seeds(tmp_path, "sound", 50.0, 51.0)
    seeds(tmp_path, "broken", 1.0, 1.1)
    write_run(tmp_path, "broken-s2", score_line(None), of="broken", seed=2)
    made = board(tmp_path)
    first, second = pooled(made)
    assert [(row.config, row.rank) for row in (first, second)] == [("sound", 1), ("broken", None)]
    assert (second.last, second.best, len(second.members)) == ({}, {}, 3)
    assert any("without a valid score at step 1000: broken-s2" in note for note in notes(made))


def test_two_runs_of_one_seed_are_one_experiment_and_the_longer_is_counted(tmp_path):
    seeds(tmp_path, "c", 5.0, 7.0)
    write_run(tmp_path, "again", score_line(1.0, step=500), of="c", seed=1)
    write_run(tmp_path, "z-again", score_line(1.0), of="c", seed=1)
    for name in "ab":
        write_run(tmp_path, name, score_line(1.0), of="one seed, run twice")
    made = board(tmp_path)
    (row,) = pooled(made)
    assert (row.last[FD].n, row.last[FD].mean) == (2, 6.0)
    again = [("again", "c-s1"), ("b", "a"), ("z-again", "c-s1")]
    assert sorted(notes(made)) == [
        f"{run} has the config and the seed of {first}: one experiment, counted once"
        for run, first in again
    ]


@pytest.mark.parametrize("trial", range(3))
def test_nothing_of_two_protocols_or_weights_is_pooled_or_ranked_together(tmp_path, trial):
    drawn = random.Random(trial)
    for name in "abcd":
        for seed in range(drawn.randint(1, 4)):
            lines = [
                marked_line(k, kind, drawn, step=drawn.choice((100, 200)))
                for k in drawn.sample(range(4), drawn.randint(1, 4))
                for kind in drawn.sample(KINDS, drawn.randint(1, 2))
            ]
            write_run(tmp_path, f"{name}-{seed}", *lines, of=name, seed=seed)
    made = board(tmp_path)
    assert len(made.blocks) == len(made.pools) > 1
    for block in made.blocks:
        rows = made.pools[block.protocol_id].rows
        for row in rows:
            for found in [*row.last.values(), *row.best.values()]:
                assert is_marked(found.mean, block.protocol_id, row.weights)
                assert found.sd is None or found.sd < 10
        ranks = [row.rank for row in rows if row.rank]
        assert ranks == list(range(1, len(ranks) + 1))


def test_configs_rank_by_their_mean_over_seeds_last_or_best(tmp_path):
    curves(tmp_path, {1: 1.0, 2: 9.0}, {1: 1.1, 2: 9.1}, name="a")
    curves(tmp_path, {1: 3.0, 2: 4.0}, {1: 3.1, 2: 4.1}, name="b")
    for by, order in (("last", "ba"), ("best", "ab")):
        rows = pooled(board(tmp_path, by=by))
        assert [(row.config, row.rank) for row in rows] == [(order[0], 1), (order[1], 2)]


def test_a_tie_of_configs_is_about_seeds_and_their_steps_are_compared(tmp_path):
    seeds(tmp_path, "a", 1.0, 9.0, sd=1e-6)
    seeds(tmp_path, "b", 2.0, 9.0, sd=1e-6)
    seeds(tmp_path, "c", 90.0, 90.1, sd=1e-6, step=200)
    made = board(tmp_path)
    assert [row.tie for row in pooled(made)] == [None, True, False]
    assert any("different steps (200, 1000)" in note for note in notes(made))


def test_the_quantile_and_the_interval_of_a_mean_are_scipy_s():
    for freedom in [*range(1, 60), 1.0001, 1.1, 1.5, 1.99, 2.3, 7.7, 133.3, 1e4]:
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-7)
    for n in (2, 3, 5, 40):
        values = np.random.default_rng(n).normal(30, 3, n)
        found = summary(values.tolist())
        interval = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
        assert (found.low, found.high) == pytest.approx(interval, rel=1e-7)


def test_two_means_are_alike_where_welch_s_test_finds_no_difference():
    drawn = np.random.default_rng(0)
    verdicts = []
    for _ in range(100):
        one = drawn.normal(0, 1, drawn.integers(2, 7))
        other = drawn.normal(drawn.uniform(0, 6), drawn.uniform(0.1, 3), drawn.integers(2, 7))
        expected = bool(stats.ttest_ind(one, other, equal_var=False).pvalue > 0.05)
        assert alike(summary(one.tolist()), summary(other.tolist())) is expected
        verdicts.append(expected)
    assert 15 < sum(verdicts) < 85
    one, same, other = summary([3.0]), summary([3.0, 3.0]), summary([4.0, 4.0])
    assert one == Summary(1, 3.0, None, None, None)
    assert [alike(one, same), alike(one, other), alike(same, other)] == [True, None, False]
