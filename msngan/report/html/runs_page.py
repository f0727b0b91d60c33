"""The pages of `msngan report` and `msngan leaderboard --html`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from msngan.leaderboard.board import Board
from msngan.leaderboard.experiments import read_setups, told_apart
from msngan.leaderboard.published import Published
from msngan.report.html.document import Part, Section, write_page
from msngan.report.html.pictures import Pictures
from msngan.report.html.records import Records, read_records
from msngan.report.html.results_section import accuracy_headline, board_parts
from msngan.report.html.run_section import last_grids, run_parts, short_section, state
from msngan.report.html.study_section import MOST_SECTIONS, study_parts
from msngan.report.tables.leaderboard_tables import comparison_tables, published_tables
from msngan.report.tables.table import Table
from msngan.runs.folder import Run, now

MOST_BYTES = 3 * 2**20  # of the pictures of one run or study
MOST_BYTES_OF_ALL = 16 * 2**20  # of the pictures of all runs


def write_report(path: Path, subjects: Sequence[tuple[Run, bool]]) -> None:
    """A page of these runs and, where the flag is set, studies."""
    pictures = Pictures(MOST_BYTES)
    made = [
        (run, study_parts(run, pictures) if study else run_parts(read_records(run), pictures))
        for run, study in subjects
    ]
    title = "Runs"
    parts: list[Part] = [Table("", ["run"], [[run.name] for run, _ in subjects])]
    parts += [Section(run.name, own, name=run.name) for run, own in made]
    if len(made) == 1:
        ((run, parts),) = made
        title = f"{'Study' if subjects[0][1] else 'Run'} {run.name}"
    written = f"Written {now()} from the records in {subjects[0][0].folder.parent}."
    write_page(path, title, [written, *parts])


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
    more = len(found) - MOST_SECTIONS
    sections: list[Part] = [*map(short_section, found[:MOST_SECTIONS])]
    sections += [f"{more} more runs: msngan report NAME shows them."] if more > 0 else []
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
