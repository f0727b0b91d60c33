"""A leaderboard as flat records, for CSV: what kind a record is of, its `source` says.

Runs, configs over seeds and comparisons have columns of their own for their numbers, so that
sorting a column mixes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from msngan.leaderboard import Block, By, Row
from msngan.leaderboard.board import Board
from msngan.leaderboard.compare import Comparison, Match, Paired
from msngan.leaderboard.intervals import Summary
from msngan.leaderboard.pooling import Pooled
from msngan.leaderboard.published import NEVER_RANKED, Published

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


def flat(board: Board) -> tuple[list[str], list[Record]]:
    """The columns and the records of runs, then of pooled configs.

    last and best are of the metric in `ranked_by`. Every metric has two columns more, "score NAME"
    and "sd NAME", of a run's last step. A failed or missing score is None.
    """
    metrics = dict.fromkeys(name for block in board.blocks for name in block.metrics)
    columns = [
        *COLUMNS,
        *(column for name in metrics for column in (f"score {name}", f"sd {name}")),
    ]
    records = [_run(row, block, board) for block in board.blocks for row in block.rows]
    pooled = [
        _pooled(row, block, board.by)
        for block in board.blocks
        for row in board.pools[block.protocol_id].rows
    ]
    return [*columns, *(POOLED if pooled else [])], records + pooled


def flat_comparison(board: Board, comparison: Comparison) -> tuple[list[str], list[Record]]:
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


def _run(row: Row, block: Block, board: Board) -> Record:
    record = _common("measured", block)
    record |= {"ranked_by": block.metric, "ranked_by_step": board.by}
    record |= {"rank": row.rank, "tie": row.tie}
    record |= {"run": row.run, "config": row.config, "weights": row.weights}
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


def _pooled(row: Pooled, block: Block, by: By) -> Record:
    record = _common("pooled over seeds", block)
    record |= {"ranked_by": block.metric, "ranked_by_step": by, "rank": row.rank, "tie": row.tie}
    record |= {"config": row.config, "config_id": row.config_id, "weights": row.weights}
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
    """A row for each run, weights and protocol, for each pooled config, then the published ones.

    Those have columns of their own for their numbers, so that sorting a column mixes nothing.
    """
    columns, records = flat(board)
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
