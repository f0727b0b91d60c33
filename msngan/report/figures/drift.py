"""Does the mean drift? Pre-activation means over training, how far they went and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.grids import Column, both, channels, column_of, grid, stated
from msngan.report.figures.quantities import DRIFTS, Curve, over_runs
from msngan.report.figures.records import Layer, Recorded, choose, shared_layers, with_dynamics
from msngan.report.figures.sheet import Sheet
from msngan.report.figures.style import Style
from msngan.report.figures.words import MEANS, seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRIFT = (
    "Mean over channels of |mean now - mean at the first measurement| / sd now, of what enters the"
    " activation, on a fixed batch. Under a norm that centres these means are its learned offsets."
)
NOTES = (
    f"Right: {DRIFT} Steps are on a log scale from 1, for the first ones to be seen; ringed: the"
    " most that was measured, and between two measurements there may have been more. The dashed"
    f" line, {DRIFTS:g} sd, is our bound; the paper has none. A"
    " drift may fall because the sd grew, without the mean's going back.",
    "Left: mean over channels; the band holds those from the 10th to the 90th percentile.",
)


@dataclass(frozen=True)
class Course:
    """The drift of a layer, in sd, the mean over an arm's runs.

    end: at `step`, the last that all runs have; lows and highs of the runs there. most: the
    largest, at step `peak`.
    """

    step: int
    end: float
    low: float
    high: float
    peak: int
    most: float


def course(each: Recorded, layer: Layer) -> Course | None:
    """None where nothing was measured of the layer."""
    curves = [Curve(r.step * 1.0, column_of(r, "drift", layer)) for _, r in each.runs]
    mean = over_runs(curves)
    known = np.flatnonzero(np.isfinite(mean.y))
    if not len(known):
        return None
    last, top = known[-1], known[mean.y[known].argmax()]
    step = mean.x[last]
    ends = [float(curve.y[curve.x == step][0]) for curve in curves]
    whole = (int(step), float(mean.y[last]), min(ends), max(ends))
    return Course(*whole, int(mean.x[top]), float(mean.y[top]))


def drift(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    columns = [
        Column("Pre-activation means", "mean of a channel", channels),
        Column(
            "Drift of the pre-activation means",
            "drift (sd)",
            both(stated("drift"), _ring),
            level=DRIFTS,
            early=True,
            positive=True,
        ),
    ]
    notes = [*NOTES, *seeds(recorded, MEANS), *(all_layers(each) for each in recorded)]
    title = "Mean drift: does it drift?"
    return grid(title, columns, arms, recorded, layers, notes, verdict, compared), remarks


def verdict(each: Recorded, layer: Layer) -> str:
    """The drift at the end and at its most, and what that makes of our bound."""
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


def compared(recorded: Sequence[Recorded], layer: Layer) -> str:
    """Spectral norm beside mean spectral norm, at the last step that both have measured."""
    sides = [[each for each in recorded if each.arm.norm == norm] for norm in COMPARED]
    if any(len(side) != 1 for side in sides):
        return ""
    curves = [
        over_runs([Curve(r.step * 1.0, column_of(r, "drift", layer)) for _, r in side[0].runs])
        for side in sides
    ]
    values = [{x: y for x, y in zip(c.x, c.y, strict=True) if np.isfinite(y)} for c in curves]
    shared = set(values[0]) & set(values[1])
    if not shared:
        return ""
    step = max(shared)
    words = [f"{norm} {found[step]:.2f}" for norm, found in zip(COMPARED, values, strict=True)]
    return f"at step {step:.0f}: {', '.join(words)}"


COMPARED = ("spectral", "mean_spectral")


def all_layers(each: Recorded) -> str:
    """How many layers of the network end above our bound, and the furthest of all."""
    source, record = each.runs[0]
    found = {}
    for layer in choose(record, ("*",), source.name):
        if (one := course(each, layer)) is not None:
            found[layer.name] = one
    if not found:
        return f"{each.arm.label}: no drift on record."
    beyond = sum(one.end > DRIFTS for one in found.values())
    end = max(found, key=lambda name: found[name].end)
    most = max(found, key=lambda name: found[name].most)
    return (
        f"{each.arm.label}: of {len(found)} layers {beyond} above {DRIFTS:g} sd at step"
        f" {found[end].step}, the largest {found[end].end:.2f} ({end}); the most ever measured"
        f" {found[most].most:.2f} ({most}, step {found[most].peak})."
    )


def _ring(axes: Axes, each: Recorded, layer: Layer, look: Style) -> None:
    if (found := course(each, layer)) is not None:
        axes.plot(
            [found.peak],
            [found.most],
            "o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markeredgewidth=1.0,
        )
