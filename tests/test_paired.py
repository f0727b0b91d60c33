"""Two configs are compared over pairs of runs of one seed, under one protocol."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel
from score_lines import FD, KINDS, is_marked, marked_line, score_line, write_run

from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.paired import Comparison, Paired, compare
from msngan.runs.folder import UserError
from msngan.runs.score_records import BETTER, find_runs, read_scores


def compared(root: Path, a: str = "a", b: str = "b") -> Comparison:
    runs = find_runs([], root)
    return compare(a, b, read_scores(runs)[0], read_setups(runs)[0])


def only(made: Comparison) -> Paired:
    (match,) = made.matches
    (row,) = match.rows
    return row


def seeds(root: Path, name: str, *means: float | None, metric: str = FD) -> None:
    for seed, mean in enumerate(means):
        line = score_line(scores={metric: {"mean": mean, "sd": 9.0}}, official_inception=True)
        write_run(root, f"{name}-s{seed}", line, of=name, seed=seed)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([10.0, 11.0, 12.0], [12.0, 12.0, 15.0], "no difference shown"),
        ([10.0, 20.0, 30.0], [11.0, 21.1, 31.0], "A better"),  # unlike the spread over seeds
        ([3.0, 4.0], [3.0, 4.0], "no difference shown"),
        ([1.0], [9.0], "one pair: no interval"),
        ([1.0, 1.0], [9.0, None], "no step with a valid score of every pair"),
    ],
)
def test_runs_are_paired_by_seed_and_the_interval_is_of_their_differences(tmp_path, a, b, verdict):
    seeds(tmp_path, "a", *a)
    seeds(tmp_path, "b", *b)
    row = only(compared(tmp_path))
    assert row.verdict == verdict
    if None in b:
        assert (row.step, row.difference) == (None, None)
        return
    found = row.difference
    assert (found.n, found.mean) == (len(a), pytest.approx(np.mean(a) - np.mean(b)))
    assert (row.a.mean, row.b.mean) == pytest.approx((np.mean(a), np.mean(b)))
    if len(a) == 1:
        assert (found.sd, found.low, found.high) == (None, None, None)
    elif a != b:
        interval = ttest_rel(a, b).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
        assert found.sd == pytest.approx(np.subtract(a, b).std(ddof=1))


@pytest.mark.parametrize("family", [*BETTER, "novelty"])
def test_the_verdict_knows_each_metric_s_direction(tmp_path, family):
    seeds(tmp_path, "a", 1.0, 1.1, 1.2, metric=family)
    seeds(tmp_path, "b", 5.0, 5.2, 5.1, metric=family)
    expected = {"lower": "A better", "higher": "B better", None: "B larger"}[BETTER.get(family)]
    assert only(compared(tmp_path)).verdict == expected
    swapped = expected.translate(str.maketrans("AB", "BA"))
    assert only(compared(tmp_path, "b", "a")).verdict == swapped


def test_the_step_is_the_largest_that_the_pairs_share_whatever_unpaired_runs_have(tmp_path):
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
    write_run(tmp_path, "z", score_line(5.0, step=1), of="a", seed=1)  # a second run of one seed
    made = compared(tmp_path)
    row = only(made)
    assert (row.step, row.a.mean, row.b.mean) == (200, 2.25, 6.25)
    (match,) = made.matches
    pairs = [(one.run, other.run) for one, other in match.pairs]
    assert pairs == [("a-s0", "b-s0"), ("a-s1", "b-s1")]
    unpaired = {side: [m.run for m in members] for side, members in match.unpaired.items()}
    assert unpaired == {"A": ["a-s7"], "B": ["b-s8"]}
    again = "z has the config and the seed of a-s1: one experiment, counted once"
    assert match.notes == [again]


@pytest.mark.parametrize("trial", range(3))
def test_protocols_and_weights_are_never_compared_across(tmp_path, trial):
    drawn = random.Random(trial)
    for name in "ab":
        for seed in range(3):
            kinds = [
                (k, kind) for k in range(4) for kind in KINDS if drawn.random() < 0.7 or k == 0
            ]
            lines = [marked_line(k, kind, drawn) for k, kind in kinds]
            write_run(tmp_path, f"{name}-{seed}", *lines, of=name, seed=seed)
    made = compared(tmp_path)
    assert len({(match.protocol_id, match.weights) for match in made.matches}) == len(made.matches)
    assert {match.weights for match in made.matches} == {*KINDS}
    for match in made.matches:
        for row in match.rows:
            if row.difference:
                assert is_marked(row.a.mean, match.protocol_id, match.weights)
                assert is_marked(row.b.mean, match.protocol_id, match.weights)


def named(root: Path, name: str, **changed: float) -> str:
    """A run of a config of that name; its config id."""
    run = f"{name}-{len(list(root.glob('checkpoints/*')))}"
    write_run(root, run, score_line(1.0), of=name, **changed)
    return read_setups([each for each in find_runs([run], root)])[0][run].config_id


def test_a_config_is_named_by_its_name_its_id_the_id_s_start_or_a_run(tmp_path):
    one, other = named(tmp_path, "one"), named(tmp_path, "other")
    for word in ("one", one, one[:4], one[:11], "one-0"):
        made = compared(tmp_path, word, "other")
        assert (made.a.config_id, made.a.name, made.b.config_id) == (one, "one", other)
        assert (made.a.runs, made.b.runs) == (["one-0"], ["other-1"])
    named(tmp_path, one)  # a config that bears the id of another as its name
    assert compared(tmp_path, one, "other").a.runs == ["one-0"]


def refusal(root: Path, a: str, b: str) -> str:
    with pytest.raises(UserError) as failure:
        compared(root, a, b)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_an_ambiguous_name_lists_the_ids_and_the_runs(tmp_path):
    ids = [named(tmp_path, "one", steps=steps) for steps in (10, 20)]
    named(tmp_path, "other")
    said = refusal(tmp_path, "one", "other")
    assert all(part in said for part in ("'one' names 2 configs", *ids, "one-0", "one-1"))
    assert compared(tmp_path, ids[1], "other").a.runs == ["one-1"]
    made = compared(tmp_path, "one-0", "one-1")  # two configs of one name
    assert [made.a.config_id, made.b.config_id] == ids


def test_a_word_that_names_no_config_is_one_line_with_the_known_ones(tmp_path):
    for name in ("one", "other"):
        named(tmp_path, name)
    for word in ("on", "onee", "123", "0" * 12, ""):
        said = refusal(tmp_path, "other", word)
        assert f"--compare {word!r} is not a run or a config" in said
        assert "configs here: one, other" in said
    assert "'one' and 'one-0' are the same config, one" in refusal(tmp_path, "one", "one-0")
    (write_run(tmp_path, "broken", score_line()) / "config.yaml").write_text("{")
    assert "'broken': its config.yaml cannot be read" in refusal(tmp_path, "other", "broken")


def test_without_a_common_protocol_weights_or_seed_there_is_one_line(tmp_path):
    large = {"protocol_id": "c" * 12, "samples": 9}
    write_run(tmp_path, "a", score_line(1.0), score_line(1.0, protocol_id="e" * 12), of="a")
    write_run(tmp_path, "b", score_line(1.0, **large), of="b")
    write_run(tmp_path, "c", score_line(1.0, weights="raw"), of="c")
    write_run(tmp_path, "d", score_line(1.0), of="d", seed=3)
    for other in ("b", "c", "d"):
        line = refusal(tmp_path, "a", other)
        assert "have no scores of a common seed under a common" in line
        assert "`msngan evaluate` both alike" in line
    assert "with seed 3 have no scores" in refusal(tmp_path, "a", "d")
    write_run(tmp_path, "e", score_line(2.0), of="d")  # now one protocol of two has a common seed
    write_run(tmp_path, "f", score_line(2.0, protocol_id="e" * 12), of="d", seed=4)
    made = compared(tmp_path, "a", "d")
    assert [match.protocol_id for match in made.matches] == ["aaaa00000000"]
    assert made.notes == ["no common seed under protocol eeeeeeeeeeee (ema)"]
