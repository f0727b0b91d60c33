"""Blocks as flat records: one for each run, weights and protocol, for CSV."""

from __future__ import annotations

from typing import Any

from msngan.leaderboard import Block, By, Row

PROTOCOL = ["name", "dataset", "split", "reference_images", "runs", "samples", "size"]
PROTOCOL += ["channels", "extractor", "official_inception"]
COLUMNS = ["source", "protocol_id", *(f"protocol_{name}" for name in PROTOCOL)]
COLUMNS += ["ranked_by", "ranked_by_step", "rank", "tie", "run", "config", "weights"]
COLUMNS += ["last", "last_sd", "last_step", "best", "best_sd", "best_step", "reason"]
COLUMNS += ["floor", "floor_kind"]


def flat(blocks: list[Block], by: By) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and the records; last and best are of the metric in `ranked_by`.

    Every metric has two columns more, "score NAME" and "sd NAME", of its last step. A failed or
    missing score is None.
    """
    metrics = dict.fromkeys(name for block in blocks for name in block.metrics)
    columns = [
        *COLUMNS,
        *(column for name in metrics for column in (f"score {name}", f"sd {name}")),
    ]
    return columns, [_record(row, block, by) for block in blocks for row in block.rows]


def _record(row: Row, block: Block, by: By) -> dict[str, Any]:
    record: dict[str, Any] = {f"protocol_{name}": block.protocol.get(name) for name in PROTOCOL}
    record |= {"source": "measured", "protocol_id": block.protocol_id}
    record |= {"ranked_by": block.metric, "ranked_by_step": by, "rank": row.rank, "tie": row.tie}
    record |= {"run": row.run, "config": row.config, "weights": row.weights}
    for kind, scores in (("last", row.last), ("best", row.best)):
        if score := scores.get(block.metric):
            record |= {kind: score.mean, f"{kind}_sd": score.sd, f"{kind}_step": score.step}
            record["reason"] = record.get("reason") or score.reason
    if floor := block.floors.get(block.metric):
        record |= {"floor": floor.mean, "floor_kind": floor.kind}
    for name, score in row.last.items():
        record |= {f"score {name}": score.mean, f"sd {name}": score.sd}
    return record
