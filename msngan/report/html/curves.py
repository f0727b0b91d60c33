"""The training curves of metrics.jsonl."""

from __future__ import annotations

import re

from msngan.report.html.chart import Chart, Series, grid
from msngan.report.html.markup import folded, missing, note, numbers, shown
from msngan.report.html.records import Records, whole
from msngan.report.html.thin import BUCKETS, number

RATE = "Learning rate"
# Title, unit, and which figures belong together.
GROUPS = (
    ("Losses", "of one batch", r"(.*_)?(loss|penalty)"),
    ("Accuracy of the batch", "fraction", r"(.*_)?accuracy"),
    ("What the critic says", "mean logit", r"(real|fake)_logit"),
    ("Speed", "steps per second", r"steps_per_second"),
    (RATE, "", r"(.*_)?lr|learning_rate"),
)
MOST_OTHERS = 12  # figures of other names that are drawn, each by itself
MOST_SERIES = 8


def curves(records: Records) -> str:
    if records.metrics is None or not records.metrics.records:
        return missing(
            "There is no metrics.jsonl with a record yet; a run writes one every --records.every"
            " steps"
        )
    steps, figures = columns(records.metrics.records)
    if not steps:
        return missing("No line of metrics.jsonl has a step")
    charts, constant = [], []
    left = dict(figures)
    for title, unit, pattern in GROUPS:
        names = [name for name in left if re.fullmatch(pattern, name)][:MOST_SERIES]
        series = [Series(name, steps, left.pop(name)) for name in names]
        if title == RATE and all(len({*each.y}) == 1 for each in series):
            constant += [f"{each.name} {shown(each.y[0])} throughout" for each in series]
        elif series:
            floor = 0.0 if unit in ("steps per second", "") else None
            log = False if unit in ("fraction", "steps per second") else None
            charts.append(Chart(title, series, unit, log=log, floor=floor))
    charts += [
        Chart(name, [Series(name, steps, values)]) for name, values in [*left.items()][:MOST_OTHERS]
    ]
    made = grid(charts) + (note(f"{RATE}: {', '.join(constant)}.") if constant else "")
    if len(steps) > BUCKETS:
        made += note(
            "A line is the mean of neighbouring records, its band from the lowest to the highest."
        )
    rows = [
        [name, *(shown(value) for value in (values[0], values[-1]))]
        for name, values in figures.items()
    ]
    header = ["figure", f"step {steps[0]:,}", f"step {steps[-1]:,}"]
    if steps[0] == steps[-1]:
        header, rows = header[:2], [row[:2] for row in rows]
    return made + folded("First and last values", numbers(header, rows))


def columns(records: list[dict[str, object]]) -> tuple[list[int], dict[str, list[float]]]:
    """The steps, rising, and each figure at each of them; NaN where a line has no number."""
    by_step = {
        step: record for record in records if (step := whole(record.get("step"))) is not None
    }
    steps = sorted(by_step)
    names = dict.fromkeys(name for step in steps for name in by_step[step] if name != "step")
    figures = {name: [number(by_step[step].get(name)) for step in steps] for name in names}
    return steps, {name: values for name, values in figures.items() if any(v == v for v in values)}
