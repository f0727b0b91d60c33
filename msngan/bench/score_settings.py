"""What `bench scores` measures. No torch here: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTS = ("frechet", "low-rank", "kernel", "evaluation")


@dataclass(frozen=True)
class ScoreSettings:
    """only: of PARTS. The rest is what MEANINGS says."""

    only: tuple[str, ...] = PARTS
    rounds: int = 5
    threads: int = 1
    samples: int = 2000
    few: int = 500
    dimensions: int = 2048
    kept: int = 10_000
    subsets: int = 100
    subset_size: int = 1000
    runs: int = 5
    width: int = 64
    device: Literal["cpu"] = "cpu"


MEANINGS = {
    "samples": "generated images of a run",
    "few": "generated images of low-rank, fewer than dimensions",
    "dimensions": "features of an image, but for the evaluation",
    "kept": "real images of kernel and evaluation",
    "subsets": "of torch-fidelity's kernel distance",
    "subset_size": "images of each subset",
    "runs": "of the evaluation",
    "width": "of the evaluation's generator",
}
LEAST = {"subsets": 1, "runs": 1, "width": 1}  # of the others 2: a covariance needs as many
