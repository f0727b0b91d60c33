from __future__ import annotations

import math

import pytest

from msngan.leaderboard.seeds import Summary, alike, student, summary


def test_the_quantile_of_student_s_t_is_scipy_s() -> None:
    from scipy.stats import t

    for freedom in [*range(1, 60), 1.0001, 1.1, 1.5, 1.99, 2.3, 7.7, 133.3, 1e4]:
        assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_the_interval_of_a_mean_is_scipy_s(n: int) -> None:
    import numpy as np
    from scipy.stats import t

    values = np.random.default_rng(n).normal(30, 3, n)
    found = summary(values.tolist())
    low, high = t.interval(0.95, n - 1, values.mean(), values.std(ddof=1) / math.sqrt(n))
    assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-7)


def test_two_means_are_alike_where_welch_s_test_finds_no_difference() -> None:
    import numpy as np
    from scipy.stats import ttest_ind

    drawn = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        one = drawn.normal(0, 1, drawn.integers(2, 7))
        other = drawn.normal(drawn.uniform(0, 6), drawn.uniform(0.1, 3), drawn.integers(2, 7))
        expected = bool(ttest_ind(one, other, equal_var=False).pvalue > 0.05)
        assert alike(summary(one.tolist()), summary(other.tolist())) is expected
        verdicts.append(expected)
    assert 50 < sum(verdicts) < 250


def test_means_without_a_spread_are_alike_only_if_they_are_equal() -> None:
    one, same, other = summary([3.0]), summary([3.0, 3.0]), summary([4.0, 4.0])
    assert one == Summary(1, 3.0, None, None, None)
    assert alike(one, same) is True
    assert alike(one, other) is None
    assert alike(same, other) is False
