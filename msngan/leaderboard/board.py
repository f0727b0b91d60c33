"""Everything that a leaderboard shows, worked out once, and its JSON and CSV forms."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from msngan.leaderboard.experiments import Setup
from msngan.leaderboard.paired import Comparison, Match, Paired, compare
from msngan.leaderboard.published import NEVER_RANKED, Published
from msngan.leaderboard.ranking import Block, By, Row, blocks, by_protocol
from msngan.leaderboard.seeds import Pool, Pooled, Summary, pool
from msngan.runs.score_records import Entry

PROTOCOL = ["name", "dataset", "split", "reference_images", "runs", "samples", "size"]
PROTOCOL += ["channels", "extractor", "official_inception"]
COMMON = ["source", "protocol_id", *(f"protocol_{name}" for name in PROTOCOL)]
RANKED = ["ranked_by", "ranked_by_step", "rank", "tie"]
COLUMNS = [*COMMON, *RANKED, "run", "config", "config_id", "seed", "weights"]
COLUMNS += ["last", "last_sd", "last_step", "best", "best_sd", "best_step", "reason"]
COLUMNS += ["floor", "floor_kind"]
SUMMARY = ["mean", "sd", "low", "high"]
POOLED = ["seeds", "seeds_n", "seeds_step"]
POOLED += [f"seeds_{kind}_{name}" for kind in ("last", "best") for name in SUMMARY]
COMPARED = [f"{side}_{name}" for side in ("a", "b") for name in ("config", "config_id", "unpaired")]
COMPARED += ["weights", "metric", "step", "pairs", "pairs_seeds", "a_mean", "b_mean"]
COMPARED += [*(f"difference_{name}" for name in SUMMARY), "verdict"]

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


def as_csv(board: Board, published: list[Published]) -> tuple[list[str], list[Record]]:
    """Columns, and a record for each run, pooled config and published row; `source` says which.

    Each kind has columns of its own for its numbers, so that sorting a column mixes nothing. last
    and best are of the metric in `ranked_by`; every metric has two columns more, "score NAME" and
    "sd NAME", of a run's last step. A failed or missing score is None.
    """
    records, pooled = [], []
    for block in board.blocks:
        records += [_run(row, block, board) for row in block.rows]
        pooled += [_pooled(row, block, board) for row in board.pools[block.protocol_id].rows]
    rows = [_published(row) for row in published]
    metrics = dict.fromkeys(name for block in board.blocks for name in block.metrics)
    columns = [*COLUMNS, *(f"{kind} {name}" for name in metrics for kind in ("score", "sd"))]
    columns += POOLED if pooled else []
    columns += [name for row in rows for name in row]
    return list(dict.fromkeys(columns)), records + pooled + rows


def comparison_csv(board: Board, comparison: Comparison) -> tuple[list[str], list[Record]]:
    """The columns, and a record for each protocol, kind of weights and metric."""
    protocols = {block.protocol_id: block for block in board.blocks}
    return [*COMMON, *COMPARED], [
        _compared(row, match, protocols[match.protocol_id], comparison)
        for match in comparison.matches
        for row in match.rows
    ]


def _common(source: str, block: Block) -> Record:
    record: Record = {f"protocol_{name}": block.protocol.get(name) for name in PROTOCOL}
    return record | {"source": source, "protocol_id": block.protocol_id}


def _ranked(source: str, row: Row | Pooled, block: Block, board: Board) -> Record:
    names = ("rank", "tie", "config", "weights")
    record = _common(source, block) | {name: getattr(row, name) for name in names}
    return record | {"ranked_by": block.metric, "ranked_by_step": board.by}


def _run(row: Row, block: Block, board: Board) -> Record:
    record = _ranked("measured", row, block, board) | {"run": row.run}
    if setup := board.setups.get(row.run):
        record |= {"config_id": setup.config_id, "seed": setup.seed}
    for kind, scores in (("last", row.last), ("best", row.best)):
        if score := scores.get(block.metric):
            record |= {kind: score.mean, f"{kind}_sd": score.sd, f"{kind}_step": score.step}
            record["reason"] = record.get("reason") or score.reason
    if floor := block.floors.get(block.metric):
        record |= {"floor": floor.mean, "floor_kind": floor.kind}
    for name, score in row.last.items():
        record |= {f"score {name}": score.mean, f"sd {name}": score.sd}
    return record


def _pooled(row: Pooled, block: Block, board: Board) -> Record:
    record = _ranked("pooled over seeds", row, block, board) | {"config_id": row.config_id}
    record |= {"seeds": " ".join(str(member.seed) for member in row.members)}
    record |= {"seeds_n": len(row.members), "seeds_step": row.steps.get(block.metric)}
    record |= _summary("seeds_last", row.last.get(block.metric))
    return record | _summary("seeds_best", row.best.get(block.metric))


def _compared(row: Paired, match: Match, block: Block, comparison: Comparison) -> Record:
    record = _common("compared", block)
    for side, config in (("a", comparison.a), ("b", comparison.b)):
        unpaired = " ".join(str(member.seed) for member in match.unpaired[side.upper()])
        record |= {f"{side}_config": config.name, f"{side}_config_id": config.config_id}
        record |= {f"{side}_unpaired": unpaired}
    record |= {"weights": match.weights, "metric": row.metric, "step": row.step}
    record |= {"pairs": len(match.pairs), "verdict": row.verdict}
    record |= {"pairs_seeds": " ".join(str(member.seed) for member, _ in match.pairs)}
    if row.a and row.b:
        record |= {"a_mean": row.a.mean, "b_mean": row.b.mean}
    return record | _summary("difference", row.difference)


def _summary(prefix: str, found: Summary | None) -> Record:
    return {f"{prefix}_{name}": getattr(found, name) for name in SUMMARY} if found else {}


def _published(row: Published) -> Record:
    values = {name: getattr(row, name) for name in ("inception_score", "inception_score_sd")}
    values |= {"fid": row.fid, "fid_sd": row.fid_sd, "protocol": row.protocol}
    return {
        "source": "published",
        "protocol_dataset": row.dataset,
        "run": row.model,
        **{f"published_{name}": value for name, value in values.items()},
        "citation": row.source,
        "note": row.note,
    }
