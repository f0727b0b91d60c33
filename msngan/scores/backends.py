"""BACKENDS: whose arithmetic turns one run's images into numbers. All agree to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msngan.runs.folder import Failure, UserError
from msngan.scores import core
from msngan.scores.measuring import measure

if TYPE_CHECKING:
    from torch import Tensor

    from msngan.scores.interface import Extractor, Features
    from msngan.scores.protocol import Protocol
    from msngan.scores.reference import Reference


TOLERANCE = 1e-6


class Disagreement(Failure):
    """Two libraries give two numbers for the same images: neither may be believed."""


@dataclass(frozen=True)
class Run:
    """One run: features of all its images, and the images that this process drew.

    real: the reference's images, or None where the caller has only their statistics.
    """

    features: Features
    images: Tensor
    extractor: Extractor
    reference: Reference
    real: Tensor | None
    protocol: Protocol


Backend = Callable[[Run, Collection[str]], dict[str, float]]  # (run, roles) -> role: number


def own(run: Run, roles: Collection[str]) -> dict[str, float]:
    return measure(run.features, run.reference, run.protocol, roles)


def torchmetrics(run: Run, roles: Collection[str]) -> dict[str, float]:
    """Its Fréchet distance and inception score; the rest is ours.

    Its kernel distance takes subsets, of equal size on both sides, by the global generator: the
    full U-statistic against 10,000 images is out of its reach. It has no precision and recall.
    """
    from msngan.scores import by_torchmetrics as library

    rest = [role for role in roles if role not in ("frechet", "score")]
    found = measure(run.features, run.reference, run.protocol, rest)
    if "frechet" in roles:
        real = run.reference
        found["frechet"] = library.frechet(
            run.features.pool, real.mean, real.covariance, real.count
        )
    if "score" in roles:
        found["score"] = library.inception_score(run.features.logits, run.protocol.splits)
    return found


def torch_fidelity(run: Run, roles: Collection[str]) -> dict[str, float]:
    """Its own loop over the images, its own arithmetic; a Disagreement if ours are not its numbers.

    Its kernel distance compares sets of one size, so it checks ours on as many real images as there
    are samples; the number that counts is of all kept images. It has no density and no coverage.
    With fewer samples than features its Fréchet distance is off by rounding, and ours counts.
    """
    from msngan.scores import by_torch_fidelity as library

    if run.real is None or len(run.images) != run.protocol.samples:
        raise UserError("--via torch-fidelity needs all images in one process; use --via own")
    theirs = library.scores(
        run.extractor,
        run.images,
        run.real,
        run.reference.cache.stem,
        splits=run.protocol.splits,
        neighbours=run.protocol.precision_neighbours,
        roles=roles,
    )
    found = measure(run.features, run.reference, run.protocol, roles)
    ours = dict(found)
    if "kernel" in roles:
        kept = min(len(run.images), len(run.reference.features))
        ours["kernel"] = core.kernel_distance(
            run.features.pool[:kept], run.reference.features[:kept]
        )
    for role, value in theirs.items():
        if role not in ours:
            continue
        noise = _rounding(run) if role == "frechet" else 0.0
        if not agree(ours[role], value, noise):
            key = run.extractor.keys[role]
            raise Disagreement(f"{key} is {ours[role]!r}, but {value!r} by torch-fidelity")
        if role != "kernel" and not noise:
            found[role] = value
    return found


def agree(one: float, other: float, noise: float = 0.0) -> bool:
    """Within 1e-6, of the value or of 1 where it is smaller, and within `noise` beyond that."""
    return abs(one - other) <= TOLERANCE * max(1.0, abs(other)) + noise


def _rounding(run: Run) -> float:
    """What rounding does to a Fréchet distance that is taken from eigenvalues of a product.

    With fewer samples than features many of these are zero but for rounding, some 1e-16 of the
    largest, and their square roots are summed: 2e-4 was seen with 500 samples of 2048 features. Our
    own way has none of them.
    """
    dimensions = run.features.pool.shape[1]
    if len(run.features) > dimensions:
        return 0.0
    largest = max(run.reference.eigenvalues.tolist(), default=0.0)
    return dimensions * math.sqrt(2**-52) * largest


BACKENDS: dict[str, Backend] = {
    "own": own,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
}
