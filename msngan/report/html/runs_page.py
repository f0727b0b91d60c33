"""The pages of `msngan report` and `msngan leaderboard --html`: runs, studies, and all runs."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msngan.leaderboard.board import Board
from msngan.leaderboard.experiments import read_setups, told_apart
from msngan.leaderboard.published import Published
from msngan.report.html.chart import Chart, Series
from msngan.report.html.document import Part, Section, State, write_page
from msngan.report.html.pictures import Pictures
from msngan.report.html.records import ANY, Records, read_records
from msngan.report.html.results_section import accuracy_headline, board_parts
from msngan.report.html.run_section import (
    commands,
    headline,
    last_grids,
    run_parts,
    short_section,
    state,
    unread,
)
from msngan.report.tables.leaderboard_tables import comparison_tables, published_tables
from msngan.report.tables.study_layers import layer_tables
from msngan.report.tables.study_scores import course_tables
from msngan.report.tables.study_tables import accuracy_tables, board_of, comparisons_of
from msngan.report.tables.table import Table
from msngan.runs.folder import Run, counted, now
from msngan.runs.safe_read import clean, object_or_empty
from msngan.study.layer_measures import layer_measures
from msngan.study.results import collect
from msngan.study.study_files import Place, Reader, started_study

Json = dict[str, Any]

MOST_BYTES = 3 * 2**20  # of the pictures of one run or study
MOST_BYTES_OF_ALL = 16 * 2**20  # of the pictures of all runs
MOST_SECTIONS = 100  # runs that have a section of their own
ENDED = ("done", "collapsed")


def write_report(path: Path, subjects: Sequence[tuple[Run, bool]]) -> None:
    """A page of these runs and, where the flag is set, studies."""
    pictures = Pictures(MOST_BYTES)
    made = [
        (run.name, study_parts(run, pictures) if study else run_parts(read_records(run), pictures))
        for run, study in subjects
    ]
    (first, is_study), *others = subjects
    title, parts = f"{'Study' if is_study else 'Run'} {first.name}", made[0][1]
    if others:
        sections = [Section(name, own, name=name) for name, own in made]
        title, parts = "Runs", [Table("", ["run"], [[name] for name, _ in made]), *sections]
    write_page(path, title, [f"Written {now()} from the records in {first.folder.parent}.", *parts])


def write_board(path: Path, board: Board, runs: Iterable[Run], published: list[Published]) -> None:
    """A page of all runs: rankings, curves, last samples, and a section for each run."""
    found = [read_records(run) for run in runs]
    parts: list[Part] = [f"Written {now()}."]
    if board.remarks or board.warnings:
        parts.append(Section("Remarks", [Table("", notes=[*board.remarks, *board.warnings])]))
    if board.comparison:
        parts += comparison_tables(replace(board, remarks=[]), board.comparison)
    parts += board_parts(board)
    parts += last_grids(found[:MOST_SECTIONS], Pictures(MOST_BYTES_OF_ALL))
    if classifiers := [each for each in found if each.task == "classifier"]:
        parts.append(Section("Classifiers", [*classifier_tables(classifiers)]))
    parts += published_tables(published)
    sections: list[Part] = [*map(short_section, found[:MOST_SECTIONS])]
    if found[MOST_SECTIONS:]:
        sections.append("The others are shown by msngan report NAME.")
    parts += [Section("Runs", sections)] if sections else []
    write_page(path, "Runs", parts)


def classifier_tables(found: list[Records]) -> Iterator[Table]:
    """For each data set its classifiers: their accuracy, and what they differ in."""
    setups, _ = read_setups([each.run for each in found])
    apart: dict[str, list[Records]] = {}
    for each in found:
        apart.setdefault(str(each.option("data.dataset")), []).append(each)
    for dataset, own in sorted(apart.items()):
        told = told_apart([each.name for each in own], setups)
        rows = [
            [each.name, accuracy_headline(each), state(each).text, told.get(each.name, "")]
            for each in own
        ]
        yield Table(dataset, ["run", "accuracy", "state", "differs in"], rows)


def study_parts(run: Run, pictures: Pictures) -> list[Part]:
    """Everything about the study in run's folder, read from its runs."""
    place = Place(run.name, run.root)
    try:
        if (study := started_study(place)) is None:
            raise ValueError("there is no study.yaml")
        command = clean(str(object_or_empty(place.results).get("command", "")))
        results = collect(study, Reader(place), command)
    except (OSError, ValueError) as problem:
        return unread([f"the study cannot be read: {problem}"])
    made: list[Part] = [Section("Progress", progress(run, results))]
    if results["task"] == "classifier":
        made.append(Section("Results", [*accuracy_tables(results)]))
        if charts := arm_charts(results["children"]):
            made.append(Section("Accuracy of each arm", charts))
    else:
        scores = board_of(results, run.root, study)
        courses = course_tables(run.name, scores.by_step)
        parts = [*courses, *board_parts(scores.board), *comparisons_of(scores)]
        made.append(Section("Results", parts))
    if layers := [*layer_tables(run.name, layer_measures(study, results["children"], run.root))]:
        made.append(Section("Layers", layers))
    return [*made, *children_parts(results["children"], run, pictures)]


