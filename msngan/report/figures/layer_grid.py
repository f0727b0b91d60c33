"""Figures with a row for each layer, of columns that draw what an arm has of it; mean drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

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
from msngan.runs.folder import counted

STEP = "step (updates)"
LOG_INDEX = "log index (measurements)"
WIDE, NARROW = (3.4, 2.1), (2.65, 2.1)  # inches of a panel

Draw = Callable[[Axes, Recorded, Layer, Style], None]


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
    adjust: Callable[[Axes], None] | None = None
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
            row[-1].legend(
                handles=[each.arm.look.line(figure.beside(each, layer)) for each in recorded],
                loc="upper left",
                bbox_to_anchor=(1.01, 1.02),
                fontsize=7.5,
                title=figure.beside_title,
                title_fontsize=7.5,
                alignment="left",
                handlelength=2.6,
                labelspacing=0.3,
                borderpad=0.1,
            )
    return sheet, remarks


def column_of(record: Any, name: str, layer: Layer) -> Any:  # noqa: ANN401  arrays
    return np.asarray(getattr(record, name)[:, layer.index], dtype=float)


def mean_curve(each: Recorded, name: str, layer: Layer) -> Curve:
    """A quantity of the record over steps: the mean over the arm's runs with their sd."""
    return over_runs([Curve(r.step * 1.0, column_of(r, name, layer)) for _, r in each.runs])


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
        values: list[Array] = [column_of(each.first, name, layer)]
        if spread is not None:
            half = column_of(each.first, spread, layer) / 2
            values += [values[0] - half, values[0] + half]
        if smooth:
            values = [running_mean(each) for each in values]
        x = np.arange(len(each.first), dtype=float)[-len(values[0]) :]
        line(axes, Curve(x, *values), look)

    return draw


def channels(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
    """The mean over channels of the pre-activation means, and where 80 % of the channels lie."""
    curves = []  # of each run: the mean, and both ends of the band
    for _, record in each.runs:
        means = np.asarray(record.channel_mean[layer.index], dtype=float)
        if means.shape[1] and np.isfinite(means).any():
            ends = np.quantile(means, [0.1, 0.9], axis=1)
            curves.append([Curve(record.step * 1.0, y) for y in (means.mean(axis=1), *ends)])
    if curves:
        mean, low, high = map(over_runs, zip(*curves, strict=True))
        line(axes, Curve(mean.x, mean.y, low.y, high.y), look)


def both(*draws: Draw) -> Draw:
    """Several quantities in one panel."""

    def draw(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
        for one in draws:
            one(axes, each, layer, look)

    return draw


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
    end, most = float(mean.y[last]), float(mean.y[top])
    return Course(int(step), end, min(ends), max(ends), int(mean.x[top]), most)


def drift(recorded: Sequence[Recorded]) -> LayerFigure:
    title, heading = "Mean drift: does it drift?", "Drift of the pre-activation means"
    ringed = both(stated("drift"), _ring)
    columns = [
        Column("Pre-activation means", "mean of a channel", channels),
        Column(heading, "drift (sd)", ringed, adjust=_early_steps_and_bound),
    ]
    notes = [*NOTES, *seeds(recorded, MEANS), *map(all_layers, recorded)]
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
    layers = choose(each.first, ("*",), each.arm.label)
    known = [(found, layer.name) for layer in layers if (found := course(each, layer)) is not None]
    if not known:
        return f"{each.arm.label}: no drift on record."
    beyond = sum(found.end > DRIFTS for found, _ in known)
    last, at_end = max(known, key=lambda one: one[0].end)
    top, at_most = max(known, key=lambda one: one[0].most)
    return (
        f"{each.arm.label}: of {counted(len(known), 'layer')} {beyond} above {DRIFTS:g} sd at step"
        f" {last.step}, the largest {last.end:.2f} ({at_end}); the most ever measured"
        f" {top.most:.2f} ({at_most}, step {top.peak})."
    )
