"""`msngan report`: a run or a study as one HTML page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msngan.commands.parser import Parser
from msngan.report.html.leaderboard import section
from msngan.report.html.page import write_page
from msngan.report.html.records import find
from msngan.report.tables.study import accuracy_tables
from msngan.report.tables.study_scores import board_of, score_tables
from msngan.runs.folder import Run
from msngan.study.study_files import Place, started_study

DESCRIPTION = """\
Write one HTML page about a run or a study from its records: state, options, machine, curves,
accuracies, sample grids, scores with their protocol, training dynamics and the next command. The
page stands alone: no network, no script. What a run has not recorded is said on it."""


def parser() -> Parser:
    made = Parser(prog="msngan report", description=DESCRIPTION)
    made.add_argument(
        "targets", nargs="+", metavar="RUN_OR_STUDY", help="names of runs or studies, or folders"
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="one page of all that is named; default: report.html in the folder of each",
    )
    made.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="where checkpoints/ is; default: ."
    )
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    subjects = [find(target, args.root) for target in dict.fromkeys(args.targets)]
    if args.out is not None:
        write_page(args.out, subjects, study_tables)
        print(args.out)
        return 0
    for run, is_study in subjects:
        path = run.folder / "report.html"
        write_page(path, [(run, is_study)], study_tables)
        print(path)
    return 0


def study_tables(results: dict[str, Any], run: Run, level: int) -> str:
    """The tables that `msngan study` ends in, as HTML."""
    if results.get("task") == "classifier":
        tables = accuracy_tables(results)
    else:
        study = started_study(Place(run.name, run.root))
        if study is None:
            raise ValueError("there is no study.yaml")
        tables = score_tables(board_of(results, run.root, study))
    return "".join(section(each, level) for each in tables)
