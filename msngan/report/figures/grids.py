"""Figures of one row a layer, the released quantity on the left and the stated one on the right.

A figure is a list of columns; each draws what one arm has of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.quantities import Array, Curve, over_runs, running_mean
from msngan.report.figures.records import Layer, Recorded
from msngan.report.figures.sheet import Sheet, line, logarithmic
from msngan.report.figures.style import Style, style
from msngan.report.figures.words import entries, subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = "step (updates)"
LOG_INDEX = "log index (measurements)"

Draw = Callable[["Axes", Recorded, Layer, Style], None]


@dataclass(frozen=True)
class Column:
    """heading: what it shows; up, across: the labels with their units; level: a line to compare.

    logarithmic: of the upright axis. positive: of what is never below 0. early: steps on a log
    scale, with 0.
    """

    heading: str
    up: str
    draw: Draw
    across: str = STEP
    level: float | None = None
    logarithmic: bool = False
    positive: bool = False
    early: bool = False


def grid(
    title: str,
    columns: Sequence[Column],
    arms: Sequence[Arm],
    recorded: Sequence[Recorded],
    layers: Sequence[Layer],
    notes: Sequence[str],
    verdict: Callable[[Recorded, Layer], str] | None = None,
    compared: Callable[[Sequence[Recorded], Layer], str] | None = None,
) -> Sheet:
    """A panel for each layer and column.

    verdict: words on each arm, beside a layer's last panel; compared: on all of them, above these.
    """
    sheet = Sheet(
        f"{title}{subject(arms)}",
        entries(arms, recorded),
        notes,
        (len(layers), len(columns)),
        aside=2.6 if verdict else 0,
    )
    for row, layer in enumerate(layers):
        for column, axes in zip(columns, sheet.axes[row], strict=True):
            for each in recorded:
                column.draw(axes, each, layer, style(each.arm.style))
            if column.logarithmic and axes.lines:
                logarithmic(axes)
            if column.positive and axes.lines:
                axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
            sheet.finish(axes, column.heading, layer.words(sheet.letters), column.across, column.up)
            if column.early and axes.lines:
                axes.set_xscale("symlog", linthresh=1, linscale=0.5)
                axes.set_xlim(-0.3, 1.3 * max(x for each in axes.lines for x in each.get_xdata()))
            if column.level is not None and axes.lines:
                axes.axhline(column.level, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))
        if verdict is not None and sheet.axes[row][-1].lines:
            words = [verdict(each, layer) for each in recorded]
            above = compared(recorded, layer) if compared else ""
            beside(sheet.axes[row][-1], recorded, words, above)
    return sheet


def beside(axes: Axes, recorded: Sequence[Recorded], words: Sequence[str], title: str = "") -> None:
    """A legend of words, one for each arm with its line, right of a panel."""
    from matplotlib.lines import Line2D

    looks = [style(each.arm.style) for each in recorded]
    handles = [Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker) for s in looks]
    axes.legend(
        handles,
        words,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        fontsize=7.5,
        title=title,
        title_fontsize=7.5,
        alignment="left",
        handlelength=2.6,
        labelspacing=0.3,
        borderpad=0.1,
    )


def column_of(record: Any, name: str, layer: Layer) -> Any:  # noqa: ANN401  arrays
    return np.asarray(getattr(record, name)[:, layer.index], dtype=float)


def stated(name: str, thick: float = 1.5) -> Draw:
    """A quantity of the record over steps, the mean over the arm's runs with their sd.

    A thin line (below 1 point) goes beside a thick one: it has neither markers nor a band.
    """

    def draw(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
        curves = [
            Curve(record.step * 1.0, column_of(record, name, layer)) for _, record in each.runs
        ]
        curve = over_runs(curves)
        if thick < 1:
            curve = Curve(curve.x, curve.y)
        line(axes, curve, look, thick, marks=thick > 1)

    return draw


def released(name: str, smooth: bool = False, spread: str | None = None) -> Draw:
    """As the authors plot it: one run, by the number of the measurement.

    smooth: by their running mean of 15. spread: half an sd of this is drawn to each side.
    """

    def draw(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
        record = each.runs[0][1]
        values: list[Array] = [column_of(record, name, layer)]
        if spread is not None:
            half = column_of(record, spread, layer) / 2
            values += [values[0] - half, values[0] + half]
        if smooth:
            values = [running_mean(each) for each in values]
        x = np.arange(len(record)) if not smooth else np.arange(len(record))[-len(values[0]) :]
        line(axes, Curve(np.asarray(x, dtype=float), *values), look)

    return draw


def channels(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
    """The mean over channels of the pre-activation's means, and where 80 % of the channels lie."""
    curves = []
    for _, record in each.runs:
        means = np.asarray(record.channel_mean[layer.index], dtype=float)
        if not means.shape[1] or not np.isfinite(means).any():
            continue
        low, high = np.quantile(means, [0.1, 0.9], axis=1)
        curves.append((Curve(record.step * 1.0, means.mean(axis=1, dtype=np.float64)), low, high))
    if not curves:
        return
    mean = over_runs([curve for curve, _, _ in curves])
    lows, highs = (
        over_runs([replace(curve, y=pair[side]) for curve, *pair in curves]).y for side in (0, 1)
    )
    line(axes, Curve(mean.x, mean.y, lows, highs), look)


def both(*draws: Draw) -> Draw:
    """Several quantities in one panel."""

    def draw(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
        for one in draws:
            one(axes, each, layer, look)

    return draw