def progress(run: Run, results: Json) -> list[Part]:
    """How many runs have ended and how, what made the study, and what to type next."""
    name, root, children = shlex.quote(run.name), run.root_option, results["children"]
    words = Counter(each["state"] for each in children)
    left = len(children) - sum(words[word] for word in ENDED)
    words_of = ", ".join(f"{count} {word}" for word, count in words.items())
    found = []
    if left:
        found.append((f"msngan study {name}{root}", "train and resume the runs that are left"))
    found.append((f"msngan study {name}{root} --table", "print its table"))
    if results["task"] == "gan":
        found.append((f"msngan leaderboard{root}", "rank all runs"))
    if any(Run(each["run"], run.root).dynamics.is_file() for each in children):
        found.append((f"msngan figures {name}{root}", "draw the paper's figures"))
    found.append((f"msngan report {name}{root}", "update this page"))
    made = [results["command"]] if results["command"] else []
    told = State(f"{counted(len(children), 'run')}: {words_of}", not left)
    return [told, *commands(made, found, "results.json")]


def arm_charts(children: list[Json]) -> list[Part]:
    """For each column a chart of test accuracy with a line per row, the mean over its seeds."""
    arms: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for each in children:
        arms[each["column"]][each["row"]].append(each)
    charts = []
    for column, rows in arms.items():
        lines = [line for row, runs in rows.items() if (line := mean_line(row, runs)).finite]
        title = f"Test accuracy, {column}" if column else "Test accuracy"
        if lines:
            charts.append(Chart(title, lines, "fraction, mean over seeds", "epoch", log=False))
    words = "A line stops where one of its seeds has no further epoch."
    return [charts, words] if charts else []


def mean_line(row: str, runs: list[Json]) -> Series:
    """The mean over the runs that have begun, at the epochs that all of them have."""
    tested = [{line["epoch"]: line["test_accuracy"] for line in each["epochs"]} for each in runs]
    curves = [*filter(None, tested)]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in shared]
    name = (
        f"{row} ({len(curves)} of {counted(len(runs), 'seed')})" if len(curves) < len(runs) else row
    )
    return Series(name, shared, means)


def children_parts(children: list[Json], study: Run, pictures: Pictures) -> list[Part]:
    """A table of the study's runs, their last samples, and a section for each."""
    rows: list[list[str]] = []
    opened: list[Records] = []
    for child in children:
        run, words, newest = Run(child["run"], study.root), child["state"], ""
        if len(opened) < MOST_SECTIONS and any((run.folder / name).is_file() for name in ANY):
            opened.append(records := read_records(run))
            words, newest = state(records).text, headline(records)
        elif child["step"]:
            words += f" at step {child['step']:,}"
        cells = [child["row"], child["column"], str(child["seed"])]
        rows.append([run.name, *cells, newest, words])
    parts = [
        Table("", ["run", "row", "column", "seed", "newest", "state"], rows),
        *last_grids(opened, pictures),
        *map(short_section, opened),
    ]
    return [Section("Runs", parts)]
