"""Score a sampler: sample once, embed once, and compute every score from the same features.

BACKENDS names whose arithmetic computes the scores: ours, torchmetrics' (training uses it), or
torch-fidelity's, which checks ours. All agree to rounding.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from msngan.runs import distributed, rng
from msngan.runs.folder import Diverged, Failure, UserError
from msngan.scores import distances
from msngan.scores.extractors import Extractor, Features
from msngan.scores.protocol import METRICS, Protocol, roles_of
from msngan.scores.reference import Progress, Reference, Score, real_data_scores, summary

Sampler = Callable[[int, int], Iterator[Tensor]]  # (count, seed) -> batches of uint8 (n, C, H, W)
PHASES = ("real data", "generator", "extractor", "scores")
TOLERANCE = 1e-6  # between two libraries, relative above 1


@dataclass(frozen=True)
class Result:
    """scores, real_data: key ("fid", "cs/embed-...") -> entry, as a score line holds them.

    An entry is {"mean", "sd", "values"}; sd has the divisor runs - 1 and is None for one run. What
    real images score also has its "kind". A failed score is {"mean": None, "reason": "..."}.
    seconds: the time spent in each of PHASES.
    """

    scores: dict[str, Score]
    real_data: dict[str, Score]
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


class _Failed(Exception):
    """A run has no score; the message says why."""


class _Clock:
    """Seconds spent in each of PHASES."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - start


