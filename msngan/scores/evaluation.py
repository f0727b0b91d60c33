"""Score a generator: sample once, embed once, every score from the same features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msngan.runs.folder import Diverged
from msngan.scores import sharing as processes
from msngan.scores.backends import BACKENDS, Run
from msngan.scores.floors import Score, floors, summary
from msngan.scores.interface import Extractor, Features
from msngan.scores.measuring import roles_of
from msngan.scores.protocol import METRICS, Protocol
from msngan.scores.reference import Progress, Reference

Sampler = Callable[[int, int], Iterator[Tensor]]  # (count, seed) -> batches of uint8 (n, C, H, W)


@dataclass(frozen=True)
class Result:
    """scores, floors: key ("fid", "cs/embed-...") -> entry, as a score line holds them.

    An entry is {"mean", "sd", "values"}; sd has the divisor runs - 1 and is None for one run. A
    floor also has its "kind". A failed score is {"mean": None, "reason": "..."}. seconds: where the
    time went: "floors", "generator", "extractor", "scores".
    """

    scores: dict[str, Score]
    floors: dict[str, Score]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


class _Failed(Exception):
    """A run has no score; the message says why."""


class _Clock:
    """Seconds by what they went to."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("floors", "generator", "extractor", "scores"), 0.0)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - start


def evaluate(
    sampler: Sampler,
    protocol: Protocol,
    extractor: Extractor,
    reference: Reference,
    *,
    metrics: Collection[str] = tuple(METRICS),
    backend: str = "own",
    real: Tensor | None = None,
    held_out: Tensor | None = None,
    progress: Progress | None = None,
) -> Result:
    """The scores of `sampler` under `protocol`, those of METRICS that are asked for.

    Run k asks the sampler for protocol.samples images with seed protocol.seed_of(k); under several
    processes for those of them that processes.share() gives this one, and all get the same result.
    backend: whose arithmetic, of BACKENDS; all agree to rounding. real: the reference's images, for
    backends that embed them anew. held_out: other real images, for the floors. progress is told of
    images done and in all. NaN in images or features makes every score None with a reason; a
    protocol of another extractor or reference is a ValueError.
    """
    _check(protocol, extractor, reference)
    compute = BACKENDS[backend]
    roles, clock = roles_of(metrics), _Clock()
    values: dict[str, list[float]] = {role: [] for role in roles}
    failed = ""
    with clock.on("floors"):  # first: they take as long as a score where they are not cached
        found = floors(reference, extractor, protocol, held_out, roles)
    try:
        for run in range(protocol.runs):
            images, features = _sampled(sampler, protocol, run, extractor, clock, progress)
            with clock.on("scores"):
                whole = Run(features, images, extractor, reference, real, protocol)
                for role, value in compute(whole, roles).items():
                    if not math.isfinite(value):
                        raise _Failed(f"{extractor.keys[role]} of run {run} is {value}")
                    values[role].append(value)
    except _Failed as failure:
        failed = str(failure)
    scores = {extractor.keys[role]: _entry(each, failed, protocol) for role, each in values.items()}
    return Result(scores, found, clock.seconds)


def _entry(values: list[float], failed: str, protocol: Protocol) -> Score:
    few = f"{protocol.samples} samples are too few for the nearest neighbours"
    return summary(values) if values and not failed else {"mean": None, "reason": failed or few}


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
    clock: _Clock,
    progress: Progress | None,
) -> tuple[Tensor, Features]:
    """One run's images, those of this process, and the features of all processes' images."""
    share = processes.share(protocol.samples)
    parts: list[Features] = []
    kept: list[Tensor] = []
    done, reason = 0, f"features of run {run} hold NaN or Inf"
    try:
        for images in _batches(sampler, protocol, run, clock):
            with clock.on("extractor"):
                parts.append(extractor.features(images))
            kept.append(images)
            done += len(images)
            if progress:
                progress(run * len(share) + done, protocol.runs * len(share))
    except Diverged as problem:  # the way to uint8 has met NaN: a failed score and not a crash
        reason = f"images of run {run}: {problem}"
        # All processes meet in gather(), and learn there of this one's failure.
        parts = [_nothing(len(share), extractor)]
    else:
        if done != len(share):
            raise ValueError(f"the sampler gave {done} images, not the {len(share)} asked for")
    features = Features(
        processes.gather(torch.cat([part.pool for part in parts]), share, protocol.samples),
        processes.gather(torch.cat([part.logits for part in parts]), share, protocol.samples),
    )
    if not features.finite:
        raise _Failed(reason)
    return torch.cat(kept), features


def _nothing(count: int, extractor: Extractor) -> Features:
    """NaN in place of the features of `count` images."""
    nan = torch.tensor(math.nan, dtype=torch.float64)
    return Features(
        nan.expand(count, extractor.dimensions).clone(),
        nan.expand(count, extractor.classes).clone(),
    )


def _batches(sampler: Sampler, protocol: Protocol, run: int, clock: _Clock) -> Iterator[Tensor]:
    """One run's batches, of the protocol's shape."""
    batches = iter(sampler(protocol.samples, protocol.seed_of(run)))
    shape = (protocol.channels, protocol.size, protocol.size)
    while True:
        with clock.on("generator"):
            images = next(batches, None)
        if images is None:
            return
        if images.shape[1:] != shape:
            raise ValueError(f"sampled images are {tuple(images.shape[1:])}, not {shape}")
        yield images
