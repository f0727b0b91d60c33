"""Figures 1 to 6 of arXiv 1907.04003 from runs' records, and dead units, norms and complexity.

In Figures 1 to 6 the left column is what the authors' code plots, the others what the paper says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msngan.report.figures import quantities, run_records
from msngan.report.figures.arms import Arm
from msngan.report.figures.layer_grid import (
    DRIFT,
    LOG_INDEX,
    NARROW,
    STEP,
    Column,
    Draw,
    LayerFigure,
    both,
    channels,
    column_of,
    released,
    stated,
)
from msngan.report.figures.quantities import Curve, over_runs
from msngan.report.figures.run_records import MEANS, Layer, Recorded, at, seeds
from msngan.report.figures.style import Sheet, Style, finish, line, logarithmic, on_zero, ring
from msngan.training.dynamics import Dynamics

PROJECTED = (
    "Under a spectral norm this is the gradient of the parameter (the paper's equation 9), not, as"
    " in the code, that of the normed weight: it is divided by sigma and freed of u v^T"
)
WEIGHTS = (
    "(a) As released: the code logs the mean of the weights, not of the layer's output; the mean"
    " drift that the paper speaks of is of pre-activations. The released x axis is the log index,"
    " labelled as epoch. Of a layer under a spectral norm it is the normed weight, which the code"
    " writes over the weight."
)
Points = tuple[NDArray[Any], NDArray[Any]]  # x and y
RANGE = 1e-4  # of the largest singular value; smaller ones are not drawn


def sparsity(recorded: Sequence[Recorded]) -> LayerFigure:
    share = recorded[0].first.threshold
    first = "(a) As released: exact zeros of the gradient"
    second = f"(b) As stated: |gradient| < {share:g} of its rms"
    small = both(stated("gradient_small"), stated("gradient_zero", 0.7))
    columns = [
        Column(first, "zero entries (fraction)", released("gradient_zero"), LOG_INDEX, on_zero),
        Column(second, "small entries (fraction)", small, adjust=on_zero),
    ]
    notes = [
        "(a) The code counts entries of one batch's weight gradient that are exactly 0. After ReLU"
        " such entries come from channels that are dead on the whole batch; after LeakyReLU there"
        " are next to none. The authors measure the first batch of each epoch, without smoothing."
        f" {PROJECTED}, and has no exact zeros.",
        f"(b) Thick, with markers: entries below {share:g} of the layer's rms; thin: exact zeros.",
    ]
    return LayerFigure("Figure 1: gradient sparsity", columns, notes + seeds(recorded))


def weight_spread(recorded: Sequence[Recorded]) -> LayerFigure:
    weights = released("effective_mean", run_records.smooths(recorded), "effective_sd")
    columns = [
        Column("(a) As released: weights, mean ± sd/2", "weight", weights, LOG_INDEX),
        Column("(b) As stated: pre-activation means", "mean of a channel", channels),
    ]
    notes = [
        f"{WEIGHTS} {run_records.smoothing(recorded)}",
        "(b) Mean over channels of the means of what enters the activation, on a fixed batch; the"
        " band holds the channels from the 10th to the 90th percentile.",
        *seeds(recorded, "(a) the first; (b) their mean, as far as all of them go"),
    ]
    return LayerFigure("Figure 3: mean drift, with spread", columns, notes)


def weight_means(recorded: Sequence[Recorded]) -> LayerFigure:
    weights = released("effective_mean", run_records.smooths(recorded))
    columns = [
        Column("(a) As released: mean of the weights", "weight", weights, LOG_INDEX),
        Column("(b) As stated: drift of pre-activations", "drift (sd)", stated("drift")),
    ]
    notes = [f"{WEIGHTS} {run_records.smoothing(recorded)}", f"(b) {DRIFT}"]
    return LayerFigure("Figure 4: mean drift", columns, notes + seeds(recorded))


def gradients(recorded: Sequence[Recorded]) -> LayerFigure:
    times = run_records.moments(recorded, lambda record: record.histogram.sum(axis=(1, 2, 3)) > 0)
    columns = [
        Column("(a) As released: first gradient", "density", _density, "gradient", _few_ticks)
    ]
    columns += _at_each(times, "share per decade", _magnitudes, "|gradient|")
    notes = [
        f"(a) As released: the first gradient only, at initialisation; {quantities.BINS} bins over"
        " each net's own range, density. The authors also average 5 neighbouring entries before"
        " they count, which narrows the shape (up to 2.2 times); this cannot be redone from counts"
        f" and is left out. {PROJECTED}.",
        "(b) As stated: the same bins for all arms, both signs together; exact zeros are in no bin"
        " (see Figure 1). Beside it: the variance later in training over that at the first"
        " gradient; ?: the run has no measurement there.",
        *seeds(recorded, "(a) the first; (b) the mean"),
    ]
    return LayerFigure(
        "Figure 5: gradient histograms",
        columns,
        notes,
        NARROW,
        _share_gradients,
        beside=lambda each, layer: variances(each, layer, times),
        beside_title="variance / first:\nmiddle, last",
        aside=1.1,
    )


def _at_each(
    times: Sequence[int], up: str, values: Callable[[Any, int, int], Points | None], across: str
) -> list[Column]:
    """A column for each step, which shows the mean over the arm's runs.

    values: the points of a layer, by its index, at a measurement of a record; None without any.
    """

    def panel(step: int) -> Draw:
        def draw(axes: Any, each: Recorded, layer: Layer, look: Style) -> None:  # noqa: ANN401
            places = [(record, at(record, step)) for _, record in each.runs]
            every = [values(r, place, layer.index) for r, place in places if place is not None]
            found = [points for points in every if points is not None]
            if not found:
                return
            x, mean = found[0][0], np.mean([y for _, y in found], axis=0, dtype=float)
            filled = np.flatnonzero(mean > 0)
            kept = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0)
            axes.plot(
                x[kept],
                mean[kept],
                color=look.colour,
                linestyle=look.dash,
                linewidth=1.4,
                marker=look.marker,
                markevery=max(1, len(x[kept]) // 5),
            )

        return draw

    return [
        Column(f"(b) As stated: at step {step}", up, panel(step), across, alike=True)
        for step in times
    ]


def _density(axes: Any, each: Recorded, layer: Layer, look: Style) -> None:  # noqa: ANN401
    counts = each.first.histogram[:, layer.index]
    measured = np.flatnonzero(counts.sum(axis=(1, 2)))
    if len(measured):
        edges, density = quantities.linear_density(each.first.edges, counts[measured[0]])
        axes.stairs(density, edges, color=look.colour, linestyle=look.dash, linewidth=1.3)


def _few_ticks(axes: Any) -> None:  # noqa: ANN401
    """Numbers of few digits, with their power of ten at the end of the axis."""
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))


def _magnitudes(record: Dynamics, place: int, layer: int) -> Points | None:
    share = quantities.by_magnitude(record.edges, record.histogram[place, layer])
    middles = np.sqrt(record.edges[1:] * record.edges[:-1])
    return (middles, share) if np.isfinite(share).any() else None


def _share_gradients(panels: Sequence[Any]) -> None:
    """The same axes for all. Far from the bulk there are a few entries only, which are cut off."""
    x = np.concatenate([line.get_xdata() for axes in panels for line in axes.lines])
    y = np.concatenate([line.get_ydata() for axes in panels for line in axes.lines])
    kept = x[y > 0.004 * y.max()]
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_xscale("log")
        axes.set_ylim(0, top)
        axes.set_xlim(kept.min() / 1.5, kept.max() * 1.5)


def variances(each: Recorded, layer: Layer, times: Sequence[int]) -> str:
    """The variance of the gradient over its first, at the later times: the mean of the runs."""
    words = []
    for step in times[1:]:
        ratios = [variance_ratio(record, layer, step) for _, record in each.runs]
        known = [ratio for ratio in ratios if np.isfinite(ratio)]
        mean = float(np.mean(known)) if known else 0.0
        short = f"{mean:.0f}" if 100 <= mean < 9999.5 else f"{mean:.2g}"
        words.append(short if known else "?")
    return ", ".join(words) if words else "one measurement"


def variance_ratio(record: Dynamics, layer: Layer, step: int) -> float:
    """The variance at a step over the first measured one; NaN where there is none."""
    sd = column_of(record, "gradient_sd", layer)
    measured, place = sd[np.isfinite(sd)], at(record, step)
    if not len(measured) or place is None or measured[0] == 0:
        return float("nan")
    return float((sd[place] / measured[0]) ** 2)


def spectra(recorded: Sequence[Recorded]) -> LayerFigure:
    times = run_records.moments(
        recorded, lambda record: np.isfinite(record.matrix_norm).any(axis=1)
    )
    top = released("kernel_singular", run_records.smooths(recorded))
    columns = [Column("(a) As released: mean top value", "singular value", top, LOG_INDEX)]
    columns += _at_each(times, "singular value", _spectrum, "index")
    norms = both(stated("operator_norm"), stated("matrix_norm", 0.7))
    columns.append(Column("(c) As stated: norms", "norm", norms, adjust=logarithmic))
    notes = [
        "(a) As released: the largest singular value of each (output, input) kernel slice,"
        " averaged; of a 1x1 convolution, as all in the paper's figure, that is the mean of |w|."
        f" {run_records.smoothing(recorded)}",
        "(b) As stated: all singular values of the (outputs) x (inputs x kernel) matrix of the"
        " weight that the layer computes with. (c) Thick, with markers: the norm of the layer as an"
        " operator; thin: the largest singular value of the matrix.",
        *seeds(recorded),
    ]
    title = "Figure 6: singular values"
    return LayerFigure(title, columns, notes, panel=NARROW, share=_share_spectra)


def _spectrum(record: Dynamics, place: int, layer: int) -> Points | None:
    """The singular values by their number, descending."""
    values = record.singular[layer][place]
    numbers = np.arange(1, len(values) + 1)
    return (numbers, values) if len(values) and np.isfinite(values).all() else None


def _share_spectra(panels: Sequence[Any]) -> None:
    values = [v for axes in panels for each in axes.lines for v in each.get_ydata() if v > 0]
    if not values:
        return
    top = max(values)
    for axes in panels:
        axes.set_ylim(max(min(values), RANGE * top) / 1.3, top * 1.3)
        logarithmic(axes)


def dead(recorded: Sequence[Recorded]) -> LayerFigure:
    columns = [
        Column("Dead channels", "dead channels (fraction)", stated("dead"), adjust=on_zero),
        Column("Offset of the channels", "|mean| / sd", stated("offset"), adjust=on_zero),
    ]
    note = "Dead: nowhere above 0 on a fixed batch, before the activation."
    return LayerFigure("Dead units", columns, [note, *seeds(recorded, MEANS)])


def norms(recorded: Sequence[Recorded]) -> LayerFigure:
    columns = [
        Column("Operator norm of the layer", "norm", stated("operator_norm"), adjust=logarithmic),
        Column("Spectral norm of the matrix", "norm", stated("matrix_norm"), adjust=logarithmic),
        Column("Stable rank of the matrix", "rank", stated("stable_rank")),
    ]
    note = (
        "Of the weight that the layer computes with. The matrix is (outputs) x (inputs x kernel);"
        " the operator is the layer as a map, whose norm may exceed that of the matrix."
    )
    return LayerFigure("Norms of the layers", columns, [note, *seeds(recorded, MEANS)])


def subspaces(recorded: Sequence[Recorded]) -> LayerFigure:
    headings = {
        "Left subspace kept": "subspace_left",
        "Right subspace kept": "subspace_right",
        "Shared with the layer before": "subspace_link",
    }
    columns = [
        Column(heading, "mean cosine", stated(name), adjust=on_zero)
        for heading, name in headings.items()
    ]
    note = (
        "Mean cosine of the principal angles: 1 is the same subspace, 0 an orthogonal one. Kept:"
        " the leading singular vectors of the weight that the layer computes with, now and at the"
        " first measurement. Shared: the directions in which the layer reads its inputs, and the"
        " leading outputs of the layer before it, where that has as many."
    )
    return LayerFigure("Subspaces of the weights", columns, [note, *seeds(recorded, MEANS)])


def accuracy(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    """Figure 2: the test accuracy, of the network and not of a layer, so `wanted` has no effect."""
    recorded, remarks = run_records.with_accuracy(arms)
    notes = [
        "(a) As released: the accuracy so far in a pass over the test set, logged after every 100"
        f" images and smoothed by a running mean of {quantities.WINDOW} of these, so that a point"
        " mixes two epochs and the first images of a pass count most. Here the passes are at the"
        " ends of the epochs.",
        "(b), (c) As stated: of the whole test set at the end of each epoch. Ringed: the epoch that"
        " the validation images choose, in each run; the test images choose nothing.",
        *seeds(recorded),
    ]
    title = f"Figure 2: test accuracy{run_records.subject(arms)}"
    sheet = Sheet(title, run_records.entries(arms, recorded), notes, (1, 3), panel=(3.1, 2.9))
    left, middle, right = sheet.axes[0]
    for each in recorded:
        look = each.arm.look
        places, values = quantities.within_epochs(each.first)
        smooth = 100 * quantities.running_mean(values)
        if len(smooth):
            line(left, Curve(places[-len(smooth) :], smooth), look, 1.2)
        _epochs(middle, each, look, lambda share: 100 * share)
        _epochs(right, each, look, lambda share: 100 * (1 - share))
    finish(left, "(a) As released: within passes", "", "epoch", "test accuracy (%)")
    finish(middle, "(b) As stated: each epoch", "", "epoch", "test accuracy (%)")
    finish(right, "(c) As stated: each epoch", "", "epoch", "test error (%)")
    for axes in (left, middle):
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    if right.lines:
        logarithmic(right)
    return sheet, remarks


def _epochs(axes: Any, each: Recorded, look: Style, of: Callable[[Any], Any]) -> None:  # noqa: ANN401
    curves = []
    for _, lines in each.runs:
        epochs = np.array([float(record["epoch"]) for record in lines])
        values = of(np.array([float(record["test_accuracy"]) for record in lines]))
        curves.append(Curve(epochs, values))
        best = quantities.selected([record.get("validation_accuracy") for record in lines])
        if best is not None:
            ring(axes, epochs[best], values[best], look)
    line(axes, over_runs(curves), look)


def complexity(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    """A panel for each network and not for each layer, so `wanted` has no effect."""
    recorded, remarks = run_records.with_dynamics(arms)
    names = list(dict.fromkeys(n for each in recorded for _, r in each.runs for n in r.networks))
    notes = [
        "Bartlett, Foster & Telgarsky 2017 (Eq. 4 of the paper, with the power 2/3 that it leaves"
        " out): the product of the layers' operator norms, times the power 3/2 of the sum of"
        " (length / norm)^(2/3), the length being summed over a layer's outputs.",
        *seeds(recorded, MEANS),
    ]
    title = f"Spectral complexity{run_records.subject(arms)}"
    sheet = Sheet(title, run_records.entries(arms, recorded), notes, (1, len(names)))
    for axes, name in zip(sheet.axes[0], names, strict=True):
        for each in recorded:
            curves = [
                Curve(r.step * 1.0, r.spectral_complexity[:, r.networks.index(name)])
                for _, r in each.runs
                if name in r.networks
            ]
            if curves:
                line(axes, over_runs(curves), each.arm.look)
        finish(axes, "Spectral complexity", name, STEP, "complexity")
        if axes.lines:
            logarithmic(axes)
    return sheet, remarks
