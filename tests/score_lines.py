"""Score lines for the tests of the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EMBEDDED = "embed-cifar10-46378be3"
PROTOCOL = {
    "name": "paper",
    "runs": 5,
    "samples": 2000,
    "splits": 1,
    "dataset": "cifar10",
    "split": "train",
    "reference_images": 50000,
    "reference_sha256": "ab" * 32,
    "size": 32,
    "channels": 3,
    "extractor": EMBEDDED,
    "official_inception": False,
    "quantisation": "round-clamp",
    "seed": 0,
}
FD, CS = f"fd/{EMBEDDED}", f"cs/{EMBEDDED}"


def score_line(
    fd: float | None = 12.3,
    *,
    step: int = 1000,
    sd: float | None = 0.2,
    weights: str = "ema",
    protocol_id: str = "aaaa00000000",
    scores: dict[str, Any] | None = None,
    floors: dict[str, Any] | None = None,
    **protocol: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """A line whose Fréchet distance over five drawings is `fd`."""
    mean = {"mean": fd, "sd": sd} if fd is not None else {"mean": None, "reason": "NaN images"}
    return {
        "format": 1,
        "run": "ignored",
        "config": "cifar_msn",
        "step": step,
        "weights": weights,
        "source": "fit",
        "time": "2026-11-20T09:00:00Z",
        "seconds": 3.1,
        "protocol": {**PROTOCOL, **protocol},
        "protocol_id": protocol_id,
        "scores": {FD: mean} if scores is None else scores,
        "floors": {} if floors is None else floors,
    }


def official(fid: float, protocol_id: str = "bbbb00000000") -> dict[str, Any]:
    """A line of the official Inception network."""
    return score_line(
        protocol_id=protocol_id,
        scores={"fid": {"mean": fid, "sd": 0.2, "values": [fid] * 5}},
        extractor="inception-6726825d",
        official_inception=True,
    )


def write_run(root: Path, name: str, *lines: dict[str, Any] | str) -> Path:
    """checkpoints/<name>/ with a config and these lines; a str is written as it is."""
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    if lines:
        (folder / "scores.jsonl").write_text("\n".join(text) + "\n")
    return folder
