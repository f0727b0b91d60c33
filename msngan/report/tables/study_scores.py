"""The scores of a study of GANs by step as tables: means over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msngan.report.tables.table import Table, plus_minus
from msngan.runs.score_records import BETTER, better

Json = dict[str, Any]
MOST = 6  # steps in a table
DECIDED = " *"
LEGEND = [
    "mean ± standard deviation (ddof 1) over seeds; a run's value is the mean over its sets of"
    " samples.",
    "A - B: the mean of the differences paired by seed, and its 95 % interval, Student's t with"
    " n - 1. *: the interval excludes 0, as that of one such difference in twenty does by chance"
    " alone. Without it the seeds leave undecided which is better.",
]


def course_tables(study: str, record: Json | None, about: Sequence[str] = ()) -> Iterator[Table]:
    """record: see `msngan.study.scores_by_step`. about: lines on its protocol."""
    if record is None:
        return
    results = record["results"]
    steps = sorted({int(step) for each in results for step in each["scores"]})
    metrics = list(dict.fromkeys(m for each in results for s in each["scores"].values() for m in s))
    yield _by_step(study, record, _thinned(steps), metrics[0])
    yield _at_the_end(study, record, steps[-1], metrics, about)


def _thinned(steps: list[int]) -> list[int]:
    """At most MOST of them, evenly spread, with the last."""
    apart = -(-len(steps) // MOST)
    return steps[::-1][::apart][::-1]


def name_of(each: Json) -> str:
    """The arm of a row and a column."""
    return " ".join(filter(None, (each["row"], each["column"])))


def _pairs(record: Json) -> dict[str, dict[tuple[int, str], Json]]:
    """The differences of each pair and column, by step and metric."""
    found: dict[str, dict[tuple[int, str], Json]] = {}
    for each in record["comparisons"]:
        name = f"{' - '.join(each['of'])} {each['column']}".rstrip()
        found.setdefault(name, {})[each["step"], each["metric"]] = each
    return found


def _by_step(study: str, record: Json, steps: list[int], metric: str) -> Table:
    """The course of the first metric."""
    rows = []
    for each in record["results"]:
        found = [each["scores"].get(str(step), {}).get(metric) for step in steps]
        count = len(each["seeds"])
        cells = ["" if score is None else cell(score, count) for score in found]
        rows.append([name_of(each), str(count), *cells, ""])
    for name, pair in _pairs(record).items():
        at = {step: pair[step, metric] for step in steps if (step, metric) in pair}
        most = max((each["n"] for each in at.values()), default=0)
        cells = [_difference(at[step], most) if step in at else "" for step in steps]
        last = at.get(steps[-1])
        rows.append([name, str(most), *cells, "" if last is None else verdict(last)])
    header = ["", "n", *(f"{step:,}" for step in steps), "at the end"]
    if not record["comparisons"]:
        header, *rows = [each[:-1] for each in (header, *rows)]
    real = record["real_data"].get(metric)
    lines = [] if real is None else [f"real data: {plus_minus(real['mean'])} ({real['kind']})"]
    title = f"{study}: {metric} of {record['protocol']['extractor']} by step"
    if direction := better(metric):
        title += f"; {direction} is better"
    right = frozenset(header[1:]) - {"at the end"}
    return Table(title, header, rows, lines=lines, right=right)


def verdict(found: Json) -> str:
    """Which of a pair is better by the interval of their difference, in words."""
    if found["low"] is None:
        return "one pair"
    if found["low"] <= 0 <= found["high"]:
        return "undecided"
    larger, smaller = found["of"] if found["mean"] > 0 else found["of"][::-1]
    direction = better(found["metric"])
    if direction is None:
        return f"{larger} larger"
    return f"{larger if direction == 'higher' else smaller} better"


def _at_the_end(
    study: str, record: Json, step: int, metrics: list[str], about: Sequence[str]
) -> Table:
    """Every metric at the last step."""
    rows = [
        [
            name_of(each),
            *(cell(last[name], len(each["seeds"])) if name in last else "" for name in metrics),
        ]
        for each in record["results"]
        if (last := each["scores"].get(str(step)))
    ]
    for name, pair in _pairs(record).items():
        cells = [_short(pair[step, each]) if (step, each) in pair else "" for each in metrics]
        rows += [[name, *cells]] if any(cells) else []
    directions = [
        f"{direction} is better: {', '.join(named)}"
        for direction in dict.fromkeys(BETTER.values())
        if (named := [each for each in metrics if better(each) == direction])
    ]
    return Table(
        f"{study}: at step {step:,}",
        ["", *metrics],
        rows,
        lines=["; ".join(directions)],
        notes=[*about, *LEGEND],
        right=frozenset(metrics),
    )


def cell(score: Json, count: int) -> str:
    """mean ± sd of a measure's values; count: of seeds."""
    words = plus_minus(score["mean"], score["sd"]).replace("±", " ± ")
    return words + of_them(len(score["values"]), count)


def _difference(found: Json, count: int) -> str:
    if found["low"] is None:
        return plus_minus(found["mean"]) + of_them(found["n"], count)
    interval = f"{found['mean']:+.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return interval + _mark(found) + of_them(found["n"], count)


def _short(found: Json) -> str:
    """The difference alone, with the digits that its interval leaves."""
    half = None if found["low"] is None else (found["high"] - found["low"]) / 2
    words = plus_minus(found["mean"], half).partition("±")[0]
    return f"{'' if found['mean'] < 0 else '+'}{words}{_mark(found)}"


def _mark(found: Json) -> str:
    decided = found["low"] is not None and not found["low"] <= 0 <= found["high"]
    return DECIDED if decided else ""


def of_them(some: int, count: int) -> str:
    """How many values there are, where they are not one for each seed."""
    return "" if some == count else f" (n {some})"
