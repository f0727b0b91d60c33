"""Everything that a leaderboard shows, worked out once, and its JSON and CSV forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from msngan.leaderboard.experiments import Setup
from msngan.leaderboard.paired import Comparison, compare
from msngan.leaderboard.published import NEVER_RANKED, Published
from msngan.leaderboard.ranking import Block, By, blocks, by_protocol
from msngan.leaderboard.seeds import Pool, pool
from msngan.runs.score_records import Entry

Record = dict[str, Any]


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
        pools={each.protocol_id: pool(each, apart[each.protocol_id], setups, by) for each in found},
        comparison=compare(*pair, shown, setups, metric) if pair else None,
    )


def as_json(board: Board, published: list[Published]) -> dict[str, Any]:
    return {
        "format": 1,
        "ranked_by_step": board.by,
        "blocks": [
            {**asdict(block), "pooled": asdict(board.pools[block.protocol_id])}
            for block in board.blocks
        ],
        "configs": {run: asdict(setup) for run, setup in sorted(board.setups.items())},
        "published": {"note": NEVER_RANKED, "rows": [asdict(row) for row in published]},
        "remarks": board.remarks,
    }


def as_csv(board: Board, published: list[Published]) -> list[Record]:
    """The rows of the JSON as flat records; `source` says what a record is.

    A field is named by the path to its value, 'last fd/... mean' for instance. Runs, configs over
    seeds and published rows have fields of their own for their numbers, so that sorting a column
    mixes nothing.
    """
    records, pooled = [], []
    for block in board.blocks:
        about = _about(block) | {"ranked_by": block.metric, "ranked_by_step": board.by}
        for row in block.rows:
            found = asdict(row)
            if setup := board.setups.get(row.run):
                found |= {"config_id": setup.config_id, "seed": setup.seed}
            if floor := block.floors.get(block.metric):
                found |= {"floor": floor.mean, "floor_kind": floor.kind}
            records.append({"source": "measured", **about, **dict(_flat(found))})
        for each in board.pools[block.protocol_id].rows:
            found = asdict(each)
            found["seeds"] = " ".join(str(member["seed"]) for member in found.pop("members"))
            found["over seeds"] = {name: found.pop(name) for name in ("steps", "last", "best")}
            pooled.append({"source": "pooled over seeds", **about, **dict(_flat(found))})
    printed = [
        {"source": "published", "run": row.model, "published": asdict(row)} for row in published
    ]
    return records + pooled + [dict(_flat(each)) for each in printed]


def comparison_csv(board: Board, comparison: Comparison) -> list[Record]:
    """A record for each protocol, kind of weights and metric."""
    blocks = {block.protocol_id: block for block in board.blocks}
    records = []
    for match in comparison.matches:
        about = {
            "source": "compared",
            **_about(blocks[match.protocol_id]),
            "A": {"config": comparison.a.name, "config_id": comparison.a.config_id},
            "B": {"config": comparison.b.name, "config_id": comparison.b.config_id},
            "unpaired": {side: [m.seed for m in each] for side, each in match.unpaired.items()},
            "weights": match.weights,
            "pairs": len(match.pairs),
            "seeds": [member.seed for member, _ in match.pairs],
        }
        records += [dict(_flat({**about, **asdict(row)})) for row in match.rows]
    return records


def _about(block: Block) -> Record:
    return {"protocol_id": block.protocol_id, **dict(_flat(block.protocol, "protocol"))}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  any JSON value
    """What is nested by the words on its path; a list of plain values as one text."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name} {key}".strip())
    elif isinstance(value, list | tuple):
        yield name, " ".join(map(str, value))
    else:
        yield name, value
