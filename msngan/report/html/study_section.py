"""What a page says of a study: how far it is, its tables, a curve per arm, and each of its runs."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from typing import Any

from msngan.report.html.chart import Chart, Series
from msngan.report.html.document import Code, Part, Section, State
from msngan.report.html.pictures import Pictures
from msngan.report.html.records import ANY, Records, number, read_records, whole
from msngan.report.html.results_section import board_parts
from msngan.report.html.run_section import (
    commands,
    headline,
    last_grids,
    short_section,
    state,
    unread,
)
from msngan.report.tables.study_tables import accuracy_tables, board_of, comparisons_of
from msngan.report.tables.table import Table
from msngan.runs.folder import NAME, Run
from msngan.runs.safe_read import clean, read_object

Json = dict[str, Any]

MOST_CHARTS = 24
MOST_SECTIONS = 100  # runs that have a section of their own
MOST_ROWS = 1000
ENDED = ("done", "collapsed")
# What a field of an unexpected kind, in a record of anyone's, makes the code that reads it raise.
FOREIGN = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


def study_parts(run: Run, pictures: Pictures) -> list[Part]:
    """Everything about the study in run's folder."""
    results, problems = read_results(run)
    children = [each for each in dicts(results.get("children")) if isinstance(each.get("run"), str)]
    made: list[Part] = [Section("Progress", progress(run, results, children))]
    if results:
        try:
            made.append(Section("Results", result_tables(results, run)))
        except FOREIGN as problem:
            problems.append(f"the tables are left out: {type(problem).__name__}: {problem}")
    if charts := arm_charts(children):
        made.append(Section("Accuracy of each arm", charts))
    return [*made, *run_parts(children, run, pictures), *unread(clean(problems))]


def read_results(run: Run) -> tuple[Json, list[str]]:
    """The results, read from the runs themselves, or, where that fails, from results.json.

    Also what went wrong.
    """
    from msngan.study.results import collect
    from msngan.study.study_files import Place, Reader, started_study

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
        problems.append("there is no study.yaml; the results are those of results.json")
    except (OSError, *FOREIGN) as problem:
        problems.append(f"the runs cannot be read as study.yaml has them: {problem}")
    return saved, problems


def dicts(value: Any) -> list[Json]:  # noqa: ANN401  any JSON value
    """The objects in a list; none of anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def result_tables(results: Json, run: Run) -> list[Part]:
    """The tables that `msngan study` ends in."""
    if results.get("task") == "classifier":
        return [*accuracy_tables(results)]
    from msngan.study.study_files import Place, started_study

    study = started_study(Place(run.name, run.root))
    if study is None:
        raise ValueError("there is no study.yaml")
    scores = board_of(results, run.root, study)
    return [*board_parts(scores.board), *comparisons_of(scores)]


def progress(run: Run, results: Json, children: list[Json]) -> list[Part]:
    """How many runs have ended and how, what made the study, and what to type next."""
    name, root = shlex.quote(run.name), run.root_option
    words = Counter(str(each.get("state")) for each in children)
    left = len(children) - sum(words[word] for word in ENDED)
    counted = ", ".join(f"{count} {word}" for word, count in words.items())
    text = f"{len(children)} runs: {counted}" if children else "No run is known"
    found = []
    if left or not children:
        found.append((f"msngan study {name}{root}", "train and resume the runs that are left"))
    found.append((f"msngan study {name}{root} --table", "print its table"))
    if results.get("task") == "gan":
        found.append((f"msngan leaderboard{root}", "rank all runs"))
    if any(Run(each["run"], run.root).dynamics.is_file() for each in children):
        found.append((f"msngan figures {name}{root}", "draw the paper's figures"))
    found.append((f"msngan report {name}{root}", "update this page"))
    made: list[Part] = ["The command that made it is not recorded: there is no results.json."]
    if isinstance(command := results.get("command"), str):
        made = ["Made by", Code(command)]
    return [State(text, bool(children) and not left), *made, "Next", commands(found)]


def arm_charts(children: list[Json]) -> list[Part]:
    """For each column a chart of test accuracy with a line per row, the mean over its seeds."""
    arms: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for each in children:
        arms[str(each.get("column") or "")][str(each.get("row"))].append(each)
    charts = []
    for column, rows in arms.items():
        lines = [line for row, runs in rows.items() if (line := mean_line(row, runs)).finite]
        title = f"Test accuracy, {column}" if column else "Test accuracy"
        if lines:
            charts.append(Chart(title, lines, "fraction, mean over seeds", "epoch", log=False))
    words = "A line stops where one of its seeds has no further epoch."
    if more := len(charts[MOST_CHARTS:]):
        words += f" {more} charts are left out."
    return [charts[:MOST_CHARTS], words] if charts else []


def mean_line(row: str, runs: list[Json]) -> Series:
    """The mean over the runs that have begun, at the epochs that all of them have."""
    curves = [curve for each in runs if (curve := _curve(each))]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in shared]
    name = f"{row} ({len(curves)} of {len(runs)} seeds)" if len(curves) < len(runs) else row
    return Series(clean(name), shared, means)


def _curve(child: Json) -> dict[float, float]:
    """Test accuracy by epoch."""
    epochs = dicts(child.get("epochs"))
    found = {number(each.get("epoch")): number(each.get("test_accuracy")) for each in epochs}
    return {x: y for x, y in found.items() if math.isfinite(x) and math.isfinite(y)}


def run_parts(children: list[Json], study: Run, pictures: Pictures) -> list[Part]:
    """A table of the study's runs, their last samples, and a section for each."""
    rows: list[list[str]] = []
    opened: list[Records] = []
    for child in children[:MOST_ROWS]:
        run = Run(child["run"], study.root)
        known = bool(NAME.fullmatch(run.name)) and any((run.folder / n).is_file() for n in ANY)
        step = whole(child.get("step"))
        words, newest = str(child.get("state")) + (f" at step {step:,}" if step else ""), ""
        if known and len(opened) < MOST_SECTIONS:
            opened.append(records := read_records(run))
            words, newest = state(records).text, headline(records)
        cells = [str(child.get(name)) for name in ("row", "column", "seed")]
        rows.append([run.name, *cells, newest, words])
    if not rows:
        return [Section("Runs", ["No run is known."])]
    more = len(children) - len(rows)
    parts = [
        Table("", ["run", "row", "column", "seed", "newest", "state"], rows),
        *([f"{more} more runs are left out."] if more > 0 else []),
        *last_grids(opened, pictures),
        *map(short_section, opened),
    ]
    return [Section("Runs", parts)]
