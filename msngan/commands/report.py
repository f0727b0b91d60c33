"""msngan report: write a run, a study or all runs as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import replace

from msngan.commands.leaderboard import parser as board_parser
from msngan.commands.leaderboard import ranked
from msngan.commands.parser import Parser, add_out, add_root, option
from msngan.report.html.records import find
from msngan.report.html.runs_page import write_board, write_report
from msngan.runs.folder import UserError, all_runs

DESCRIPTION = """\
Write one HTML page from the records of a run or a study: state, commands, options, machine, curves,
accuracies, sample grids, scores with their protocol, training dynamics and the next command.
Without a name, the page shows all runs: their rankings, what they differ in, their curves, their
last samples and a section for each run. The page stands alone: no network, no script."""


def parser() -> Parser:
    made = Parser(prog="msngan report", description=DESCRIPTION)
    text = "names or folders of runs or studies, or a study's file; default: a page of all runs"
    option(made, "targets RUN_OR_STUDY", text, nargs="*")
    text = (
        "one page for all targets; default: report.html in the folder of each target, or in"
        " checkpoints/ for all runs"
    )
    add_out(made, "--out FILE", text)
    add_root(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if not args.targets:
        path = args.out or args.root / "checkpoints" / "report.html"
        board, runs, published = ranked(board_parser().parse_args(["--root", str(args.root)]))
        found = {run.name: run for run in [*runs, *all_runs(args.root)]}
        if not found and args.out is None:
            raise UserError(board.remarks[0])
        studies = sorted(each.parent.name for each in args.root.glob("checkpoints/*/study.yaml"))
        if studies:
            told = f"Studies: {', '.join(studies)}; `msngan report NAME` shows one."
            board = replace(board, remarks=[*board.remarks, told])
        write_board(path, board, [found[name] for name in sorted(found)], published)
        print(path)
        return 0
    subjects = [find(target, args.root) for target in dict.fromkeys(args.targets)]
    pages = {run.folder / "report.html": [(run, study)] for run, study in subjects}
    for path, own in ({args.out: subjects} if args.out else pages).items():
        write_report(path, own)
        print(path)
    return 0
