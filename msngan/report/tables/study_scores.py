"""The scores of a study of GANs by step as tables: means over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msngan.report.tables.table import Table, plus_minus

Json = dict[str, Any]
MOST = 6  # steps in a table
LEGEND = [
    "mean ± standard deviation (ddof 1) over seeds; a run's value is the mean over its sets of"
    " samples.",
    "A - B: the mean of the differences paired by seed, and its 95 % interval, Student's t with"
    " n - 1; one of twenty such intervals excludes 0 by chance alone.",
]


def course_tables(study: str, record: Json | None) -> Iterator[Table]:
    """record: see `msngan.study.scores_by_step`."""
    if record is None:
        return
    results = record["results"]
    steps = sorted({int(step) for each in results for step in each["scores"]})
    metrics = list(dict.fromkeys(m for each in results for s in each["scores"].values() for m in s))
    yield _by_step(study, record, _thinned(steps), metrics[0])
    yield _at_the_end(study, record, steps[-1], metrics)


def _thinned(steps: list[int]) -> list[int]:
    """At most MOST of them, evenly spread, with the last."""
    apart = -(-len(steps) // MOST)
    return steps[::-1][::apart][::-1]


def name_of(each: Json) -> str:
    """The arm of a row and a column."""
    return " ".join(filter(None, (each["row"], each["column"])))


def _by_step(study: str, record: Json, steps: list[int], metric: str) -> Table:
    """The course of the first metric."""
    rows = []
    for each in record["results"]:
        found = [each["scores"].get(str(step), {}).get(metric) for step in steps]
        count = len(each["seeds"])
        cells = ["" if score is None else cell(score, count) for score in found]
        rows.append([name_of(each), str(count), *cells])
    differences: dict[tuple[str, str, str], dict[int, Json]] = {}
    for each in record["comparisons"]:
        if each["metric"] == metric:
            differences.setdefault((*each["of"], each["column"]), {})[each["step"]] = each
    for (a, b, column), at in differences.items():
        most = max(each["n"] for each in at.values())
        cells = [_difference(at[step], most) if step in at else "" for step in steps]
        rows.append([f"{a} - {b} {column}".rstrip(), str(most), *cells])
    header = ["", "n", *(f"{step:,}" for step in steps)]
    real = record["real_data"].get(metric)
    lines = [] if real is None else [f"real data: {plus_minus(real['mean'])} ({real['kind']})"]
    title = f"{study}: {metric} of {record['protocol']['extractor']} by step"
    return Table(title, header, rows, lines=lines, notes=LEGEND, right=frozenset(header[1:]))


def _at_the_end(study: str, record: Json, step: int, metrics: list[str]) -> Table:
    """Every metric at the last step."""
    rows = [
        [
            name_of(each),
            *(cell(last[name], len(each["seeds"])) if name in last else "" for name in metrics),
        ]
        for each in record["results"]
        if (last := each["scores"].get(str(step)))
    ]
    return Table(f"{study}: at step {step:,}", ["", *metrics], rows, right=frozenset(metrics))


def cell(score: Json, count: int) -> str:
    """mean ± sd of a measure's values; count: of seeds."""
    words = plus_minus(score["mean"], score["sd"]).replace("±", " ± ")
    return words + of_them(len(score["values"]), count)


def _difference(found: Json, count: int) -> str:
    if found["low"] is None:
        return plus_minus(found["mean"]) + of_them(found["n"], count)
    interval = f"{found['mean']:+.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return interval + of_them(found["n"], count)


def of_them(some: int, count: int) -> str:
    """How many values there are, where they are not one for each seed."""
    return "" if some == count else f" (n {some})"
