"""The geometry of curves, which templates/chart.html.j2 draws as SVG.

Colours are the five of Okabe and Ito's palette (Color Universal Design, 2008) that stand out on
white, and five on black; dashes tell apart lines of the same colour. templates/style.css has both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def linear(values: Sequence[float], padding: float = 0.04) -> Axis:
    """An axis that holds every value; equal ones get a range around them.

    padding: added at either end, as a part of the range.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        half = abs(low) / 10
        low, high = (low - half, high + half) if half else (0.0, 1.0)
    added = padding * (high - low)
    low, high = low - added, high + added
    return Axis(low, high, tuple(_round_numbers(low, high)))


def logarithmic(values: Sequence[float]) -> Axis:
    """As `linear`, for values above zero; ticks are powers of ten, or 1, 2 and 5 times those."""
    low, high = min(values), max(values)
    if high < 1.5 * low:
        low, high = low / 1.5, high * 1.5
    added = 0.04 * (math.log(high) - math.log(low))  # the quotient of the two may overflow
    low, high = max(low * math.exp(-added), 5e-324), min(high * math.exp(added), 1e308)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(last - first - 1) // MOST_TICKS))
    decades = [10.0**power for power in range(first, last + 1) if power % every == 0]
    ticks = [tick for tick in decades if low <= tick <= high]
    if len(ticks) < 3:
        fine = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
        ticks = [tick for tick in fine if low <= tick <= high]
    if len(ticks) < 2:
        ticks = _round_numbers(low, high)
    return Axis(low, high, tuple(ticks), log=True)


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


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low to high, at most MOST_TICKS."""
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    for factor in (1.0, 2.0, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 <= MOST_TICKS:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


WIDTH, HEIGHT = 360, 216  # of the drawing, in the units of its text, which is 11 high
LEFT, RIGHT, TOP, BOTTOM = 50, 340, 12, 180  # places of the axes
COLOURS, DASHES = 5, 4  # classes of the style sheet: c0 to c4, d0 to d3
MOST_POINTS = 160  # of a line; about two pixels each
MOST_TICKS = 5

Point = tuple[str, str]  # x and y in the units of the drawing, with one decimal


@dataclass(frozen=True)
class Series:
    """One line: x ascending, y as long; NaN in y is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    @property
    def finite(self) -> bool:
        """Whether there is a number to draw."""
        return any(map(math.isfinite, self.y))


@dataclass(frozen=True)
class Chart:
    """unit: of y. zero: the y axis always shows 0.

    marks: rings around points: x, y and the text in the legend. levels: horizontal lines by name.
    log: the y axis is logarithmic where all values are above zero and span more than 100:1.
    """

    title: str
    series: Sequence[Series]
    unit: str = ""
    x_label: str = "step"
    log: bool = True
    marks: Sequence[tuple[float, float, str]] = ()
    levels: Sequence[tuple[str, float]] = ()
    zero: bool = False

    @property
    def drawing(self) -> dict[str, Any] | None:
        """The geometry, in the units of the drawing; None where there is no number to draw.

        Ticks: place and label. lines: the number of the series, and the points of each piece
        between two gaps. bands: outlines from the lowest to the highest of the values that a point
        stands for.
        """
        curves = [thinned(each.x, each.y) for each in self.series]
        values = [v for each in curves for v in (*each.low, *each.high) if math.isfinite(v)]
        if not values:
            return None
        log = self.log and min(values) > 0 and max(values) > 100 * min(values)
        levels = [value for _, value in self.levels if value > 0 or not log]
        values += levels if log or not self.zero else [*levels, 0.0]
        x_axis = linear([x for each in curves for x in each.x], padding=0.0)
        y_axis = (logarithmic if log else linear)(values)

        def point(x: float, y: float) -> Point:
            across, up = x_axis.fraction(x), y_axis.fraction(y)
            return f"{LEFT + across * (RIGHT - LEFT):.1f}", f"{BOTTOM - up * (BOTTOM - TOP):.1f}"

        lines, bands = [], []
        for index, each in enumerate(curves):
            for piece in each.pieces:
                lines.append((index, [point(each.x[i], each.y[i]) for i in piece]))
                if each.size > 1:
                    upper = [point(each.x[i], each.high[i]) for i in piece]
                    lower = [point(each.x[i], each.low[i]) for i in reversed(piece)]
                    bands.append((index, upper + lower))
        x_places = [point(tick, y_axis.low)[0] for tick in x_axis.ticks]
        y_places = [point(x_axis.low, tick)[1] for tick in y_axis.ticks]
        return {
            "log": log,
            "x_ticks": [*zip(x_places, tick_labels(x_axis.ticks), strict=True)],
            "y_ticks": [*zip(y_places, tick_labels(y_axis.ticks), strict=True)],
            "levels": [point(x_axis.low, value)[1] for value in levels],
            "rings": [point(x, y) for x, y, _ in self.marks],
            "lines": lines,
            "bands": bands,
        }

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The class of each line, level and ring, and its name; a single line needs none."""
        lines = [(line_style(index), each.name) for index, each in enumerate(self.series)]
        return [
            *(lines if len(lines) > 1 else []),
            *(("level", name) for name, _ in self.levels),
            *(("ring", text) for _, _, text in self.marks),
        ]

    @property
    def words(self) -> str:
        """The chart in words, for screen readers: where each line starts and ends, its extremes."""
        parts = []
        for each in self.series:
            known = [(x, y) for x, y in zip(each.x, each.y, strict=True) if math.isfinite(y)]
            if not known:
                parts.append(f"{each.name}: no number")
                continue
            (first, start), (last, end), values = known[0], known[-1], [y for _, y in known]
            parts.append(
                f"{each.name} from {start:.4g} at {self.x_label} {first:g} to {end:.4g} at"
                f" {last:g}, lowest {min(values):.4g}, highest {max(values):.4g}"
            )
        parts += [f"{name} at {value:.4g}" for name, value in self.levels]
        parts += [f"marked: {text}" for _, _, text in self.marks]
        return f"{self.title}. {'; '.join(parts)}."


@dataclass(frozen=True)
class Points:
    """A line's points, each the mean of `size` neighbours; NaN in y is a gap.

    low and high: the extremes of the values that a point stands for.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    size: int

    @property
    def pieces(self) -> list[list[int]]:
        """The numbers of the points between two gaps."""
        known = np.flatnonzero(np.isfinite(self.y))
        parts = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
        return [part.tolist() for part in parts if len(part)]


def thinned(x: Sequence[float], y: Sequence[float]) -> Points:
    """At most MOST_POINTS points, at the mean x of the values that they stand for.

    A NaN among these makes the point a gap, so that no failure is averaged away.
    """
    values = np.asarray(y, dtype=float)
    values = np.where(np.isfinite(values), values, math.nan)
    size = max(1, -(-len(values) // MOST_POINTS))
    starts = np.arange(0, len(values), size)
    counts = np.diff([*starts, len(values)])
    centres = np.add.reduceat(np.asarray(x, dtype=float), starts) / counts
    means = np.add.reduceat(values, starts) / counts
    lows, highs = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return Points(centres, means, lows, highs, size)


def line_style(index: int) -> str:
    """The classes of a line: COLOURS x DASHES of them differ, the first few in both."""
    return f"line c{index % COLOURS} d{index % DASHES}"
