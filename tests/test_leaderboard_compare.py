from __future__ import annotations

import random
from pathlib import Path

import pytest
from score_lines import FD, score_line, write_run

from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.paired import Comparison, Paired, compare
from msngan.leaderboard.ranking import BETTER
from msngan.runs.folder import UserError
from msngan.runs.score_records import find_runs, read_scores

Captured = pytest.CaptureFixture[str]


def compared(root: Path, a: str = "a", b: str = "b") -> Comparison:
    runs = find_runs([], root)
    entries, warnings = read_scores(runs)
    setups, unknown = read_setups(runs)
    assert [*warnings, *unknown] == []
    return compare(a, b, entries, setups)


def only(made: Comparison) -> Paired:
    (match,) = made.matches
    (row,) = match.rows
    return row


def seeds(root: Path, name: str, means: list[float], metric: str = FD) -> None:
    for seed, mean in enumerate(means):
        line = score_line(scores={metric: {"mean": mean, "sd": 9.0}}, official_inception=True)
        write_run(root, f"{name}-s{seed}", line, of=name, seed=seed)


def test_runs_are_paired_by_seed_and_the_interval_is_of_their_differences(tmp_path: Path) -> None:
    seeds(tmp_path, "a", [10.0, 11.0, 12.0])
    seeds(tmp_path, "b", [12.0, 12.0, 15.0])
    row = only(compared(tmp_path))
    assert (row.a.mean, row.b.mean) == (11.0, 13.0)
    # differences -2, -1, -3; sd 1; t of 2 degrees 4.302653: -2 -+ 4.302653 / sqrt(3) = 2.484138
    assert (row.difference.n, row.difference.mean, row.difference.sd) == (3, -2.0, 1.0)
    assert row.difference.low == pytest.approx(-4.484138, abs=1e-6)
    assert row.difference.high == pytest.approx(0.484138, abs=1e-6)
    assert row.verdict == "no difference shown"


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_paired_interval_is_scipy_s(tmp_path: Path, n: int) -> None:
    import numpy as np
    from scipy.stats import ttest_rel

    drawn = np.random.default_rng(n)
    a, b = drawn.normal(10, 2, n), drawn.normal(11, 1, n)
    seeds(tmp_path, "a", a.tolist())
    seeds(tmp_path, "b", b.tolist())
    found = only(compared(tmp_path)).difference
    interval = ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert found.sd == pytest.approx((a - b).std(ddof=1))


def test_pairing_shows_what_the_spread_over_seeds_would_hide(tmp_path: Path) -> None:
    seeds(tmp_path, "a", [10.0, 20.0, 30.0])
    seeds(tmp_path, "b", [11.0, 21.1, 31.0])
    assert only(compared(tmp_path)).verdict == "A better"


@pytest.mark.parametrize("family", [*BETTER, "novelty"])
def test_the_verdict_knows_each_metric_s_direction(tmp_path: Path, family: str) -> None:
    seeds(tmp_path, "a", [1.0, 1.1, 1.2], family)
    seeds(tmp_path, "b", [5.0, 5.2, 5.1], family)
    expected = {"lower": "A better", "higher": "B better", None: "B larger"}[BETTER.get(family)]
    assert only(compared(tmp_path)).verdict == expected
    swapped = expected.translate(str.maketrans("AB", "BA"))
    assert only(compared(tmp_path, "b", "a")).verdict == swapped


def test_equal_scores_show_no_difference(tmp_path: Path) -> None:
    for name in "ab":
        seeds(tmp_path, name, [3.0, 4.0])
    row = only(compared(tmp_path))
    assert (row.difference.low, row.difference.high, row.verdict) == (0, 0, "no difference shown")


def test_one_pair_has_no_interval_and_says_so(tmp_path: Path) -> None:
    seeds(tmp_path, "a", [1.0])
    seeds(tmp_path, "b", [9.0])
    row = only(compared(tmp_path))
    assert row.difference.mean == -8.0
    assert (row.difference.sd, row.difference.low, row.difference.high) == (None, None, None)
    assert row.verdict == "one pair: no interval"


