"""What is said of the runs in a figure: its title, its legend and its small print."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msngan.report.figures.arms import Arm
from msngan.report.figures.quantities import WINDOW
from msngan.report.figures.records import Recorded, status
from msngan.report.figures.style import Style, style

MEANS = "their mean, with a band of one sd to each side, as far as all of them go"
PROJECTED = (
    "Under a spectral norm this is the gradient of the parameter (the paper's equation 9), not, as"
    " in the code, that of the normed weight: it is divided by sigma and freed of u v^T"
)
BOTH_KINDS = f"(a) the first; otherwise {MEANS}"


def entries(arms: Sequence[Arm], recorded: Sequence[Recorded]) -> list[tuple[str, Style]]:
    """The legend: each arm with its number of runs, how many of them have failed or go on.

    An arm is in it without a record too: it may have diverged before there was one.
    """
    drawn = {each.arm.label: len(each.runs) for each in recorded}
    made = []
    for arm in arms:
        count, every = drawn.get(arm.label, 0), len(arm.sources)
        words = arm.label
        if every > 1:
            words += f" ({every} runs)" if count == every else f" ({count} of {every} runs)"
        elif not count:
            words += ", no record"
        for state in ("diverged", "collapsed", "unfinished"):
            if number := sum(status(source) == state for source in arm.sources):
                words += f", {number} {state}" if every > 1 else f", {state}"
        made.append((words, style(arm.style)))
    return made


def subject(arms: Sequence[Arm]) -> str:
    """What all arms have in common: the data set and the network."""
    words = []
    for section, names in (("data", ("dataset",)), ("model", ("network", "critic"))):
        values = set()
        for source in (source for arm in arms for source in arm.sources):
            inner = source.config.get(section)
            found = [inner[n] for n in names if n in inner] if isinstance(inner, dict) else []
            values.add(str(found[0]) if found else "")
        if len(values) == 1 and "" not in values:
            words.append(values.pop())
    return f" ({', '.join(words)})" if words else ""


def smooths(recorded: Sequence[Recorded]) -> bool:
    """Whether the released panels are smoothed: all of an arm's first runs, or none.

    Curves of which one is a mean and the other not, or a few means that hide all that moved before
    them, would not compare.
    """
    lengths = [len(each.runs[0][1]) for each in recorded]
    return min(lengths) >= WINDOW and max(lengths) >= 3 * WINDOW


def smoothing(recorded: Sequence[Recorded]) -> str:
    """What the running mean of the released panels, each arm's first run, spans here."""
    records = [each.runs[0][1] for each in recorded]
    if not smooths(recorded):
        counts = sorted({min(map(len, records)), max(map(len, records))})
        found = " to ".join(map(str, counts))
        return f"Too few measurements ({found}) for the authors' running mean of {WINDOW}."
    every = int(np.median(np.diff(max(records, key=len).step)))
    return f"Running mean of {WINDOW} measurements, {every} steps apart."


def seeds(recorded: Sequence[Recorded], panels: str = BOTH_KINDS) -> list[str]:
    """What is drawn where an arm has several runs."""
    if all(len(each.runs) == 1 for each in recorded):
        return []
    return [f"Of several runs of an arm, which differ in their seed: {panels}."]
