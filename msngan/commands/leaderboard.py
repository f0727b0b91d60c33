"""msngan leaderboard: rank the runs, each protocol by itself."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

from msngan.commands.parser import Parser, add_format, add_root, option
from msngan.leaderboard.board import Board, as_csv, as_json, comparison_csv, make_board
from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.published import PUBLISHED, Published
from msngan.leaderboard.ranking import select
from msngan.report.tables.leaderboard_tables import (
    board_tables,
    comparison_tables,
    published_tables,
)
from msngan.report.tables.table import print_as
from msngan.runs.folder import Run, UserError
from msngan.runs.safe_read import clean
from msngan.runs.score_records import BETTER, find_runs, read_scores

DESCRIPTION = """\
Rank the runs by their scores. Each protocol (data set, samples, extractor, reference) has its own
table, because values of two protocols cannot be compared. A row shows the last step and the best;
the best is chosen by the score it shows, so it is optimistic. A failed score stands last, with its
reason. Runs of one config are pooled over their training seeds. Published numbers stand apart and
are never ranked with yours."""


def parser() -> Parser:
    made = Parser(prog="msngan leaderboard", description=DESCRIPTION)
    option(made, "runs RUN", "names of runs; default: all", nargs="*")
    option(made, "--dataset NAME", "only scores on this data set")
    option(made, "--protocol ID_OR_NAME", "only scores of this protocol")
    names = ", ".join(BETTER)
    option(made, "--metric NAME", f"rank by {names} or a whole name; default: fid or fd")
    option(made, "--by", "step to rank by", choices=("last", "best"), default="last")
    text = (
        "only two configs, their runs paired by training seed at the largest step that the"
        " pairs share: a config's name, its id (4 digits or more) or one of its runs"
    )
    made.add_argument("--compare", nargs=2, metavar=("A", "B"), help=text)
    output = made.add_mutually_exclusive_group()
    add_format(output)
    text = "write the page of `msngan report`, restricted to these runs, and print its path"
    option(output, "--html FILE", text, type=Path)
    text = "leave out the published rows, which are of the data sets that runs were scored on"
    option(made, "--no-published", text, action="store_true")
    add_root(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    board, runs, published = ranked(args)
    for warning in board.warnings:
        print(f"msngan leaderboard: warning: {warning}", file=sys.stderr)
    if args.html is not None:
        from msngan.report.html.runs_page import write_board

        write_board(args.html, board, runs, published)
        print(args.html)
    else:
        show(args.format, board, published)
    return 0


def ranked(args: argparse.Namespace) -> tuple[Board, list[Run], list[Published]]:
    """The board that the options ask for, its runs, and the published rows to show below it."""
    runs = find_runs(args.runs, args.root)
    entries, warnings = read_scores(runs)
    scored = {entry.run for entry in entries}
    setups, unknown = read_setups([run for run in runs if clean(run.name) in scored])
    remarks = remark(runs, scored, args.root)
    entries = select(entries, args.dataset, args.protocol)
    _check_scored(
        args, runs, scored, {name for each in entries for name in (each.run, each.config)}
    )
    board = make_board(entries, setups, args.metric, args.by, args.compare)
    shown = {each.protocol_id for each in board.blocks}
    if missing := sorted({entry.protocol_id for entry in entries} - shown):
        remarks.append(f"left out, without {args.metric!r}: protocol {', '.join(missing)}")
    there = {args.dataset, *(each.protocol["dataset"] for each in board.blocks)}
    published = [row for row in PUBLISHED if row.dataset in there and not args.no_published]
    return replace(board, remarks=remarks, warnings=[*warnings, *unknown]), runs, published


def _check_scored(
    args: argparse.Namespace, runs: list[Run], scored: set[str], chosen: set[str]
) -> None:
    """UserError for a run of --compare that has no score to compare.

    scored: runs with any score. chosen: the runs and configs whose scores the options select.
    """
    for run in runs:
        name = clean(run.name)
        if name not in (args.compare or ()) or name in chosen:
            continue
        if name in scored:
            given = {"--dataset": args.dataset, "--protocol": args.protocol}
            words = " ".join(f"{option} {value}" for option, value in given.items() if value)
            raise UserError(f"--compare: run {name!r} has no score of {words}; leave that out")
        todo = f"score it: msngan evaluate {name}{run.root_option}"
        if not run.has_checkpoint:
            todo = f"it has no checkpoint either: msngan resume {name}{run.root_option}"
        raise UserError(f"--compare: run {name!r} has no score yet; {todo}")


def show(style: str, board: Board, published: list[Published]) -> None:
    """The comparison where one was asked, else everything."""
    if style in ("csv", "json"):
        for line in board.remarks:
            print(f"msngan leaderboard: {line}", file=sys.stderr)
    if comparison := board.comparison:
        print_as(
            style,
            tables=lambda: comparison_tables(board, comparison),
            rows=lambda: comparison_csv(board, comparison),
            whole=lambda: {
                "format": 1,
                "comparison": asdict(comparison),
                "protocols": {each.protocol_id: each.protocol for each in board.blocks},
                "remarks": board.remarks,
            },
        )
    else:
        print_as(
            style,
            tables=lambda: [*board_tables(board), *published_tables(published)],
            rows=lambda: as_csv(board, published),
            whole=lambda: as_json(board, published),
        )


def remark(runs: list[Run], scored: set[str], root: Path) -> list[str]:
    """What to do next where there is nothing to rank yet."""
    if not runs:
        return [
            f"No runs in {root / 'checkpoints'} yet; train one: msngan fit --config digits_msn.yaml"
        ]
    bare = [run for run in runs if clean(run.name) not in scored]
    if not bare:
        return []
    text = f"No scores yet for {', '.join(clean(run.name) for run in bare)}"
    ready = [clean(run.name) for run in bare if run.has_checkpoint]
    return [f"{text}; score them: msngan evaluate {' '.join(ready)}" if ready else text]
