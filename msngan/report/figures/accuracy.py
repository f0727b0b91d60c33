"""Figure 2 of the paper: the test accuracy, as the code logs it and an epoch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.quantities import (
    WINDOW,
    Curve,
    over_runs,
    running_mean,
    selected,
    within_epochs,
)
from msngan.report.figures.records import Recorded, with_accuracy
from msngan.report.figures.sheet import Sheet, line, logarithmic
from msngan.report.figures.style import Style, style
from msngan.report.figures.words import entries, seeds, subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTES = (
    "(a) As released: the accuracy so far in a pass over the test set, logged after every 100"
    f" images and smoothed by a running mean of {WINDOW} of these, so that a point mixes two epochs"
    " and the first images of a pass count most. Here the passes are at the ends of the epochs.",
    "(b), (c) As stated: of the whole test set at the end of each epoch. Ringed: the epoch that the"
    " validation images choose, in each run; the test images choose nothing.",
)


def accuracy(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Sheet, list[str]]:
    """`wanted` layers choose nothing here: an accuracy is of a network."""
    recorded, remarks = with_accuracy(arms)
    title = f"Figure 2: test accuracy{subject(arms)}"
    notes = [*NOTES, *seeds(recorded)]
    sheet = Sheet(title, entries(arms, recorded), notes, (1, 3), panel=(3.1, 2.9))
    left, middle, right = sheet.axes[0]
    for each in recorded:
        look = style(each.arm.style)
        _released(left, each, look)
        _stated(middle, each, look, lambda share: 100 * share)
        _stated(right, each, look, lambda share: 100 * (1 - share))
    if right.lines:
        logarithmic(right)
    for axes in (left, middle):
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    sheet.finish(left, "(a) As released: within passes", "", "epoch", "test accuracy (%)")
    sheet.finish(middle, "(b) As stated: each epoch", "", "epoch", "test accuracy (%)")
    sheet.finish(right, "(c) As stated: each epoch", "", "epoch", "test error (%)")
    return sheet, remarks


def _released(axes: Axes, each: Recorded, look: Style) -> None:
    places, values = within_epochs(each.runs[0][1])
    smooth = 100 * running_mean(values)
    if len(smooth):
        line(axes, Curve(places[-len(smooth) :], smooth), look, 1.2)


def _stated(axes: Axes, each: Recorded, look: Style, of: Any) -> None:  # noqa: ANN401  a function
    curves = []
    for _, lines in each.runs:
        epochs = np.array([float(record["epoch"]) for record in lines])
        values = of(np.array([float(record["test_accuracy"]) for record in lines]))
        curves.append(Curve(epochs, values))
        best = selected([record.get("validation_accuracy") for record in lines])
        if best is not None:
            axes.plot(
                epochs[best],
                values[best],
                "o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=look.colour,
                markeredgewidth=1.1,
            )
    line(axes, over_runs(curves), look)
