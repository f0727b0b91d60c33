"""Rank correlation and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from msngan.leaderboard.rank_correlation import correlation, ranks, spearman

pytestmark = pytest.mark.quick


def test_the_interval_agrees_with_scipy():
    draw = np.random.default_rng(1)
    x = draw.integers(0, 6, 40).astype(float)  # with ties
    y = x + draw.normal(0, 2, 40)
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = correlation(x, y, range(40))
    assert [found["low"], found["high"]] == pytest.approx([*expected], abs=0.04)


def test_ranks_and_their_correlation_are_those_of_scipy():
    draw = np.random.default_rng(0)
    for ties in (False, True):
        a = draw.normal(size=40)
        b = a + draw.normal(size=40)
        if ties:
            a, b = a.round(), b.round()
        assert ranks(a).tolist() == stats.rankdata(a).tolist()
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)


def test_the_interval_is_over_groups_and_there_is_none_of_too_few():
    a = list(range(12))
    alone, together = [str(i) for i in a], [str(i // 3) for i in a]
    b = [2, 1, 0, 3, 5, 4, 8, 7, 6, 9, 10, 11]
    found = correlation(a, b, alone)
    assert (found["items"], found["groups"]) == (12, 12)
    assert found["low"] < found["spearman"] < found["high"] <= 1
    assert found == correlation(a, b, alone)
    assert correlation(a, b, together)["groups"] == 4
    assert correlation(a, b, together)["low"] != found["low"]
    assert correlation(a, a, alone)["spearman"] == pytest.approx(1)
    assert correlation(a, a, alone)["low"] is correlation(a, a[::-1], alone)["high"] is None
    assert correlation([1, 2, 3], [1, 2, 3], ["a", "a", "b"])["low"] is None
    assert correlation([1, 2], [1, 2], ["a", "b"])["spearman"] is None
    assert correlation([1, 1, 1], [1, 2, 3], ["a", "b", "c"])["spearman"] is None
    assert correlation([], [], [])["items"] == 0
