"""A study's page: how far it is, its tables, a curve an arm, and each of its runs in short."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from msngan.report.html.chart import Chart, Series, grid
from msngan.report.html.grids import Budget
from msngan.report.html.head import at, commands_html
from msngan.report.html.leaderboard_markup import bullets, escape
from msngan.report.html.markup import heading, lines_of, missing, note
from msngan.report.html.study_runs import runs_html
from msngan.report.html.thin import number
from msngan.runs.folder import Run
from msngan.runs.safe_read import clean, read_object

Json = dict[str, Any]
# A study's results to the HTML of its tables, their headings from a level on.
Tables = Callable[[Json, Run, int], str]

MOST_CHARTS = 24
ENDED = ("done", "collapsed")
# What a record with a field of another kind than ours makes the code that expects ours raise.
FOREIGN = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


def study_html(run: Run, level: int, budget: Budget, tables: Tables) -> str:
    """Everything about the study in run's folder, its headings from `level` on."""
    results, problems = read_results(run)
    children = children_of(results)
    sections = [("Progress", progress(run, results, children))]
    if results:
        try:
            sections.append(("Results", tables(results, run, level + 1)))
        except FOREIGN as problem:
            problems.append(f"the tables are left out: {type(problem).__name__}: {problem}")
    sections.append(("Accuracy of each arm", arms_html(children)))
    sections.append(("Runs", runs_html(children, run.root, budget)))
    sections.append(("What could not be read", bullets(map(clean, problems))))
    return "".join(
        f"<section>\n{heading(level, title)}{html}</section>\n" for title, html in sections if html
    )


def read_results(run: Run) -> tuple[Json, list[str]]:
    """The content of results.json made anew from the runs, or, where that fails, as it was saved.

    The second is what went wrong.
    """
    from msngan.study.results import collect
    from msngan.study.state import Reader
    from msngan.study.study_files import Place, started_study

    problems: list[str] = []
    saved: Json = {}
    place = Place(run.name, run.root)
    try:
        saved = clean(read_object(place.results)) if place.results.is_file() else {}
    except (OSError, ValueError) as problem:
        problems.append(f"results.json cannot be read: {problem}")
    try:
        if (study := started_study(place)) is not None:
            made = collect(study, Reader(place), "")
            return {**made, "command": saved.get("command")}, problems
        problems.append("there is no study.yaml; the results are as they were saved")
    except (OSError, *FOREIGN) as problem:
        problems.append(f"the runs cannot be read as study.yaml has them: {problem}")
    return saved, problems


def children_of(results: Json) -> list[Json]:
    """The study's runs, those that are named at all."""
    found = results.get("children")
    listed = found if isinstance(found, list) else []
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get("run"), str)]


def progress(run: Run, results: Json, children: list[Json]) -> str:
    """How many runs have ended and how, what made the study, and what to type next."""
    name, root = shlex.quote(run.name), at(run.root)
    words = Counter(str(each.get("state")) for each in children)
    left = len(children) - sum(words[word] for word in ENDED)
    counted = ", ".join(f"{count} {word}" for word, count in words.items())
    text = f"{len(children)} runs: {counted}" if children else "No run is known"
    kind = "state bad" if left or not children else "state"
    made = results.get("command")
    found = []
    if left or not children:
        found.append((f"msngan study {name}{root}", "train what is left, resume what was begun"))
    found.append((f"msngan study {name}{root} --table", "print its table"))
    if results.get("task") == "gan":
        found.append((f"msngan leaderboard{root}", "rank all runs"))
    if any(Run(each["run"], run.root).dynamics.is_file() for each in children):
        found.append((f"msngan figures {name}{root}", "draw the paper's figures"))
    found.append((f"msngan report {name}{root}", "write this page anew"))
    by = (
        lines_of(made, fold=True)
        if isinstance(made, str)
        else missing("That is not recorded: there is no results.json")
    )
    return (
        f'<p class="{kind}">{escape(text)}</p>\n<p>Made by</p>\n{by}<p>Next</p>\n'
        + commands_html(iter(found))
    )


def arms_html(children: list[Json]) -> str:
    """For each column a chart of test accuracy with a line a row, the mean over its seeds."""
    columns = dict.fromkeys(str(each.get("column") or "") for each in children)
    charts = []
    for column in columns:
        own = [each for each in children if str(each.get("column") or "") == column]
        rows: dict[str, list[Json]] = defaultdict(list)
        for each in own:
            rows[str(each.get("row"))].append(each)
        lines = [line for row, runs in rows.items() if (line := mean_line(row, runs)).sound]
        if lines:
            title = f"Test accuracy, {column}" if column else "Test accuracy"
            charts.append(Chart(title, lines, "fraction, mean over seeds", "epoch", log=False))
    if not charts:
        return ""
    more = len(charts) - MOST_CHARTS
    words = "A line stops where one of its seeds has no further epoch."
    return grid(charts[:MOST_CHARTS]) + note(words + (f" {more} charts left out." * (more > 0)))


def mean_line(row: str, runs: list[Json]) -> Series:
    """The mean over the runs that have begun, at the epochs that all of them have."""
    curves = [curve for each in runs if (curve := _curve(each))]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in shared]
    name = f"{row} ({len(curves)} of {len(runs)} seeds)" if len(curves) < len(runs) else row
    return Series(clean(name), shared, means)


def _curve(child: Json) -> dict[float, float]:
    """Test accuracy by epoch."""
    epochs = child.get("epochs")
    listed = [each for each in epochs if isinstance(each, dict)] if isinstance(epochs, list) else []
    found = {number(each.get("epoch")): number(each.get("test_accuracy")) for each in listed}
    return {x: y for x, y in found.items() if math.isfinite(x) and math.isfinite(y)}
