"""Ratios of times that were measured in turns, and how far they can be trusted. No torch here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """median of the ratios to the baseline of the same round; q1 and q3: their quartiles.

    low and high: a 95% interval of the median by bootstrap over rounds. of_minima: the smallest
    time over the baseline's smallest, which what disturbs a machine moves least.
    """

    median: float
    low: float
    high: float
    q1: float
    q3: float
    of_minima: float


def ratio(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Of two lists of times > 0, one of each a round, in the same order of rounds."""
    if len(seconds) != len(baseline) or not seconds:
        raise ValueError(f"{len(seconds)} times cannot be compared with {len(baseline)}")
    ratios = [mine / base for mine, base in zip(seconds, baseline, strict=True)]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Ratio(
        median=median(ratios),
        low=_quantile(medians, 0.025),
        high=_quantile(medians, 0.975),
        q1=_quantile(sorted(ratios), 0.25),
        q3=_quantile(sorted(ratios), 0.75),
        of_minima=min(seconds) / min(baseline),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
