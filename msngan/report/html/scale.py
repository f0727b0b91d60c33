"""Axes: which ticks a range gets, how they are written, and where a value lies on the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A range of values on `low` to `high`, and the ticks inside it.

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

    def placed(self, start: float, end: float) -> Callable[[float], float]:
        """A function from a value to a coordinate, `start` for `low` and `end` for `high`."""
        return lambda value: start + self.fraction(value) * (end - start)


def linear(values: Iterable[float], most: int = 5, room: float = 0.04) -> Axis:
    """An axis that holds every finite value; one value, or none, gets a range around it.

    most: how many ticks at the most. room: what is added at either end, as a part of the range.
    """
    low, high = _ends(values, (0.0, 1.0))
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        half = abs(low) / 10
        low, high = (low - half, high + half) if half else (0.0, 1.0)
    pad = room * (high - low)
    low, high = low - pad, high + pad
    return Axis(low, high, tuple(_nice(low, high, most)))


def logarithmic(values: Iterable[float], most: int = 5) -> Axis:
    """As `linear`, for values above zero; ticks are powers of ten, or 1, 2 and 5 times those."""
    low, high = _ends((value for value in values if value > 0), (0.1, 1.0))
    if high < 1.5 * low:
        low, high = low / 1.5, high * 1.5
    room = 0.04 * (math.log(high) - math.log(low))  # the quotient may be more than a number holds
    low, high = max(low * math.exp(-room), 5e-324), min(high * math.exp(room), 1e308)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(last - first - 1) // most))
    decades = [10.0**power for power in range(first, last + 1) if power % every == 0]
    ticks = [tick for tick in decades if low <= tick <= high]
    if len(ticks) < 3:
        fine = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
        ticks = [tick for tick in fine if low <= tick <= high]
    if len(ticks) < 2:
        ticks = _nice(low, high, most)
    return Axis(low, high, tuple(ticks), log=True)


def wants_log(values: Sequence[float], ratio: float = 100.0) -> bool:
    """Whether all finite values are above zero and the largest is over `ratio` of the smallest."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > ratio * min(finite)


def written(ticks: Sequence[float]) -> list[str]:
    """The ticks as short texts, none of two alike: 0.05, 0.1; 20k, 40k; 1e-05."""
    for digits in range(1, 12):
        texts = [_short(tick, digits) for tick in ticks]
        exact = all(math.isclose(float(f"{t:.{digits}g}"), t, rel_tol=1e-9) for t in ticks)
        if exact and len(set(texts)) == len(texts):
            return texts
    return [f"{tick:g}" for tick in ticks]


def _short(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if 1e4 <= size < 1e9:
        unit, letter = (1e6, "M") if size >= 1e6 else (1e3, "k")
        return f"{float(f'{value:.{digits}g}') / unit:g}{letter}"
    return f"{float(f'{value:.{digits}g}'):g}"


def _ends(values: Iterable[float], otherwise: tuple[float, float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else otherwise


def _nice(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low to high, at most `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (*STEPS, 20.0):
        step = factor * power
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 <= most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