def test_the_step_is_the_largest_that_the_pairs_share_whatever_unpaired_runs_have(
    tmp_path: Path,
) -> None:
    for name, seed, curve in (
        ("a", 0, {100: 1.0, 200: 2.0, 300: 3.0}),
        ("a", 1, {100: 1.5, 200: 2.5}),
        ("a", 7, {100: 0.0}),
        ("b", 0, {100: 5.0, 200: 6.0, 250: 7.0}),
        ("b", 1, {100: 5.5, 200: 6.5, 300: 0.0}),
        ("b", 8, {50: 0.0}),
    ):
        lines = [score_line(fd, step=step) for step, fd in curve.items()]
        write_run(tmp_path, f"{name}-s{seed}", *lines, of=name, seed=seed)
    made = compared(tmp_path)
    row = only(made)
    assert (row.step, row.a.mean, row.b.mean) == (200, 2.25, 6.25)
    (match,) = made.matches
    assert [(one.run, other.run) for one, other in match.pairs] == [
        ("a-s0", "b-s0"),
        ("a-s1", "b-s1"),
    ]
    unpaired = {side: [m.run for m in members] for side, members in match.unpaired.items()}
    assert unpaired == {"A": ["a-s7"], "B": ["b-s8"]}


def test_a_pair_without_a_sound_score_is_not_dropped(tmp_path: Path) -> None:
    seeds(tmp_path, "a", [1.0, 1.0])
    write_run(tmp_path, "b-s0", score_line(9.0, official_inception=True), of="b", seed=0)
    write_run(tmp_path, "b-s1", score_line(None, official_inception=True), of="b", seed=1)
    row = only(compared(tmp_path))
    assert (row.step, row.difference) == (None, None)
    assert row.verdict == "no step with a valid score of every pair: b-s1 has none"


def test_the_same_seed_run_twice_is_one_pair(tmp_path: Path) -> None:
    for name in ("a", "b"):
        seeds(tmp_path, name, [1.0, 2.0])
    write_run(tmp_path, "z", score_line(5.0, official_inception=True), of="a", seed=1)
    made = compared(tmp_path)
    assert only(made).difference.n == 2
    assert made.matches[0].notes == [
        "z has the config and the seed of a-s1: one experiment, counted once"
    ]


@pytest.mark.parametrize("trial", range(5))
def test_protocols_and_weights_are_never_compared_across(tmp_path: Path, trial: int) -> None:
    # A value's hundreds say its protocol and kind of weights.
    drawn = random.Random(trial)
    for name in "ab":
        for seed in range(3):
            lines = [
                score_line(
                    100 * k + 50 * (weights == "raw") + drawn.uniform(1, 40),
                    protocol_id=f"{k:012d}",
                    samples=1000 + k,
                    weights=weights,
                )
                for k in range(4)
                for weights in ("ema", "raw")
                if drawn.random() < 0.7 or k == 0
            ]
            write_run(tmp_path, f"{name}-{seed}", *lines, of=name, seed=seed)
    made = compared(tmp_path)
    assert len({(match.protocol_id, match.weights) for match in made.matches}) == len(made.matches)
    assert {match.weights for match in made.matches} == {"ema", "raw"}
    for match in made.matches:
        start = 100 * int(match.protocol_id) + 50 * (match.weights == "raw")
        for row in match.rows:
            if row.difference:
                assert start < row.a.mean < start + 50
                assert start < row.b.mean < start + 50
                assert abs(row.difference.mean) < 40


def named(root: Path, name: str, seed: int = 0, **changed: float) -> str:
    """A run of a config of that name; its config id."""
    run = f"{name}-{seed}-{len(list(root.glob('checkpoints/*')))}"
    write_run(root, run, score_line(1.0 + seed), of=name, seed=seed, **changed)
    return read_setups([each for each in find_runs([run], root)])[0][run].config_id


