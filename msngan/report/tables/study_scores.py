"""A GAN study's end: the leaderboard of its runs alone, and its pairs compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msngan.leaderboard.board import Board, as_json, make_board
from msngan.leaderboard.experiments import Setup, read_setups
from msngan.report.tables.compare import comparison_tables
from msngan.report.tables.leaderboard import board_tables
from msngan.report.tables.table import Table
from msngan.runs.folder import Run, UserError
from msngan.runs.score_records import Entry, read_scores
from msngan.study.plan import Study

BARE = "no scores yet: a run writes them at --scores.every; or score the runs: msngan evaluate"


@dataclass(frozen=True)
class Scores:
    """comparisons: of the study's pairs, in its order; remarks: why one is missing."""

    board: Board
    comparisons: list[Board]
    remarks: list[str]

    def as_json(self) -> dict[str, Any]:
        compared = [each.comparison for each in self.comparisons]
        return {
            **as_json(self.board, []),
            "comparisons": [asdict(each) for each in compared if each],
            "remarks": self.remarks,
        }


def board_of(results: dict[str, Any], root: Path, study: Study) -> Scores:
    runs = [Run(child["run"], root) for child in results["children"]]
    entries, warnings = read_scores([run for run in runs if run.scores.is_file()])
    setups, unknown = read_setups([run for run in runs if run.scores.is_file()])
    board = replace(make_board(entries, setups), warnings=[*warnings, *unknown])
    remarks = [] if entries else [f"{BARE} {' '.join(run.name for run in runs)}"]
    comparisons = []
    for a, b in study.pairs if entries else []:
        for column in study.columns:
            found = _compared(a, b, column, results, entries, setups)
            if isinstance(found, str):
                remarks.append(found)
            else:
                comparisons.append(found)
    return Scores(board, comparisons, [*board.warnings, *remarks])


def _compared(
    a: str,
    b: str,
    column: str,
    results: dict[str, Any],
    entries: list[Entry],
    setups: dict[str, Setup],
) -> Board | str:
    """Or why the two cannot be compared."""
    scored = {entry.run for entry in entries}
    words = []
    for row in (a, b):
        own = [
            child["run"]
            for child in results["children"]
            if (child["row"], child["column"]) == (row, column) and child["run"] in scored
        ]
        if not own:
            return f"{a} - {b}: {row} has no scores" + (f" at {column}" if column else "")
        words.append(own[0])
    try:
        return make_board(entries, setups, pair=(words[0], words[1]))
    except UserError as problem:
        return str(problem).removeprefix("--compare: ")


def score_tables(scores: Scores) -> Iterator[Table]:
    yield from board_tables(scores.board)
    for each in scores.comparisons:
        assert each.comparison is not None
        yield from comparison_tables(each, each.comparison)
    if scores.remarks:
        yield Table("Remarks", notes=scores.remarks)
