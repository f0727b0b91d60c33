"""Score a generator: sample once, embed once, every score from the same features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from msngan.metrics import core
from msngan.metrics.floors import Score, floors, summary
from msngan.metrics.interface import Extractor, Features
from msngan.metrics.protocol import Protocol
from msngan.metrics.reference import Progress, Reference
from msngan.runs import Diverged

Sampler = Callable[[int, int], Iterator[Tensor]]  # (count, seed) -> batches of uint8 (n, C, H, W)
Backend = Literal["own", "torchmetrics"]


@dataclass(frozen=True)
class Result:
    """scores, floors: key ("fid", "cs/embed-...") -> entry, as a score line holds them.

    An entry is {"mean", "sd", "values"}; sd has the divisor runs - 1 and is None for one run. A
    floor also has its "kind". A failed score is {"mean": None, "reason": "..."}.
    """

    scores: dict[str, Score]
    floors: dict[str, Score]


class _Failed(Exception):
    """A run has no score; the message says why."""


def evaluate(
    sampler: Sampler,
    protocol: Protocol,
    extractor: Extractor,
    reference: Reference,
    *,
    backend: Backend = "own",
    held_out: Tensor | None = None,
    progress: Progress | None = None,
) -> Result:
    """All scores of `sampler` under `protocol`.

    Run k asks the sampler for protocol.samples images with seed protocol.seed + k. held_out: real
    images for the floors. backend: whose arithmetic computes Fréchet distance and score; they agree
    to rounding. progress is told of images done and in all. NaN in images or features makes every
    score None with a reason; a protocol of another extractor or reference is a ValueError.
    """
    _check(protocol, extractor, reference)
    score = _by_torchmetrics if backend == "torchmetrics" else _by_core
    keys = extractor.keys
    values: dict[str, list[float]] = {keys["frechet"]: [], keys["score"]: [], keys["kernel"]: []}
    try:
        for run in range(protocol.runs):
            features = _sampled(sampler, protocol, run, extractor, progress)
            frechet, inception = score(features, reference, protocol.splits)
            values[keys["frechet"]].append(frechet)
            values[keys["score"]].append(inception)
            # torchmetrics' kernel distance takes subsets, of equal size on both sides, by the
            # global generator: the full U-statistic against 10,000 images is out of its reach
            values[keys["kernel"]].append(reference.kernel(features.pool))
            for key, each in values.items():
                if not math.isfinite(each[-1]):
                    raise _Failed(f"{key} of run {run} is {each[-1]}")
    except _Failed as failure:
        scores: dict[str, Score] = {key: {"mean": None, "reason": str(failure)} for key in values}
    else:
        scores = {key: summary(each) for key, each in values.items()}
    return Result(scores, floors(reference, extractor, protocol, held_out))


def _check(protocol: Protocol, extractor: Extractor, reference: Reference) -> None:
    """Refuse a protocol that would be written beside numbers it does not describe."""
    facts = {
        "extractor": extractor.name,
        "official_inception": extractor.official_inception,
        "resize": extractor.resize,
        "reference_sha256": reference.sha256,
        "reference_images": reference.count,
    }
    for name, fact in facts.items():
        if getattr(protocol, name) != fact:
            raise ValueError(f"the protocol's {name} is {getattr(protocol, name)!r}, not {fact!r}")
    if reference.extractor != extractor.name:
        raise ValueError(f"the reference is of {reference.extractor}, not of {extractor.name}")


def _sampled(
    sampler: Sampler,
    protocol: Protocol,
    run: int,
    extractor: Extractor,
    progress: Progress | None,
) -> Features:
    """The features of one run's images."""
    parts: list[Features] = []
    done = 0
    for images in _batches(sampler, protocol, run):
        shape = (protocol.channels, protocol.size, protocol.size)
        if images.shape[1:] != shape:
            raise ValueError(f"sampled images are {tuple(images.shape[1:])}, not {shape}")
        parts.append(extractor.features(images))
        done += len(images)
        if progress:
            progress(run * protocol.samples + done, protocol.runs * protocol.samples)
    if done != protocol.samples:
        raise ValueError(f"the sampler gave {done} images, not the {protocol.samples} asked for")
    features = Features(
        torch.cat([part.pool for part in parts]), torch.cat([part.logits for part in parts])
    )
    if not features.finite:
        raise _Failed(f"features of run {run} hold NaN or Inf")
    return features


def _batches(sampler: Sampler, protocol: Protocol, run: int) -> Iterator[Tensor]:
    """One run's batches; where the way to uint8 meets NaN, a failed score and not a crash."""
    try:
        yield from sampler(protocol.samples, protocol.seed + run)
    except Diverged as problem:
        raise _Failed(f"images of run {run}: {problem}") from problem


def _by_core(features: Features, reference: Reference, splits: int) -> tuple[float, float]:
    return reference.frechet(features.pool), core.inception_score(features.logits, splits)


def _by_torchmetrics(features: Features, reference: Reference, splits: int) -> tuple[float, float]:
    from msngan.metrics import by_torchmetrics as backend

    return (
        backend.frechet(features.pool, reference.mean, reference.covariance, reference.count),
        backend.inception_score(features.logits, splits),
    )
