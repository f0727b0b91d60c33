"""Figures with one row for each layer; usually the released quantity is left of the stated one.

A figure is a list of columns. Each column draws what one arm has of one layer. The last ones show
whether the mean drifts: the means of the pre-activations over training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.quantities import DRIFTS, Array, Curve, over_runs, running_mean
from msngan.report.figures.run_records import (
    MEANS,
    Layer,
    Recorded,
    choose,
    entries,
    seeds,
    shared_layers,
    subject,
    with_dynamics,
)
from msngan.report.figures.style import Sheet, Style, finish, line, on_zero, ring

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


if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRIFT = (
    "Mean over channels of |mean now - mean at the first measurement| / sd now, of what enters the"
    " activation, on a fixed batch. Under a norm that centres these means are its learned offsets."
)
NOTES = (
    f"Right: {DRIFT} Steps are on a log scale from 1, to show the first ones; ringed: the largest"
    " measured value, and between two measurements there may have been a larger one. The dashed"
    f" line, {DRIFTS:g} sd, is our bound; the paper has none. A drift may also fall because the sd"
    " grew, without the mean moving back.",
    "Left: mean over channels; the band holds those from the 10th to the 90th percentile.",
)


@dataclass(frozen=True)
class Course:
    """The drift of a layer, in sd, the mean over an arm's runs.

    end: at `step`, the last that all runs have; low, high: the extremes of the runs there. most:
    the largest, at step `peak`.
    """

    step: int
    end: float
    low: float
    high: float
    peak: int
    most: float


def course(each: Recorded, layer: Layer) -> Course | None:
    """None if nothing was measured of the layer."""
    mean = mean_curve(each, "drift", layer)
    known = np.flatnonzero(np.isfinite(mean.y))
    if not len(known):
        return None
    last, top = known[-1], known[mean.y[known].argmax()]
    step = mean.x[last]
    ends = [float(column_of(r, "drift", layer)[r.step == step][0]) for _, r in each.runs]
    whole = (int(step), float(mean.y[last]), min(ends), max(ends))
    return Course(*whole, int(mean.x[top]), float(mean.y[top]))


def drift(recorded: Sequence[Recorded]) -> LayerFigure:
    columns = [
        Column("Pre-activation means", "mean of a channel", channels),
        Column(
            "Drift of the pre-activation means",
            "drift (sd)",
            both(stated("drift"), _ring),
            adjust=_early_steps_and_bound,
        ),
    ]
    notes = [*NOTES, *seeds(recorded, MEANS), *(all_layers(each) for each in recorded)]
    title = "Mean drift: does it drift?"
    return LayerFigure(title, columns, notes, beside=verdict, aside=2.6)


def _ring(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
    if (found := course(each, layer)) is not None:
        ring(axes, found.peak, found.most, look)


def _early_steps_and_bound(axes: Any) -> None:  # noqa: ANN401
    on_zero(axes)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_xlim(-0.3, 1.3 * max(x for each in axes.lines for x in each.get_xdata()))
    axes.axhline(DRIFTS, color="#444444", linewidth=0.9, linestyle=(0, (2, 2)))


def verdict(each: Recorded, layer: Layer) -> str:
    """The drift at the end and its maximum, beside our bound."""
    found = course(each, layer)
    if found is None:
        return "not measured"
    spread = f" ({found.low:.2f} to {found.high:.2f})" if len(each.runs) > 1 else ""
    if found.end > DRIFTS:
        answer = "drifts"
    elif found.most > DRIFTS:
        answer = f"was above {DRIFTS:g} sd, is not now"
    else:
        answer = f"stays within {DRIFTS:g} sd"
    return (
        f"{found.end:.2f} sd{spread} at step {found.step},\n"
        f"most {found.most:.2f} at step {found.peak}: {answer}"
    )


def all_layers(each: Recorded) -> str:
    """How many layers of the network end above our bound, and the largest drift of all."""
    source, record = each.runs[0]
    layers = choose(record, ("*",), source.name)
    found = {each_layer.name: course(each, each_layer) for each_layer in layers}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return f"{each.arm.label}: no drift on record."
    beyond = sum(one.end > DRIFTS for one in known.values())
    end = max(known, key=lambda name: known[name].end)
    most = max(known, key=lambda name: known[name].most)
    return (
        f"{each.arm.label}: of {len(known)} layers {beyond} above {DRIFTS:g} sd at step"
        f" {known[end].step}, the largest {known[end].end:.2f} ({end}); the most ever measured"
        f" {known[most].most:.2f} ({most}, step {known[most].peak})."
    )