def evaluate_sampler(
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
    """The scores of `sampler` under `protocol`, of the given names in METRICS.

    Run k asks the sampler for protocol.samples images with seed protocol.seed_of(k); with several
    processes, each asks for those that distributed.share() gives it, and all get the same result.
    backend: of BACKENDS. real: the reference's images, for backends that embed them again.
    held_out: other real images, for the real-data scores. progress is called with the number of
    images done and in all. NaN in images or features makes every score None with a reason; a
    protocol of another extractor or reference is a ValueError.
    """
    _check(protocol, extractor, reference)
    compute = BACKENDS[backend]
    roles, clock = roles_of(metrics), _Clock()
    values: dict[str, list[float]] = {role: [] for role in roles}
    failed = ""
    with clock.on("real data"):  # first: it takes as long as a score if it is not cached
        real_data = real_data_scores(reference, extractor, protocol, held_out, roles)
    try:
        for index in range(protocol.runs):
            images, features = _sampled(sampler, protocol, index, extractor, clock, progress)
            with clock.on("scores"):
                run = Run(features, images, extractor, reference, real, protocol)
                for role, value in compute(run, roles).items():
                    if not math.isfinite(value):
                        raise _Failed(f"{extractor.keys[role]} of run {index} is {value}")
                    values[role].append(value)
    except _Failed as failure:
        failed = str(failure)
    few = f"{protocol.samples} samples are too few for the nearest neighbours"
    scores = {
        extractor.keys[role]: summary(each)
        if each and not failed
        else {"mean": None, "reason": failed or few}
        for role, each in values.items()
    }
    return Result(scores, real_data, clock.seconds)


def _check(protocol: Protocol, extractor: Extractor, reference: Reference) -> None:
    """Refuse a protocol that does not describe the numbers it would be written beside."""
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
    share = distributed.share(protocol.samples)
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
    except Diverged as problem:  # NaN on conversion to uint8: a failed score, not a crash
        reason = f"images of run {run}: {problem}"
        # All processes meet in gather(), and learn there of this one's failure.
        nan = torch.full((len(share), 1), math.nan, dtype=torch.float64)
        parts = [Features(nan.repeat(1, extractor.dimensions), nan.repeat(1, extractor.classes))]
    else:
        if done != len(share):
            raise ValueError(f"the sampler gave {done} images, not the {len(share)} asked for")
    features = Features(
        distributed.gather(torch.cat([part.pool for part in parts]), share, protocol.samples),
        distributed.gather(torch.cat([part.logits for part in parts]), share, protocol.samples),
    )
    if not features.finite:
        raise _Failed(reason)
    return torch.cat(kept), features


def _batches(sampler: Sampler, protocol: Protocol, run: int, clock: _Clock) -> Iterator[Tensor]:
    """One run's batches; ValueError if they do not have the protocol's shape."""
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


# Whose arithmetic


class Disagreement(Failure):
    """Two libraries give two numbers for the same images, so neither can be trusted."""


@dataclass(frozen=True)
class Run:
    """One run: features of all its images, and the images that this process drew.

    real: the reference's images, or None if the caller has only their statistics.
    """

    features: Features
    images: Tensor
    extractor: Extractor
    reference: Reference
    real: Tensor | None
    protocol: Protocol

    def measure(self, roles: Collection[str]) -> dict[str, float]:
        return self.reference.measure(self.features, self.protocol, roles)


def torchmetrics(run: Run, roles: Collection[str]) -> dict[str, float]:
    """Fréchet distance and inception score of torchmetrics; the rest is ours.

    Its kernel distance draws subsets of equal size from the global generator and cannot compute the
    full U-statistic against 10,000 images. It has no precision and recall.
    """
    found = run.measure([role for role in roles if role not in ("frechet", "score")])
    if "frechet" in roles:
        real = run.reference
        found["frechet"] = torchmetrics_frechet(
            run.features.pool, real.mean, real.covariance, real.count
        )
    if "score" in roles:
        found["score"] = torchmetrics_score(run.features.logits, run.protocol.splits)
    return found


class _Precomputed(nn.Identity):
    """A feature extractor whose inputs are features; torchmetrics needs num_features of one."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions


def torchmetrics_frechet(pool: Tensor, mean: Tensor, covariance: Tensor, count: int) -> float:
    """Of float64 features (N, d) to a reference of `count` images, by its moments.

    torchmetrics' own Inception is not used: it resizes differently from the official one. Its sums
    over processes are switched off: each process has all features already.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(
        feature=_Precomputed(len(mean)), reset_real_features=False, sync_on_compute=False
    )
    metric.real_features_sum = mean * count
    metric.real_features_cov_sum = covariance * (count - 1) + count * torch.outer(mean, mean)
    metric.real_features_num_samples = torch.tensor(count)
    metric.update(pool, real=False)
    return float(metric.compute())


def torchmetrics_score(logits: Tensor, splits: int) -> float:
    """Mean over `splits` parts in order; torchmetrics shuffles, so it gets one part at a time."""
    from torchmetrics.image.inception import InceptionScore

    scores = []
    with rng.untouched(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about buffering, which is wanted, and the sd of one split
        torch.manual_seed(0)  # its shuffle changes the last bits
        for part in distances.in_splits(logits, splits):
            metric = InceptionScore(
                feature=_Precomputed(logits.shape[1]), splits=1, sync_on_compute=False
            )
            metric.update(part)
            scores.append(float(metric.compute()[0]))
    return sum(scores) / splits


def torch_fidelity(run: Run, roles: Collection[str]) -> dict[str, float]:
    """torch-fidelity's own loop and arithmetic; a Disagreement if ours gives other numbers.

    Its kernel distance compares sets of one size, so it checks ours against as many real images as
    there are samples; the score itself is of all kept images. It has no density and no coverage.
    With fewer samples than features its Fréchet distance is off by rounding, and ours counts.
    """
    from msngan.scores.torch_fidelity_check import scores

    if run.real is None or len(run.images) != run.protocol.samples:
        raise UserError("--via torch-fidelity needs all images in one process; use --via own")
    theirs = scores(
        run.extractor,
        run.images,
        run.real,
        run.reference.cache.stem,
        splits=run.protocol.splits,
        neighbours=run.protocol.precision_neighbours,
        roles=roles,
    )
    found = run.measure(roles)
    ours = dict(found)
    if "kernel" in roles:
        kept = min(len(run.images), len(run.reference.features))
        ours["kernel"] = distances.kernel_distance(
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
    """Whether two numbers differ by at most 1e-6 (relative above 1) and `noise`."""
    return abs(one - other) <= TOLERANCE * max(1.0, abs(other)) + noise


def _rounding(run: Run) -> float:
    """The rounding error of a Fréchet distance computed from eigenvalues of a product.

    With fewer samples than features many eigenvalues are zero up to rounding, about 1e-16 of the
    largest, and their square roots are summed: 2e-4 was seen with 500 samples of 2048 features.
    Our own arithmetic does not compute them.
    """
    dimensions = run.features.pool.shape[1]
    if len(run.features) > dimensions:
        return 0.0
    largest = max(run.reference.eigenvalues.tolist(), default=0.0)
    return dimensions * math.sqrt(2**-52) * largest


Backend = Callable[[Run, Collection[str]], dict[str, float]]  # (run, roles) -> role: number
BACKENDS: dict[str, Backend] = {
    "own": Run.measure,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
}
