"""Everything that a leaderboard shows, worked out once for all its formats."""

from __future__ import annotations

from dataclasses import dataclass, field

from msngan.leaderboard import Block, By, blocks, by_protocol
from msngan.leaderboard.compare import Comparison, compare
from msngan.leaderboard.configs import Setup
from msngan.leaderboard.pooling import Pooled, pool
from msngan.runs.score_records import Entry


@dataclass(frozen=True)
class Pool:
    """A block's configs over their seeds, and what to say of them."""

    rows: list[Pooled]
    notes: list[str]


@dataclass(frozen=True)
class Board:
    """blocks, each with its entries and its pool by protocol_id; comparison where one was asked.

    setups: by run. remarks and warnings: for people.
    """

    blocks: list[Block]
    by: By
    entries: dict[str, list[Entry]]
    setups: dict[str, Setup]
    pools: dict[str, Pool]
    comparison: Comparison | None = None
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_board(
    entries: list[Entry],
    setups: dict[str, Setup],
    metric: str | None = None,
    by: By = "last",
    pair: tuple[str, str] | None = None,
) -> Board:
    """metric and by: see `blocks`. pair: the two words of --compare."""
    found = blocks(entries, metric, by)
    apart = by_protocol(entries)
    shown = [entry for block in found for entry in apart[block.protocol_id]]
    return Board(
        blocks=found,
        by=by,
        entries=apart,
        setups=setups,
        pools={
            each.protocol_id: Pool(*pool(each, apart[each.protocol_id], setups, by))
            for each in found
        },
        comparison=compare(*pair, shown, setups, metric) if pair else None,
    )
