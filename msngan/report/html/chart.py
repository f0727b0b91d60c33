"""Curves as inline SVG: axes with ticks, one line per series, a gap where there is no number.

This module computes the geometry; templates/chart.html.j2 draws it. Colours are the five of Okabe
and Ito's palette (Color Universal Design, 2008) that stand out on white, and five on black; dashes
tell apart lines of the same colour. templates/style.css holds both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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


WIDTH, HEIGHT = 360, 216  # of the drawing, in the units of its text, which is 11 high
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 12, 36  # margins
COLOURS, DASHES = 5, 4  # classes of the style sheet: c0 to c4, d0 to d3
MOST_POINTS = 160  # of a line; about two pixels each

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
class Mark:
    """A ring around a point, and its text in the legend."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """unit: of y. log: a logarithmic y axis; None uses one where the values span 100:1 or more.

    levels: horizontal lines by name. include: a value that the y axis always shows.
    """

    title: str
    series: Sequence[Series]
    unit: str = ""
    x_label: str = "step"
    log: bool | None = None
    marks: Sequence[Mark] = ()
    levels: Sequence[tuple[str, float]] = ()
    include: float | None = None

    @property
    def drawing(self) -> Drawing | None:
        """None where there is no number to draw."""
        curves = [thinned(each.x, each.y) for each in self.series]
        values = [value for each in curves for value in [*each.low, *each.high]]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return None
        log = needs_log(finite) if self.log is None else self.log and max(finite) > 0
        levels = [value for _, value in self.levels if value > 0 or not log]
        values += levels if self.include is None or log else [*levels, self.include]
        x_axis = linear((x for each in curves for x in each.x), padding=0.0)
        y_axis = (logarithmic if log else linear)(values)

        def point(x: float, y: float) -> Point:
            across, up = x_axis.fraction(x), y_axis.fraction(y)
            right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
            return f"{LEFT + across * (right - LEFT):.1f}", f"{bottom - up * (bottom - TOP):.1f}"

        lines, bands = [], []
        for index, each in enumerate(curves):
            for piece in pieces(each.low, log):
                lines.append((index, [point(each.x[i], each.y[i]) for i in piece]))
                if each.size > 1:
                    upper = [point(each.x[i], each.high[i]) for i in piece]
                    lower = [point(each.x[i], each.low[i]) for i in reversed(piece)]
                    bands.append((index, upper + lower))
        x_places = [point(tick, y_axis.low)[0] for tick in x_axis.ticks]
        y_places = [point(x_axis.low, tick)[1] for tick in y_axis.ticks]
        return Drawing(
            log,
            [*zip(x_places, tick_labels(x_axis.ticks), strict=True)],
            [*zip(y_places, tick_labels(y_axis.ticks), strict=True)],
            [point(x_axis.low, value)[1] for value in levels],
            [point(mark.x, mark.y) for mark in self.marks if mark.y > 0 or not log],
            lines,
            bands,
        )

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The class of each line, level and ring, and its name; a single line needs none."""
        lines = [(line_style(index), each.name) for index, each in enumerate(self.series)]
        return [
            *(lines if len(lines) > 1 else []),
            *(("level", name) for name, _ in self.levels),
            *(("ring", mark.text) for mark in self.marks),
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
            (first, start), (last, end) = known[0], known[-1]
            lowest, highest = min(y for _, y in known), max(y for _, y in known)
            parts.append(
                f"{each.name} from {start:.4g} at {self.x_label} {first:g} to {end:.4g} at"
                f" {last:g}, lowest {lowest:.4g}, highest {highest:.4g}"
            )
        parts += [f"{name} at {value:.4g}" for name, value in self.levels]
        parts += [f"marked: {mark.text}" for mark in self.marks]
        return f"{self.title}. {'; '.join(parts)}."


@dataclass(frozen=True)
class Drawing:
    """A chart's geometry, in the units of the drawing.

    Ticks: place and label. lines: the number of the series, and the points of each piece between
    two gaps. bands: outlines from the lowest to the highest of the values that a point stands for.
    """

    log: bool
    x_ticks: list[tuple[str, str]]
    y_ticks: list[tuple[str, str]]
    levels: list[str]
    rings: list[Point]
    lines: list[tuple[int, list[Point]]]
    bands: list[tuple[int, list[Point]]]


def pieces(values: Sequence[float], log: bool) -> Iterator[list[int]]:
    """The numbers of neighbouring values that have a place on the axis."""
    piece: list[int] = []
    for index, value in enumerate(values):
        if math.isfinite(value) and (value > 0 or not log):
            piece.append(index)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


@dataclass(frozen=True)
class Points:
    """A line's points; NaN in y is a gap. low and high: of the values that a point stands for."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    size: int = 1  # how many values a point is the mean of


def thinned(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> Points:
    """At most `most` points: each the mean of as many neighbours, at their mean x.

    A NaN among them makes the point a gap, so that no failure is averaged away.
    """
    size = max(1, -(-len(x) // most))
    if size == 1:
        return Points(x, y, y, y)
    means, centres, lows, highs = [], [], [], []
    for start in range(0, len(x), size):
        values = y[start : start + size]
        finite = all(map(math.isfinite, values))
        centres.append(math.fsum(x[start : start + size]) / len(values))
        means.append(math.fsum(values) / len(values) if finite else math.nan)
        lows.append(min(values) if finite else math.nan)
        highs.append(max(values) if finite else math.nan)
    return Points(centres, means, lows, highs, size)


def line_style(index: int) -> str:
    """The classes of a line: COLOURS x DASHES of them differ, the first few in both."""
    return f"line c{index % COLOURS} d{index % DASHES}"
