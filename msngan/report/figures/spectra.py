"""Figure 6 of the paper: singular values of a layer's weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.grids import LOG_INDEX, STEP, both, released, stated
from msngan.report.figures.moments import at, moments
from msngan.report.figures.records import Layer, Recorded, shared_layers, with_dynamics
from msngan.report.figures.sheet import Sheet, logarithmic
from msngan.report.figures.style import style
from msngan.report.figures.words import entries, seeds, smoothing, smooths, subject

RANGE = 1e-4  # of the largest singular value: what is below is not drawn

NOTES = (
    "(a) As released: the largest singular value of each (output, input) kernel slice, averaged; of"
    " a 1x1 convolution, as all in the paper's figure, that is the mean of |w|.",
    "(b) As stated: all singular values of the (outputs) x (inputs x kernel) matrix of the weight"
    " that the layer computes with. (c) Thick, with markers: the norm of the layer as an operator;"
    " thin: the largest singular value of the matrix.",
)


def spectra(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    times = moments(recorded, lambda record: np.array([*map(_whole, record.matrix_norm)]))
    notes = [NOTES[0] + " " + smoothing(recorded), NOTES[1], *seeds(recorded)]
    title = f"Figure 6: singular values{subject(arms)}"
    shape = (len(layers), 2 + len(times))
    sheet = Sheet(title, entries(arms, recorded), notes, shape, panel=(2.6, 2.1))
    norms = both(stated("operator_norm"), stated("matrix_norm", 0.7))
    for row, layer in enumerate(layers):
        left, *middle, right = sheet.axes[row]
        for each in recorded:
            look = style(each.arm.style)
            released("kernel_singular", smooths(recorded))(left, each, layer, look)
            for axes, step in zip(middle, times, strict=True):
                _spectrum(axes, each, layer, step)
            norms(right, each, layer, look)
        heading = "(a) As released: mean top value"
        sheet.finish(left, heading, layer.words(sheet.letters), LOG_INDEX, "singular value")
        _alike(middle)
        for axes, step in zip(middle, times, strict=True):
            sheet.finish(
                axes,
                f"(b) As stated: at step {step}",
                f"layer {layer.index}",
                "index",
                "singular value",
            )
        if right.lines:
            logarithmic(right)
        sheet.finish(right, "(c) As stated: norms", f"layer {layer.index}", STEP, "norm")
    return sheet, remarks


def _whole(norms: Any) -> bool:  # noqa: ANN401  an array
    return bool(np.isfinite(norms).any())


def spectrum(each: Recorded, layer: Layer, step: int) -> Any:  # noqa: ANN401  an array or None
    """The singular values near a step, descending, the mean over the arm's runs; None without."""
    found = [
        record.singular[layer.index][place]
        for _, record in each.runs
        if (place := at(record, step)) is not None
    ]
    found = [values for values in found if len(values) and np.isfinite(values).all()]
    return np.mean(found, axis=0, dtype=float) if found else None


def _spectrum(axes: Any, each: Recorded, layer: Layer, step: int) -> None:  # noqa: ANN401
    values = spectrum(each, layer, step)
    if values is None:
        return
    look = style(each.arm.style)
    axes.plot(
        np.arange(1, len(values) + 1),
        values,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markevery=max(1, len(values) // 6),
        linewidth=1.4,
    )


def _alike(panels: Sequence[Any]) -> None:
    shown = [axes for axes in panels if axes.lines]
    values = [v for axes in shown for each in axes.lines for v in each.get_ydata() if v > 0]
    if not values:
        return
    top = max(values)
    for axes in shown:
        axes.set_ylim(max(min(values), RANGE * top) / 1.3, top * 1.3)
        logarithmic(axes)
