"""The axes of a chart: which ticks a range gets, their labels, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The range from `low` to `high` and the ticks inside it.

    log: equal distances are equal ratios; both ends are above zero.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def fraction(self, value: float) -> float:
        """Where the value lies: 0 at `low`, 1 at `high`."""
        if self.log:
            whole = math.log(self.high) - math.log(self.low)
            return (math.log(value) - math.log(self.low)) / whole
        return (value - self.low) / (self.high - self.low)


def linear(values: Iterable[float], most: int = 5, padding: float = 0.04) -> Axis:
    """An axis that holds every finite value; one value, or none, gets a range around it.

    most: the number of ticks at most. padding: added at either end, as a part of the range.
    """
    low, high = _ends(values, (0.0, 1.0))
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        half = abs(low) / 10
        low, high = (low - half, high + half) if half else (0.0, 1.0)
    added = padding * (high - low)
    low, high = low - added, high + added
    return Axis(low, high, tuple(_round_numbers(low, high, most)))


def logarithmic(values: Iterable[float], most: int = 5) -> Axis:
    """As `linear`, for values above zero; ticks are powers of ten, or 1, 2 and 5 times those."""
    low, high = _ends((value for value in values if value > 0), (0.1, 1.0))
    if high < 1.5 * low:
        low, high = low / 1.5, high * 1.5
    added = 0.04 * (math.log(high) - math.log(low))  # the quotient of the two may overflow
    low, high = max(low * math.exp(-added), 5e-324), min(high * math.exp(added), 1e308)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(last - first - 1) // most))
    decades = [10.0**power for power in range(first, last + 1) if power % every == 0]
    ticks = [tick for tick in decades if low <= tick <= high]
    if len(ticks) < 3:
        fine = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
        ticks = [tick for tick in fine if low <= tick <= high]
    if len(ticks) < 2:
        ticks = _round_numbers(low, high, most)
    return Axis(low, high, tuple(ticks), log=True)


def needs_log(values: Sequence[float], ratio: float = 100.0) -> bool:
    """Whether all finite values are above zero and the largest is over `ratio` of the smallest."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > ratio * min(finite)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Short texts, no two alike: 0.05, 0.1; 20k, 40k; 1e-05."""
    for digits in range(1, 12):
        texts = [_short(tick, digits) for tick in ticks]
        exact = all(math.isclose(float(f"{t:.{digits}g}"), t, rel_tol=1e-9) for t in ticks)
        if exact and len(set(texts)) == len(texts):
            return texts
    return [f"{tick:g}" for tick in ticks]


def _short(value: float, digits: int) -> str:
    rounded = float(f"{value:.{digits}g}")
    if 1e4 <= abs(value) < 1e9:
        unit, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
        return f"{rounded / unit:g}{letter}"
    return f"{rounded:g}"


def _ends(values: Iterable[float], otherwise: tuple[float, float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else otherwise


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low to high, at most `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1.0, 2.0, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 <= most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
