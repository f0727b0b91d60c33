"""The leaderboard as tables, for a terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from msngan.leaderboard.board import Board
from msngan.leaderboard.experiments import told_apart
from msngan.leaderboard.published import NEVER_RANKED, Published
from msngan.leaderboard.ranking import Block, Row, describe, labels, ranking
from msngan.leaderboard.seeds import Pool, Pooled, Summary
from msngan.report.tables.table import Table, plus_minus
from msngan.runs.score_records import Score

LEGEND = [
    "± of a run: standard deviation over drawings of samples from one set of weights, not over"
    " seeds.",
    "best: chosen by the score shown, so it flatters; compare runs by last.",
    "2=: tied with the row above, |difference| < 2 sqrt(s1^2/n1 + s2^2/n2), n the drawings;"
    " 2?: a spread is missing, so nobody knows. ~: an estimate.",
]
POOLED_LEGEND = [
    "± over seeds: standard deviation (ddof 1) over training runs that differ in their seed only;"
    " this one, and not a run's, is what a claim that one config beats another needs.",
    "last over seeds: the mean of the runs' means, at the largest step that all of them share;"
    " 95 % CI: of that mean, Student's t with n - 1.",
    "2= over seeds: tied with the row above, the 95 % interval of the difference (Welch) holds 0.",
]


def board_tables(board: Board) -> Iterator[Table]:
    for block in board.blocks:
        yield block_table(block, board)
        if table := pooled_table(block, board.pools[block.protocol_id]):
            yield table
    if board.blocks:
        yield Table("How to read this", notes=[*legend(board), *board.remarks])
    elif board.remarks:
        yield Table("Leaderboard", notes=board.remarks)


def legend(board: Board) -> list[str]:
    return [*LEGEND, *(POOLED_LEGEND if any(pool.rows for pool in board.pools.values()) else [])]


def title(block: Block) -> str:
    return f"{block.protocol['dataset']}, protocol {block.protocol['name']} ({block.protocol_id})"


def block_table(block: Block, board: Board) -> Table:
    names = dict(zip(block.metrics, labels(block.metrics), strict=True))
    main_name, others = names[block.metric], block.metrics[1:]
    columns = ["#", "run", "weights", f"{main_name} last", "step", f"{main_name} best", "at step"]
    columns += [names[name] for name in others]
    rows = [row_cells(row, block) for row in block.rows]
    if block.floors:
        rows.append(floor_cells(block))
    told = told_apart([row.run for row in block.rows], board.setups)
    if any(told.values()):
        columns.append("differs in")
        runs = [row.run for row in block.rows] + [""] * bool(block.floors)
        for cells, run in zip(rows, runs, strict=True):
            cells.append(told.get(run, ""))
    failed = [
        f"{row.run} ({row.weights}), step {score.step}: {names[name]} failed: {score.reason}"
        for row in block.rows
        for name, score in row.last.items()
        if score.mean is None
    ]
    return Table(
        title=title(block),
        columns=columns,
        rows=rows,
        lines=[*describe(block), ranking(block, board.by)],
        notes=[*unequal(block), *failed],
        right=frozenset({*columns} - {"run", "weights", "differs in"}),
        extra=len(others) + any(told.values()),
        keys=3,
    )


def unequal(block: Block) -> list[str]:
    """That rows are ranked at different steps: some have trained longer."""
    lasts = [row.last.get(block.metric) for row in block.rows]
    steps = sorted({score.step for score in lasts if score})
    if len(steps) < 2:
        return []
    return [
        f"the last steps are not the same ({', '.join(map(str, steps))}): some have trained longer;"
        " --compare A B takes a shared step"
    ]


def rank(row: Row | Pooled) -> str:
    mark = {True: "=", False: "", None: "?" if (row.rank or 1) > 1 else ""}[row.tie]
    return f"{row.rank}{mark}" if row.rank else ""


def row_cells(row: Row, block: Block) -> list[str]:
    last, best = row.last.get(block.metric), row.best.get(block.metric)
    return [
        rank(row),
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


def pooled_table(block: Block, pool: Pool) -> Table | None:
    """The block's configs over their seeds; None where there is neither one nor a note."""
    if not pool.rows:
        return Table(f"{title(block)}, seeds pooled", notes=pool.notes) if pool.notes else None
    names = dict(zip(block.metrics, labels(block.metrics), strict=True))
    main_name, others = names[block.metric], block.metrics[1:]
    columns = ["#", "config", "id", "weights", "seeds", f"{main_name} last", "step"]
    columns += ["95 % CI", f"{main_name} best", *(names[name] for name in others)]
    return Table(
        title=f"{title(block)}, seeds pooled",
        columns=columns,
        rows=[
            [
                rank(row),
                row.config,
                row.config_id,
                row.weights,
                str(len(row.members)),
                over_seeds(row.last.get(block.metric)),
                str(row.steps.get(block.metric, "")),
                interval(row.last.get(block.metric)),
                over_seeds(row.best.get(block.metric)),
                *(over_seeds(row.last.get(name)) for name in others),
            ]
            for row in pool.rows
        ],
        notes=pool.notes,
        right=frozenset({*columns} - {"config", "id", "weights"}),
        extra=2 + len(others),
        keys=4,
    )


def over_seeds(found: Summary | None) -> str:
    return plus_minus(found.mean, found.sd) if found else "none"


def interval(found: Summary | None) -> str:
    if found is None or found.low is None:
        return "none"
    return f"[{plus_minus(found.low)}, {plus_minus(found.high)}]"


def published_tables(rows: list[Published]) -> Iterator[Table]:
    """One for each data set; the sources and their protocols stand below it."""
    for dataset, group in groupby(rows, key=lambda row: row.dataset):
        own = list(group)
        sources = [*dict.fromkeys((row.source, row.protocol) for row in own)]
        yield Table(
            f"Published results, {dataset}",
            ["model", "IS", "FID", "source", "note"],
            [
                [
                    row.model,
                    printed(row.inception_score, row.inception_score_sd),
                    printed(row.fid, row.fid_sd),
                    str(sources.index((row.source, row.protocol)) + 1),
                    row.note,
                ]
                for row in own
            ],
            lines=[NEVER_RANKED],
            notes=[
                f"source {number} ({protocol}): {source}"
                for number, (source, protocol) in enumerate(sources, start=1)
            ],
            right=frozenset({"IS", "FID", "source"}),
            urls=True,
        )


def printed(mean: float | None, sd: float | None) -> str:
    """A published number, no digit added."""
    if mean is None:
        return ""
    return f"{mean:g}" + ("" if sd is None else f"±{sd:.2f}")
