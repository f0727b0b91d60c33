"""Long curves made short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msngan.runs import safe_read

BUCKETS = 160  # of a curve; about two pixels each


def number(value: Any) -> float:  # noqa: ANN401  any JSON value
    """A finite number, or NaN for anything else."""
    found = safe_read.number(value)
    return math.nan if found is None else float(found)


@dataclass(frozen=True)
class Points:
    """A curve's points; NaN in y is a gap. low and high: of what each point stands for."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    size: int = 1  # records a point is the mean of


def thinned(x: Sequence[float], y: Sequence[float], most: int = BUCKETS) -> Points:
    """At most `most` points: each the mean of as many neighbours, at their mean x.

    A NaN among them makes a gap of the point, so that no failure is averaged away.
    """
    size = max(1, -(-len(x) // most))
    if size == 1:
        return Points([*x], [*y], [*y], [*y])
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    xs = [math.fsum(x[part]) / len(x[part]) for part in parts]
    means, lows, highs = [], [], []
    for part in parts:
        values = y[part]
        gap = any(map(math.isnan, values))
        means.append(math.nan if gap else math.fsum(values) / len(values))
        lows.append(math.nan if gap else min(values))
        highs.append(math.nan if gap else max(values))
    return Points(xs, means, lows, highs, size)
