"""Score a sampler: sample once, embed once, and compute every score from the same features.

BACKENDS names whose arithmetic computes the scores from the features: ours, torchmetrics' (training
uses it), or torch-fidelity's, which checks ours. All agree to rounding.
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

import msngan.scores.distances as distances
from msngan.runs import distributed, rng
from msngan.runs.folder import Diverged, Failure
from msngan.scores.by_class import ByClass
from msngan.scores.extractors import Extractor, Features
from msngan.scores.protocol import BY_CLASS, USUAL, Protocol
from msngan.scores.reference import Progress, Reference, Score, real_data_scores, summary

Sampler = Callable[[int, int], Iterator[Tensor]]  # (count, seed) -> batches of uint8 (n, C, H, W)
Labels = Callable[[int, int], Tensor | None]  # (count, seed) -> int64 (count,)
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


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the time of the block to that of the phase."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - start


def evaluate_sampler(
    sampler: Sampler,
    protocol: Protocol,
    extractor: Extractor,
    reference: Reference,
    *,
    metrics: Collection[str] = USUAL,
    backend: str = "own",
    held_out: Tensor | None = None,
    by_class: ByClass | None = None,
    labels: Labels = lambda count, seed: None,
    progress: Progress | None = None,
) -> Result:
    """The scores of `sampler` under `protocol`, of the given names in METRICS.

    Run k asks the sampler for protocol.samples images with seed protocol.seed_of(k); with several
    processes, each asks for those that distributed.share() gives it, and all get the same result.
    backend: of BACKENDS. held_out: other real images, for the real-data scores. progress is called
    with the number of images done and in all. by_class, labels: of a conditional generator, and the
    labels of all images that the sampler draws for the same count and seed. NaN in images or
    features makes every score None with a reason.
    """
    of_class = () if by_class is None else by_class.roles
    roles = [role for role in extractor.roles(metrics) if role not in BY_CLASS or role in of_class]
    compute, many = BACKENDS[backend], protocol.samples
    seconds = dict.fromkeys(PHASES, 0.0)
    values: dict[str, list[float]] = {role: [] for role in roles}
    reasons = dict.fromkeys(roles, f"{many} samples are too few for the nearest neighbours")
    reasons["intra"] = f"a class has fewer than 2 of the {many} samples of a run; take more"
    with _timed(seconds, "real data"):  # first: it takes as long as a score if it is not cached
        real_data = real_data_scores(reference, extractor, protocol, held_out, roles)
        if by_class is not None:
            of_real = by_class.real_data(many, roles)
            real_data |= {extractor.keys[role]: each for role, each in of_real.items()}
    try:
        for index in range(protocol.runs):
            features = _sampled(sampler, protocol, index, extractor, seconds, progress)
            with _timed(seconds, "scores"):
                own = labels(many, protocol.seed_of(index))
                run = Run(features, extractor, reference, protocol, by_class, own)
                for role, value in compute(run, roles).items():
                    if not math.isfinite(value):
                        raise Diverged(f"{extractor.keys[role]} of run {index} is {value}")
                    values[role].append(value)
    except Diverged as failure:
        values, reasons = dict.fromkeys(roles, []), dict.fromkeys(roles, str(failure))
    scores = {
        extractor.keys[role]: summary(each)
        if len(each) == protocol.runs
        else {"mean": None, "reason": reasons[role]}
        for role, each in values.items()
    }
    return Result(scores, real_data, seconds)


def _sampled(
    sampler: Sampler,
    protocol: Protocol,
    run: int,
    extractor: Extractor,
    seconds: dict[str, float],
    progress: Progress | None,
) -> Features:
    """The features of one run's images, of all processes."""
    share = distributed.share(protocol.samples)
    parts: list[Features] = []
    done, reason = 0, f"features of run {run} hold NaN or Inf"
    try:
        for images in _batches(sampler, protocol, run, seconds):
            with _timed(seconds, "extractor"):
                parts.append(extractor.features(images))
            done += len(images)
            if progress:
                progress(run * len(share) + done, protocol.runs * len(share))
    except Diverged as problem:  # NaN on conversion to uint8: a failed score, not a crash
        reason = f"images of run {run}: {problem}"
        # All processes meet in gather(), and learn there of this one's failure.
        nan = torch.full((len(share), 1), math.nan, dtype=torch.float64)
        parts = [Features(nan.repeat(1, extractor.dimensions), nan.repeat(1, extractor.classes))]
    features = Features(
        distributed.gather(torch.cat([part.pool for part in parts]), share, protocol.samples),
        distributed.gather(torch.cat([part.logits for part in parts]), share, protocol.samples),
    )
    if not features.finite:
        raise Diverged(reason)
    return features


