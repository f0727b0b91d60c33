"""Does the mean drift? The means of the pre-activations over training, and how far they moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.layer_grid import (
    Column,
    LayerFigure,
    both,
    channels,
    column_of,
    mean_curve,
    stated,
)
from msngan.report.figures.quantities import DRIFTS
from msngan.report.figures.run_records import MEANS, Layer, Recorded, choose, seeds
from msngan.report.figures.style import Style, on_zero, ring

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
