"""Score lines for the tests of the leaderboard."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

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
    **protocol: Any,
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


def config(name: str, seed: int = 0, **changed: Any) -> dict[str, Any]:
    """A resolved config whose meaning is `name`'s; changed: "model__norm" is model's norm."""
    made: dict[str, Any] = {
        "run": name,
        "seed": seed,
        "steps": 2000,
        "threads": 1,
        "trainer": {"accelerator": "auto", "precision": "32-true", "deterministic": None},
        "model": {"norm": name, "critic_lr": 2e-4, "generator_betas": [0.5, 0.999]},
        "data": {"dataset": "cifar10", "root": None, "download": True, "batch_size": 64},
        "scores": {"every": 500, "protocol": "paper", "enabled": True},
        "samples": {"every": 500},
        "checkpoint": {"every": 250},
        "records": {"every": 50},
    }
    for key, value in changed.items():
        *sections, last = key.split("__")
        inner = made
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return made


def write_run(
    root: Path,
    name: str,
    *lines: dict[str, Any] | str,
    of: str | None = None,
    seed: int = 0,
    **changed: Any,
) -> Path:
    """checkpoints/<name>/ with a config and these lines; a str is written as it is.

    of: what the config is named and means; by default no other run's.
    """
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    resolved = config(of or name, seed, **changed)
    (folder / "config.yaml").write_text(yaml.safe_dump({**resolved, "run": name}))
    named = [{**each, "config": of} if of and isinstance(each, dict) else each for each in lines]
    text = [line if isinstance(line, str) else json.dumps(line) for line in named]
    if lines:
        (folder / "scores.jsonl").write_text("\n".join(text) + "\n")
    return folder


KINDS = ("ema", "raw")  # of weights


def marked_line(k: int, weights: str, draw: random.Random, **line: Any) -> dict[str, Any]:
    """A line of the k-th protocol, whose value says its protocol and kind of weights."""
    value = 100 * k + 50 * (weights == "raw") + draw.uniform(1, 9)
    protocol = {"protocol_id": f"{k:012d}", "samples": 1000 + k}
    return score_line(value, weights=weights, **protocol, **line)


def is_marked(value: float, protocol_id: str, weights: str) -> bool:
    """Whether a value, or a mean of some, is of this protocol and these weights alone."""
    return 0 < value - 100 * int(protocol_id) - 50 * (weights == "raw") < 10
