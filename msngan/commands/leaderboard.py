"""`msngan leaderboard`: every run's scores, ranked within one protocol and never across two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from msngan.commands.parser import Parser
from msngan.commands.tables import FORMATS, Table, plus_minus, print_as
from msngan.leaderboard import Block, By, Row, blocks, find_runs, read, select
from msngan.leaderboard.flat import flat
from msngan.leaderboard.lines import Score, clean
from msngan.leaderboard.words import describe, labels
from msngan.published import NEVER_RANKED, PUBLISHED, Published
from msngan.runs import Run

DESCRIPTION = """\
Rank the runs by their scores. Each protocol (data set, samples, extractor, reference) is a block of
its own, since values of two protocols cannot be compared. A run's last step is shown and its best;
the best was chosen by the score it shows, so it flatters. A failed score stands last, with its
reason. Published numbers stand apart and are never ranked with ours."""

LEGEND = [
    "±: standard deviation over drawings of samples from one set of weights, not over seeds.",
    "best: chosen by the score shown, so it flatters; compare runs by last.",
    "2=: tied with the row above, |difference| < 2 sqrt(s1^2/n1 + s2^2/n2), n the drawings;"
    " 2?: a spread is missing, so nobody knows. ~: an estimate.",
]


def parser() -> Parser:
    made = Parser(prog="msngan leaderboard", description=DESCRIPTION)
    made.add_argument("runs", nargs="*", metavar="RUN", help="names of runs; default: all")
    made.add_argument("--dataset", metavar="NAME", help="only scores on this data set")
    made.add_argument("--protocol", metavar="ID_OR_NAME", help="only scores of this protocol")
    made.add_argument(
        "--metric",
        metavar="NAME",
        help="rank by this: fid, fd, is, cs, kid, kd or a whole name; default: fid or fd",
    )
    made.add_argument(
        "--by",
        choices=("last", "best"),
        default="last",
        help="which step to rank by; default: last",
    )
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    made.add_argument("--no-published", action="store_true", help="leave the published rows out")
    made.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="where checkpoints/ is; default: ."
    )
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    runs = find_runs(args.runs, args.root)
    entries, warnings = read(runs)
    for warning in warnings:
        print(f"msngan leaderboard: warning: {warning}", file=sys.stderr)
    remarks = remark(runs, {entry.run for entry in entries}, args.root)
    entries = select(entries, args.dataset, args.protocol)
    found = blocks(entries, args.metric, args.by)
    if missing := {entry.protocol_id for entry in entries} - {each.protocol_id for each in found}:
        remarks.append(f"left out, without {args.metric!r}: protocol {', '.join(sorted(missing))}")
    wanted = () if args.no_published else PUBLISHED
    published = [row for row in wanted if args.dataset in (None, row.dataset)]
    if args.format in ("csv", "json"):
        for line in remarks:
            print(f"msngan leaderboard: {line}", file=sys.stderr)
    print_as(
        args.format,
        tables=lambda: [*block_tables(found, args.by, remarks), *published_tables(published)],
        rows=lambda: as_csv(found, published, args.by),
        whole=lambda: as_json(found, published, args.by, remarks),
    )
    return 0


def remark(runs: list[Run], scored: set[str], root: Path) -> list[str]:
    """What to do next where there is nothing to rank yet."""
    if not runs:
        return [
            f"No runs in {root / 'checkpoints'} yet; train one: msngan fit --config digits_msn.yaml"
        ]
    names = [clean(run.name) for run in runs]
    bare = [name for name in names if name not in scored]
    if not bare:
        return []
    return [f"No scores yet for {', '.join(bare)}; score them: msngan evaluate {' '.join(bare)}"]


def block_tables(found: list[Block], by: By, remarks: list[str]) -> Iterator[Table]:
    for block in found:
        yield block_table(block, by)
    if found:
        yield Table("How to read this", notes=[*LEGEND, *remarks])
    elif remarks:
        yield Table("Leaderboard", notes=remarks)


def block_table(block: Block, by: By) -> Table:
    names = dict(zip(block.metrics, labels(block.metrics), strict=True))
    main_name, others = names[block.metric], block.metrics[1:]
    columns = ["#", "run", "weights", f"{main_name} last", "step", f"{main_name} best", "at step"]
    columns += [names[name] for name in others]
    rows = [row_cells(row, block) for row in block.rows]
    if block.floors:
        rows.append(floor_cells(block))
    failed = [
        f"{row.run} ({row.weights}), step {score.step}: {names[name]} failed: {score.reason}"
        for row in block.rows
        for name, score in row.last.items()
        if score.mean is None
    ]
    return Table(
        title=f"{block.protocol['dataset']}, protocol {block.protocol['name']}"
        f" ({block.protocol_id})",
        columns=columns,
        rows=rows,
        lines=describe(block, by),
        notes=failed,
        right=frozenset({*columns} - {"run", "weights"}),
        extra=len(others),
        keys=3,
    )


def row_cells(row: Row, block: Block) -> list[str]:
    mark = {True: "=", False: "", None: "?" if (row.rank or 1) > 1 else ""}[row.tie]
    last, best = row.last.get(block.metric), row.best.get(block.metric)
    return [
        f"{row.rank}{mark}" if row.rank else "",
        row.run,
        row.weights,
        value(last),
        str(last.step) if last else "",
        value(best),
        str(best.step) if best else "",
        *(value(row.last.get(name)) for name in block.metrics[1:]),
    ]


def floor_cells(block: Block) -> list[str]:
    def cell(name: str) -> str:
        floor = block.floors.get(name)
        if floor is None:
            return ""
        return ("~" if floor.kind == "estimated" else "") + plus_minus(floor.mean)

    main = block.floors.get(block.metric)
    name = f"floor ({main.kind})" if main else "floor"
    return ["", name, "", cell(block.metric), "", "", "", *map(cell, block.metrics[1:])]


def value(score: Score | None) -> str:
    return plus_minus(score.mean, score.sd) if score else ""


def published_tables(rows: list[Published]) -> Iterator[Table]:
    if rows:
        yield Table("Published", lines=[NEVER_RANKED])
    for (source, protocol, dataset), group in groupby(
        rows, key=lambda row: (row.source, row.protocol, row.dataset)
    ):
        yield Table(
            title=f"{dataset}: {source}",
            columns=["model", "IS", "FID", "note"],
            rows=[
                [
                    row.model,
                    printed(row.inception_score, row.inception_score_sd),
                    printed(row.fid, row.fid_sd),
                    row.note,
                ]
                for row in group
            ],
            lines=[f"protocol: {protocol}"],
            right=frozenset({"IS", "FID"}),
        )


def printed(mean: float | None, sd: float | None) -> str:
    """A published number, no digit added."""
    if mean is None:
        return ""
    return f"{mean:g}" + ("" if sd is None else f"±{sd:.2f}")


def as_json(
    found: list[Block], published: list[Published], by: By, remarks: list[str]
) -> dict[str, Any]:
    return {
        "format": 1,
        "ranked_by_step": by,
        "blocks": [asdict(block) for block in found],
        "published": {"note": NEVER_RANKED, "rows": [asdict(row) for row in published]},
        "remarks": remarks,
    }


def as_csv(
    found: list[Block], published: list[Published], by: By
) -> tuple[list[str], list[dict[str, Any]]]:
    """A row for each run, weights and protocol, then the published ones.

    Those have columns of their own for their numbers, so that sorting a column mixes nothing.
    """
    columns, records = flat(found, by)
    extra = [published_record(row) for row in published]
    return list(
        dict.fromkeys([*columns, *(name for row in extra for name in row)])
    ), records + extra


def published_record(row: Published) -> dict[str, Any]:
    return {
        "source": "published",
        "protocol_dataset": row.dataset,
        "run": row.model,
        "published_inception_score": row.inception_score,
        "published_inception_score_sd": row.inception_score_sd,
        "published_fid": row.fid,
        "published_fid_sd": row.fid_sd,
        "published_protocol": row.protocol,
        "citation": row.source,
        "note": row.note,
    }