def _batches(
    sampler: Sampler, protocol: Protocol, run: int, seconds: dict[str, float]
) -> Iterator[Tensor]:
    """One run's batches; ValueError if they do not have the protocol's shape."""
    batches = iter(sampler(protocol.samples, protocol.seed_of(run)))
    shape = (protocol.channels, protocol.size, protocol.size)
    while True:
        with _timed(seconds, "generator"):
            images = next(batches, None)
        if images is None:
            return
        if images.shape[1:] != shape:
            raise ValueError(f"sampled images are {tuple(images.shape[1:])}, not {shape}")
        yield images


# Whose arithmetic


class Disagreement(Failure):
    """Two libraries give two numbers for the same features, so neither can be trusted."""


@dataclass(frozen=True)
class Run:
    """One run, by the features of all its images, and their labels if it is by class."""

    features: Features
    extractor: Extractor
    reference: Reference
    protocol: Protocol
    by_class: ByClass | None = None
    labels: Tensor | None = None

    def measure(self, roles: Collection[str]) -> dict[str, float]:
        """The number of each role that can be computed."""
        of_all = [role for role in roles if role not in BY_CLASS]
        found = self.reference.measure(self.features, self.protocol, of_all)
        if self.by_class is not None and self.labels is not None:
            found |= self.by_class.measure(self.features, self.labels, roles)
        return found


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
    """Our numbers; a Disagreement if torch-fidelity's are others.

    Its kernel distance compares sets of one size, so it checks ours against as many real images as
    there are samples; the score itself is of all kept images. It has no density and no coverage.
    With fewer samples than features its Fréchet distance is off by rounding.
    """
    found = run.measure(roles)
    ours = found | {"kernel": distances.kernel_distance(*_equally_many(run))}
    theirs = torch_fidelity_scores(run, roles)
    dimensions = run.features.pool.shape[1]
    for role in found.keys() & theirs.keys():
        noise = 0.0
        if role == "frechet" and len(run.features) <= dimensions:
            # It sums the square roots of eigenvalues, many of which are zero up to rounding, about
            # 1e-16 of the largest: 2e-4 was seen with 500 samples of 2048 features.
            noise = (
                dimensions * math.sqrt(2**-52) * max(run.reference.eigenvalues.tolist(), default=0)
            )
        if abs(ours[role] - theirs[role]) > TOLERANCE * max(1.0, abs(theirs[role])) + noise:
            key = run.extractor.keys[role]
            raise Disagreement(f"{key} is {ours[role]!r}, but {theirs[role]!r} by torch-fidelity")
    return found


def torch_fidelity_scores(run: Run, roles: Collection[str]) -> dict[str, float]:
    """What torch-fidelity computes from the same float64 features; Obukhov et al. 2020."""
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    real, pool = run.reference, run.features.pool
    pair = _equally_many(run)
    found = {}
    if "frechet" in roles:
        known = {"mu": real.mean.numpy(), "sigma": real.covariance.numpy()}
        own = metric_fid.fid_features_to_statistics(pool)
        distance = metric_fid.fid_statistics_to_metric(own, known, False)
        found["frechet"] = distance[metric_fid.KEY_METRIC_FID]
    if "score" in roles:
        score = metric_isc.isc_features_to_metric(run.features.logits, run.protocol.splits, False)
        found["score"] = score[metric_isc.KEY_METRIC_ISC_MEAN]
    if "kernel" in roles:
        sizes = {"kid_subsets": 1, "kid_subset_size": len(pair[0])}
        distance = metric_kid.kid_features_to_metric(*pair, **sizes, verbose=False)
        found["kernel"] = distance[metric_kid.KEY_METRIC_KID_MEAN]
    if "precision" in roles and len(pair[0]) > run.protocol.precision_neighbours:
        near = {"prc_neighborhood": run.protocol.precision_neighbours, "prc_batch_size": 1000}
        found |= metric_prc.prc_features_to_metric(*pair, **near, save_cpu_ram=True, verbose=False)
    return found


def _equally_many(run: Run) -> tuple[Tensor, Tensor]:
    """Features of as many samples as kept real images."""
    count = min(len(run.features), len(run.reference.features))
    return run.features.pool[:count], run.reference.features[:count].double()


Backend = Callable[[Run, Collection[str]], dict[str, float]]  # (run, roles) -> role: number
BACKENDS: dict[str, Backend] = {
    "own": Run.measure,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
}