def test_a_config_is_meant_by_its_name_its_id_the_id_s_start_or_a_run(tmp_path: Path) -> None:
    one, other = named(tmp_path, "one"), named(tmp_path, "other")
    for word in ("one", one, one[:4], one[:11], "one-0-0"):
        made = compared(tmp_path, word, "other")
        assert (made.a.config_id, made.a.name, made.b.config_id) == (one, "one", other)
        assert (made.a.runs, made.b.runs) == (["one-0-0"], ["other-0-1"])


def test_three_digits_of_an_id_are_too_few_and_a_whole_one_is_never_ambiguous(
    tmp_path: Path,
) -> None:
    one, other = named(tmp_path, "one"), named(tmp_path, "other")
    named(tmp_path, one)  # a config that bears the id of another as its name
    assert compared(tmp_path, one, "other").a.runs == ["one-0-0"]
    with pytest.raises(UserError, match="is not a config"):
        compared(tmp_path, "one-0-0", other[:3])


def test_an_ambiguous_name_lists_the_ids_and_the_runs(tmp_path: Path) -> None:
    ids = [named(tmp_path, "one", steps=steps) for steps in (10, 20)]
    named(tmp_path, "other")
    with pytest.raises(UserError) as failure:
        compared(tmp_path, "one", "other")
    for part in ("'one' names 2 configs", *ids, "one-0-0", "one-0-1"):
        assert part in str(failure.value)
    assert "\n" not in str(failure.value)
    assert compared(tmp_path, ids[1], "other").a.runs == ["one-0-1"]
    made = compared(tmp_path, "one-0-0", "one-0-1")  # two configs of one name
    assert [made.a.config_id, made.b.config_id] == ids


@pytest.mark.parametrize("word", ["on", "onee", "123", "0" * 12, ""])
def test_an_unknown_config_is_one_line_with_the_known_ones(tmp_path: Path, word: str) -> None:
    for name in ("one", "other"):
        named(tmp_path, name)
    with pytest.raises(UserError) as failure:
        compared(tmp_path, "other", word)
    assert f"--compare {word!r} is not a config" in str(failure.value)
    assert "there are one, other" in str(failure.value)


def test_a_config_is_not_compared_with_itself(tmp_path: Path) -> None:
    named(tmp_path, "one")
    with pytest.raises(UserError, match="'one' and 'one-0-0' are the same config, one"):
        compared(tmp_path, "one", "one-0-0")


def test_a_run_whose_config_cannot_be_read_is_said_to_be_that(tmp_path: Path) -> None:
    named(tmp_path, "other")
    (write_run(tmp_path, "one", score_line()) / "config.yaml").write_text("{")
    runs = find_runs([], tmp_path)
    with pytest.raises(UserError, match="'one': its config.yaml cannot be read"):
        compare("other", "one", read_scores(runs)[0], read_setups(runs)[0])


def test_without_a_common_protocol_weights_or_seed_there_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path, "a", score_line(1.0), of="a")
    write_run(tmp_path, "b", score_line(1.0, protocol_id="c" * 12, samples=9), of="b")
    write_run(tmp_path, "c", score_line(1.0, weights="raw"), of="c")
    write_run(tmp_path, "d", score_line(1.0), of="d", seed=3)
    for other, wanted in (
        ("b", "under no common protocol"),
        ("c", "other weights, raw and ema"),
        ("d", r"seed 0 and d \(\w+\) with seed 3 have no seed in common"),
    ):
        with pytest.raises(UserError, match=wanted) as failure:
            compared(tmp_path, "a", other)
        assert "\n" not in str(failure.value)


def test_where_only_one_protocol_lacks_a_common_seed_it_is_named(tmp_path: Path) -> None:
    large = {"protocol_id": "c" * 12, "samples": 9}
    write_run(tmp_path, "a", score_line(1.0), score_line(1.0, **large), of="a", seed=0)
    write_run(tmp_path, "b", score_line(2.0), of="b", seed=0)
    write_run(tmp_path, "b-1", score_line(2.0, **large), of="b", seed=1)
    made = compared(tmp_path)
    assert [match.protocol_id for match in made.matches] == ["aaaa00000000"]
    assert made.notes == ["no common seed under protocol cccccccccccc (ema)"]
