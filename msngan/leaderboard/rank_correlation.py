"""Spearman's rank correlation, and a bootstrap interval over groups of items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1 for the smallest; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, in [-1, 1]; NaN where all values of one side are equal."""
    x, y = (each - each.mean() for each in (ranks(a), ranks(b)))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else float("nan")


def correlation(
    a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable]
) -> dict[str, float | int | None]:
    """Spearman's correlation with a 95 % interval, by bootstrap over groups of items.

    `items` and `groups` are how many there are. None where there is none: the correlation of fewer
    than 3 items or of equal values, the interval of fewer than 3 groups or of a correlation of 1 or
    -1: every resample has the same, so that even 3 items would look certain.
    """
    names = list(dict.fromkeys(groups))
    members = [[i for i, group in enumerate(groups) if group == name] for name in names]
    found: dict[str, float | int | None] = {"items": len(a), "groups": len(names)}
    value = spearman(a, b) if len(a) > 2 else float("nan")
    found |= {"spearman": None if np.isnan(value) else value, "low": None, "high": None}
    if len(names) < 3 or np.isnan(value) or np.isclose(abs(value), 1):
        return found
    one, other, resampled = np.asarray(a), np.asarray(b), []
    for drawn in np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names))):
        chosen = [i for group in drawn for i in members[group]]
        resampled.append(spearman(one[chosen], other[chosen]))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return found | {"low": float(low), "high": float(high)}
