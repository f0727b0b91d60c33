"""The first, middle and last measurement, for pictures of one moment each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from msngan.report.figures.records import Recorded
from msngan.training.dynamics import Dynamics

NEAR = 0.02  # of the longest run's steps: two measurements as near as this are of one moment


def moments(
    recorded: Sequence[Recorded], measured: Callable[[Dynamics], NDArray[np.bool_]]
) -> list[int]:
    """The steps of the first, middle and last measurement of the run that went furthest.

    measured: (T,) which of a record's measurements count. Fewer steps where there are fewer.
    """
    longest = max((r for each in recorded for _, r in each.runs), key=lambda r: int(r.step[-1]))
    steps = longest.step[measured(longest)]
    if not len(steps):
        return [int(longest.step[-1])]
    return [int(steps[place]) for place in sorted({0, len(steps) // 2, len(steps) - 1})]


def at(record: Dynamics, step: int) -> int | None:
    """The measurement at that step or near it; None where the run has none, as one that ended."""
    place = int(np.abs(record.step - step).argmin())
    return place if abs(int(record.step[place]) - step) <= NEAR * max(step, 1) else None
