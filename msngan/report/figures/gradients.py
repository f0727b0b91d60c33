"""Figure 5 of the paper: the histogram of a layer's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.grids import beside, column_of
from msngan.report.figures.moments import at, moments
from msngan.report.figures.quantities import BINS, by_magnitude, linear_density, variance_ratio
from msngan.report.figures.records import Layer, Recorded, shared_layers, with_dynamics
from msngan.report.figures.sheet import Sheet
from msngan.report.figures.style import style
from msngan.report.figures.words import PROJECTED, entries, subject
from msngan.training.dynamics import Dynamics

NOTES = (
    f"(a) As released: the first gradient only, so at initialisation; {BINS} bins over each net's"
    " own range, density. The authors also average 5 neighbouring entries before they count, which"
    " narrows the shape (up to 2.2 times); from counts that cannot be redone, and it is left out."
    f" {PROJECTED}.",
    "(b) As stated: the same bins for all arms, both signs together; exact zeros are in no bin (see"
    " Figure 1). Beside it: the variance later in training over that at the first gradient; ?, of a"
    " run without a measurement there.",
)


def gradients(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    times = moments(recorded, lambda record: record.histogram.sum(axis=(1, 2, 3)) > 0)
    several = any(len(each.runs) > 1 for each in recorded)
    notes = [*NOTES, "Of several runs of an arm: (a) the first, (b) the mean."][: 2 + several]
    title = f"Figure 5: gradient histograms{subject(arms)}"
    shape = (len(layers), 1 + len(times))
    sheet = Sheet(title, entries(arms, recorded), notes, shape, panel=(2.7, 2.1), aside=1.1)
    for row, layer in enumerate(layers):
        left, *others = sheet.axes[row]
        for each in recorded:
            _released(left, each, layer)
            for axes, step in zip(others, times, strict=True):
                _stated(axes, each, layer, step)
        sheet.finish(
            left,
            "(a) As released: first gradient",
            layer.words(sheet.letters),
            "gradient",
            "density",
        )
        _few_ticks(left)
        for axes, step in zip(others, times, strict=True):
            if axes.lines:
                axes.set_xscale("log")
            heading = f"(b) As stated: at step {step}"
            sheet.finish(axes, heading, f"layer {layer.index}", "|gradient|", "share per decade")
        _alike(others)
        words = [variances(each, layer, times) for each in recorded]
        beside(others[-1], recorded, words, "variance / first:\nmiddle, last")
    return sheet, remarks


def _released(axes: Any, each: Recorded, layer: Layer) -> None:  # noqa: ANN401  matplotlib's
    record = each.runs[0][1]
    counts = record.histogram[:, layer.index]
    measured = np.flatnonzero(counts.sum(axis=(1, 2)))
    if not len(measured):
        return
    edges, density = linear_density(record.edges, counts[measured[0]])
    look = style(each.arm.style)
    axes.stairs(density, edges, color=look.colour, linestyle=look.dash, linewidth=1.3)


def _few_ticks(axes: Any) -> None:  # noqa: ANN401
    """Numbers of a small range in few digits, with their power of ten at the axis's end."""
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))


def _stated(axes: Any, each: Recorded, layer: Layer, step: int) -> None:  # noqa: ANN401
    found = [(record, at(record, step)) for _, record in each.runs]
    shares = [
        by_magnitude(record.edges, record.histogram[place, layer.index])[0]
        for record, place in found
        if place is not None
    ]
    if not shares or not np.isfinite(shares).any():
        return
    mean = np.nanmean(shares, axis=0)
    filled = np.flatnonzero(mean > 0)
    if not len(filled):
        return
    kept = slice(filled[0], filled[-1] + 1)
    edges = found[0][0].edges
    centres = np.sqrt(edges[1:] * edges[:-1])
    look = style(each.arm.style)
    axes.plot(
        centres[kept],
        mean[kept],
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markevery=max(1, len(filled) // 5),
        linewidth=1.4,
    )


def _alike(panels: Sequence[Any]) -> None:
    """The same axes for all panels that have something to show."""
    shown = [axes for axes in panels if axes.lines]
    if not shown:
        return
    top = max(axes.get_ylim()[1] for axes in shown)
    # Far from the bulk lie a few entries only; without them the bulk can be seen.
    x = np.concatenate([line.get_xdata() for axes in shown for line in axes.lines])
    y = np.concatenate([line.get_ydata() for axes in shown for line in axes.lines])
    kept = x[y > 0.004 * y.max()]
    for axes in shown:
        axes.set_ylim(0, top)
        axes.set_xlim(kept.min() / 1.5, kept.max() * 1.5)


def variances(each: Recorded, layer: Layer, times: Sequence[int]) -> str:
    """The variance of the gradient over its first, at the later times: the mean of the runs."""
    words = []
    for step in times[1:]:
        ratios = [ratio_at(record, layer, step) for _, record in each.runs]
        known = [ratio for ratio in ratios if np.isfinite(ratio)]
        words.append(_short(float(np.mean(known))) if known else "?")
    return ", ".join(words) if words else "one measurement"


def _short(ratio: float) -> str:
    """Two digits or all before the point, of thousands a power."""
    return f"{ratio:.0f}" if 100 <= ratio < 9999.5 else f"{ratio:.2g}"


def ratio_at(record: Dynamics, layer: Layer, step: int) -> float:
    sd = column_of(record, "gradient_sd", layer)
    measured = np.flatnonzero(np.isfinite(sd))
    place = at(record, step)
    if not len(measured) or place is None:
        return float("nan")
    return float(variance_ratio(np.append(sd[measured[:1]], sd[place]))[1])
