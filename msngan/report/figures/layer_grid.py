"""Figures with one row for each layer; usually the released quantity is left of the stated one.

A figure is a list of columns. Each column draws what one arm has of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.quantities import Array, Curve, over_runs, running_mean
from msngan.report.figures.run_records import (
    Layer,
    Recorded,
    entries,
    shared_layers,
    subject,
    with_dynamics,
)
from msngan.report.figures.style import Sheet, Style, finish, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = "step (updates)"
LOG_INDEX = "log index (measurements)"
WIDE, NARROW = (3.4, 2.1), (2.65, 2.1)  # inches of a panel

Draw = Callable[["Axes", Recorded, Layer, Style], None]
Adjust = Callable[["Axes"], None]


@dataclass(frozen=True)
class Column:
    """heading: what it shows; up, across: axis labels with units.

    adjust: called with the axes if they show anything, such as `logarithmic`. alike: the panel
    shares its axes with the row's other panels that are alike.
    """

    heading: str
    up: str
    draw: Draw
    across: str = STEP
    adjust: Adjust | None = None
    alike: bool = False


@dataclass(frozen=True)
class LayerFigure:
    """A figure of the layers of some networks.

    share: called with a row's panels that are alike and not empty. beside: words on an arm, put
    right of the last panel, under `beside_title`, in a space `aside` inches wide.
    """

    title: str
    columns: Sequence[Column]
    notes: Sequence[str]
    panel: tuple[float, float] = WIDE
    share: Callable[[list[Axes]], None] | None = None
    beside: Callable[[Recorded, Layer], str] | None = None
    beside_title: str = ""
    aside: float = 0


def layer_sheet(
    make: Callable[[list[Recorded]], LayerFigure], arms: Sequence[Arm], wanted: Sequence[str]
) -> tuple[Sheet, list[str]]:
    """Draw a figure of the `wanted` layers; also returns a line on each record that is missing."""
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    figure = make(recorded)
    sheet = Sheet(
        f"{figure.title}{subject(arms)}",
        entries(arms, recorded),
        figure.notes,
        (len(layers), len(figure.columns)),
        figure.panel,
        figure.aside,
    )
    for row, layer in zip(sheet.axes, layers, strict=True):
        alike = []
        for number, (column, axes) in enumerate(zip(figure.columns, row, strict=True)):
            for each in recorded:
                column.draw(axes, each, layer, each.arm.look)
            whole = number == 0 or figure.panel == WIDE
            below = layer.words(sheet.letters) if whole else f"layer {layer.index}"
            shown = finish(axes, column.heading, below, column.across, column.up)
            if shown and column.alike:
                alike.append(axes)
            if shown and column.adjust:
                column.adjust(axes)
        if figure.share and alike:
            figure.share(alike)
        if figure.beside and row[-1].lines:
            words = [figure.beside(each, layer) for each in recorded]
            _beside(row[-1], recorded, words, figure.beside_title)
    return sheet, remarks


def _beside(axes: Axes, recorded: Sequence[Recorded], words: Sequence[str], title: str) -> None:
    """A legend of words, one for each arm with its line, right of a panel."""
    axes.legend(
        [each.arm.look.line() for each in recorded],
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


def mean_curve(each: Recorded, name: str, layer: Layer) -> Curve:
    """A quantity of the record over steps: the mean over the arm's runs with their sd."""
    curves = [Curve(record.step * 1.0, column_of(record, name, layer)) for _, record in each.runs]
    return over_runs(curves)


def stated(name: str, thick: float = 1.5) -> Draw:
    """`mean_curve`. A thin line (below 1 point) beside a thick one has no markers and no band."""

    def draw(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
        curve = mean_curve(each, name, layer)
        thin = thick < 1
        line(axes, Curve(curve.x, curve.y) if thin else curve, look, thick, marks=not thin)

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
        x = np.arange(len(record), dtype=float)[-len(values[0]) :]
        line(axes, Curve(x, *values), look)

    return draw


def channels(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
    """The mean over channels of the pre-activation means, and where 80 % of the channels lie."""
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
