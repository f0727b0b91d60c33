"""The comparison of two configs as tables."""

from __future__ import annotations

from collections.abc import Iterator

from msngan.leaderboard.board import Board
from msngan.leaderboard.experiments import in_words
from msngan.leaderboard.paired import SIDES, Comparison, Match, Paired
from msngan.leaderboard.ranking import Block, describe, labels
from msngan.leaderboard.seeds import Member, Summary
from msngan.report.tables.leaderboard import interval, title
from msngan.report.tables.table import Table, plus_minus

COMPARED_LEGEND = [
    "A - B: the mean over pairs of equal training seed; sd: of the paired differences (ddof 1);"
    " 95 % CI: of their mean, Student's t with n - 1. The ± of a single run plays no part.",
    "'better' is written where the interval leaves 0 out; of twenty such lines about one does so"
    " by chance alone.",
]


def comparison_tables(board: Board, comparison: Comparison) -> Iterator[Table]:
    found = {block.protocol_id: block for block in board.blocks}
    lines = [
        f"{side}: {config}, runs {', '.join(config.runs)}"
        for side, config in zip(SIDES, (comparison.a, comparison.b), strict=True)
    ]
    lines.append(f"they differ in {in_words(comparison.differences)}")
    yield Table(f"{comparison.a} against {comparison.b}", lines=lines, notes=comparison.notes)
    for match in comparison.matches:
        yield match_table(match, found[match.protocol_id])
    yield Table("How to read this", notes=[*COMPARED_LEGEND, *board.remarks])


def match_table(match: Match, block: Block) -> Table:
    names = labels([row.metric for row in match.rows])
    columns = ["metric", "pairs", "step", "mean A", "mean B", "A - B", "shown", "sd", "95 % CI"]
    seeds = ", ".join(str(one.seed) for one, _ in match.pairs)
    notes = [
        f"unpaired, {side} only: {', '.join(map(with_seed, members))}"
        for side, members in match.unpaired.items()
        if members
    ]
    return Table(
        title=f"{title(block)}, {match.weights} weights",
        columns=columns,
        rows=[paired_cells(name, row, match) for name, row in zip(names, match.rows, strict=True)],
        lines=[*describe(block), f"paired by seed: {seeds}"],
        notes=[*notes, *match.notes],
        right=frozenset({*columns} - {"metric", "shown"}),
        extra=2,
        keys=1,
    )


def paired_cells(name: str, row: Paired, match: Match) -> list[str]:
    def mean(found: Summary | None) -> str:
        return plus_minus(found.mean) if found else ""

    known = row.difference is not None and row.difference.sd is not None
    return [
        name,
        str(len(match.pairs)),
        "" if row.step is None else str(row.step),
        mean(row.a),
        mean(row.b),
        mean(row.difference),
        row.verdict,
        plus_minus(row.difference.sd) if row.difference and known else "none",
        interval(row.difference),
    ]


def with_seed(member: Member) -> str:
    return f"{member.run} (seed {member.seed})"
