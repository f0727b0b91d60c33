"""Curves as inline SVG: axes with ticks, a line a series, gaps where there is no number.

Colours are the five of Okabe and Ito's palette (Color Universal Design, 2008) that stand out on
white, and five on black; dashes tell apart what has the same colour. The page's style holds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from msngan.report.html.leaderboard_markup import escape
from msngan.report.html.scale import Axis, linear, logarithmic, wants_log, written
from msngan.report.html.thin import Points, thinned

WIDTH, HEIGHT = 360, 216  # of the drawing, in the units of its text, which is 11 high
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 12, 36
COLOURS, DASHES = 5, 4  # classes of the style: c0 to c4, d0 to d3


@dataclass(frozen=True)
class Series:
    """One line: x rising, y as long; NaN in y is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    @property
    def sound(self) -> bool:
        """Whether there is a number to draw."""
        return any(map(math.isfinite, self.y))


@dataclass(frozen=True)
class Mark:
    """A ring around a point, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What is drawn. unit: of y. log: equal distances in y are equal ratios; None: where it helps.

    levels: horizontal lines by their names. floor: a value that y always reaches down to.
    """

    title: str
    series: Sequence[Series]
    unit: str = ""
    x_label: str = "step"
    log: bool | None = None
    marks: Sequence[Mark] = ()
    levels: Sequence[tuple[str, float]] = ()
    floor: float | None = None


def drawn(chart: Chart) -> str:
    """The chart as a <figure> with a legend; a sentence where there is nothing to draw."""
    kept = [(each.name, thinned(each.x, each.y)) for each in chart.series]
    values = [value for _, points in kept for value in [*points.low, *points.high]]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return f'<p class="note">{escape(chart.title)}: no number to draw.</p>\n'
    log = wants_log(finite) if chart.log is None else chart.log and max(finite) > 0
    extra = [value for _, value in chart.levels]
    extra += [chart.floor] if chart.floor is not None and not log else []
    y_axis = (logarithmic if log else linear)([*values, *extra])
    x_axis = linear((x for _, points in kept for x in points.x), room=0.0)
    place = _Place(x_axis, y_axis)
    body = "".join(
        [
            *_frame(place, chart.x_label),
            *(_level(place, value) for _, value in chart.levels),
            *(_band(place, points, index) for index, (_, points) in enumerate(kept)),
            *(_line(place, points, index) for index, (_, points) in enumerate(kept)),
            *(_ring(place, mark) for mark in chart.marks),
        ]
    )
    unit = f"{chart.unit}, log scale" if log and chart.unit else "log scale" if log else chart.unit
    note = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}{note}</figcaption>\n'
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{escape(_words(chart))}</title>'
        f"{body}</svg>\n{legend(chart)}</figure>\n"
    )


def grid(charts: Iterable[Chart]) -> str:
    """Charts beside each other, as many as the page is wide."""
    return f'<div class="charts">\n{"".join(map(drawn, charts))}</div>\n'


def legend(chart: Chart) -> str:
    """A list of what the lines and rings are; nothing for one line alone."""
    kinds = [(style(index), each.name) for index, each in enumerate(chart.series)]
    kinds = kinds if len(kinds) > 1 else []
    kinds += [("level", name) for name, _ in chart.levels]
    drawn = [(f'<path class="{kind}" d="M0 5H20"/>', name) for kind, name in kinds]
    drawn += [('<circle class="ring" cx="10" cy="5" r="4"/>', mark.text) for mark in chart.marks]
    items = "".join(
        f'<li><svg viewBox="0 0 20 10" width="20" height="10" aria-hidden="true">{piece}</svg>'
        f" {escape(name)}</li>"
        for piece, name in drawn
    )
    return f'<ul class="legend">{items}</ul>\n' if items else ""


def style(index: int) -> str:
    """The classes of the line with this number; COLOURS x DASHES differ, the first in both."""
    return f"line c{index % COLOURS} d{index % DASHES}"


@dataclass(frozen=True)
class _Place:
    x_axis: Axis
    y_axis: Axis

    def x(self, value: float) -> str:
        return f"{self.x_axis.placed(LEFT, WIDTH - RIGHT)(value):.1f}"

    def y(self, value: float) -> str:
        return f"{self.y_axis.placed(HEIGHT - BOTTOM, TOP)(value):.1f}"

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.y_axis.log)


def _frame(place: _Place, x_label: str) -> Iterator[str]:
    """Grid lines, ticks and the label of x."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick, text in zip(place.y_axis.ticks, written(place.y_axis.ticks), strict=True):
        y = place.y(tick)
        yield f'<path class="grid" d="M{LEFT} {y}H{right}"/>'
        yield f'<text x="{LEFT - 5}" y="{y}" dy=".35em" text-anchor="end">{text}</text>'
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    for tick, text in zip(place.x_axis.ticks, written(place.x_axis.ticks), strict=True):
        x = place.x(tick)
        yield f'<path class="axis" d="M{x} {bottom}v4"/>'
        yield f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{text}</text>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'


def _pieces(place: _Place, points: Points) -> Iterator[list[int]]:
    """Runs of point numbers without a gap between."""
    piece: list[int] = []
    for index, value in enumerate(points.y):
        if place.holds(value) and place.holds(points.low[index]):
            piece.append(index)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _line(place: _Place, points: Points, index: int) -> str:
    made = []
    for piece in _pieces(place, points):
        at = [(place.x(points.x[i]), place.y(points.y[i])) for i in piece]
        if len(at) > 1:
            joined = " ".join(",".join(pair) for pair in at)
            made.append(f'<polyline class="{style(index)}" points="{joined}"/>')
        else:
            x, y = at[0]
            made.append(f'<circle class="point c{index % COLOURS}" cx="{x}" cy="{y}" r="2.5"/>')
    return "".join(made)


def _band(place: _Place, points: Points, index: int) -> str:
    """From the lowest to the highest of what each point is the mean of."""
    if points.size == 1:
        return ""
    made = []
    for piece in _pieces(place, points):
        edge = [(place.x(points.x[i]), place.y(points.high[i])) for i in piece]
        edge += [(place.x(points.x[i]), place.y(points.low[i])) for i in reversed(piece)]
        joined = " ".join(",".join(pair) for pair in edge)
        made.append(f'<polygon class="band c{index % COLOURS}" points="{joined}"/>')
    return "".join(made)


def _level(place: _Place, value: float) -> str:
    return f'<path class="level" d="M{LEFT} {place.y(value)}H{WIDTH - RIGHT}"/>'


def _ring(place: _Place, mark: Mark) -> str:
    if not place.holds(mark.y):
        return ""
    return f'<circle class="ring" cx="{place.x(mark.x)}" cy="{place.y(mark.y)}" r="5"/>'


def _words(chart: Chart) -> str:
    """The chart for who cannot see it: where each line starts, ends, and its extremes."""
    parts = []
    for each in chart.series:
        sound = [(x, y) for x, y in zip(each.x, each.y, strict=True) if math.isfinite(y)]
        if not sound:
            parts.append(f"{each.name}: no number")
            continue
        (first, start), (last, end) = sound[0], sound[-1]
        lowest, highest = min(y for _, y in sound), max(y for _, y in sound)
        parts.append(
            f"{each.name} from {start:.4g} at {chart.x_label} {first:g} to {end:.4g} at {last:g},"
            f" lowest {lowest:.4g}, highest {highest:.4g}"
        )
    parts += [f"{name} at {value:.4g}" for name, value in chart.levels]
    parts += [f"marked: {mark.text}" for mark in chart.marks]
    return f"{chart.title}. {'; '.join(parts)}."
