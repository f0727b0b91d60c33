"""`bench scores`: the arithmetic of scores against other libraries', and its share of a whole.

Each library gets the moments of the reference as it would read them from its cache, and the
features of the generated images, whose moments it computes itself. The features are simulated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msngan.bench.references import built
from msngan.bench.settings import SIZE, ScoreSettings, record
from msngan.bench.timing import Progress, clock_of, interleaved, ratio
from msngan.networks import Generator, draw_samples
from msngan.scores import distances, evaluation
from msngan.scores.embedded import EmbeddedExtractor, shipped
from msngan.scores.evaluation import evaluate_sampler
from msngan.scores.protocol import Protocol
from msngan.scores.reference import Reference

OURS, TORCHMETRICS, FIDELITY, SCIPY = "msngan", "torchmetrics", "torch-fidelity", "scipy sqrtm"
DESCRIPTIONS = {
    TORCHMETRICS: "FrechetInceptionDistance with the reference's moments set, update and compute",
    FIDELITY: "fid_features_to_statistics and fid_statistics_to_metric; kid_features_to_metric",
    SCIPY: "numpy's mean and cov, then scipy.linalg.sqrtm of the covariances' product",
}
NETWORKS = "generator and extractor"
LATENT_DIM = 128
REFERENCE_COUNT = 50_000  # images that the moments of the reference are said to be of
SHRUNK, SHIFT = 0.9, 0.1  # fakes vary a little less than real images, and around another mean

Computation = Callable[[], float]


class Simulated:
    """Gaussian features (N, dimensions), float64, from fixed seeds.

    Real features have mean zero and variances 1/k, so their exact moments are known. root, of shape
    (d, d): root @ root.T is their covariance.
    """

    def __init__(self, dimensions: int) -> None:
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self.covariance = torch.diag(1 / torch.arange(1, dimensions + 1).double())
        self.root = self.covariance.sqrt()

    def real(self, count: int) -> Tensor:
        return self._normal(count, 1) @ self.root

    def fake(self, count: int) -> Tensor:
        return SHRUNK * self._normal(count, 2) @ self.root + SHIFT * self.root[0]

    def _normal(self, count: int, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(count, len(self.mean), generator=draw, dtype=torch.float64)


class Evaluation:
    """A whole evaluation with a warm cache: a new generator against random images.

    Where the time goes does not depend on the images. seconds() evaluates once and appends to
    `spent` a dict of seconds by what they were spent on.
    """

    def __init__(self, settings: ScoreSettings, cache: Path) -> None:
        self.spent: list[dict[str, float]] = []
        width, kept = settings.width, settings.kept
        self.generator = built(lambda _: Generator(LATENT_DIM, width, 3, SIZE), "none")
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.extractor = EmbeddedExtractor.load(shipped()["cifar10"])
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (kept, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
        self.reference = Reference.of(images, self.extractor, cache)
        self.protocol = Protocol(
            name="bench",
            runs=settings.runs,
            samples=settings.samples,
            splits=1,
            dataset="random",
            split="train",
            reference_images=kept,
            reference_sha256=self.reference.sha256,
            size=SIZE,
            channels=3,
            extractor=self.extractor.name,
            official_inception=self.extractor.official_inception,
            resize=self.extractor.resize,
        )

    def seconds(self) -> float:
        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            return draw_samples(self.generator, count, seed)

        result = evaluate_sampler(sampler, self.protocol, self.extractor, self.reference)
        self.spent.append(dict(result.seconds))
        return sum(result.seconds.values())


def run(settings: ScoreSettings, progress: Progress) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    from threadpoolctl import threadpool_limits

    clock = clock_of("cpu", settings.threads)
    computations = _computations(settings)
    values: dict[str, float] = {}

    def timed(name: str) -> float:
        return clock.seconds(lambda: values.update({name: computations[name]()}))

    measures: dict[str, Computation] = {name: partial(timed, name) for name in computations}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(settings.threads):
        evaluation = Evaluation(settings, Path(folder)) if "evaluation" in settings.only else None
        if evaluation:
            measures["evaluation"] = evaluation.seconds
        seconds = interleaved(measures, settings.rounds, progress)
    rows = [_row(name, values[name], seconds) for name in computations]
    if evaluation:
        rows += _shares(evaluation.spent[-settings.rounds :])
    extractor = evaluation.extractor.name if evaluation else None
    about = {"references": DESCRIPTIONS, "extractor": extractor}
    return record("scores", settings, clock.name, OURS, rows, **about)


def _computations(settings: ScoreSettings) -> dict[str, Computation]:
    """By part and library: 'frechet: msngan'."""
    simulated = Simulated(settings.dimensions)
    found: dict[str, Computation] = {}
    for part, count in (("frechet", settings.samples), ("low-rank", settings.few)):
        if part in settings.only:
            made = _frechet(simulated, count)
            if part == "low-rank":
                del made[SCIPY]  # the slowest of all
            found |= {f"{part}: {library}": each for library, each in made.items()}
    if "kernel" in settings.only:
        made = _kernel(simulated, settings)
        found |= {f"kernel: {library}": each for library, each in made.items()}
    return found


def _frechet(simulated: Simulated, count: int) -> dict[str, Computation]:
    import scipy.linalg
    from torch_fidelity import metric_fid

    fake, mean, covariance = simulated.fake(count), simulated.mean, simulated.covariance
    known = {"mu": mean.numpy(), "sigma": covariance.numpy()}

    def by_fidelity() -> float:
        own = metric_fid.fid_features_to_statistics(fake)
        return metric_fid.fid_statistics_to_metric(own, known, False)[metric_fid.KEY_METRIC_FID]

    def by_scipy() -> float:
        own = np.cov(fake.numpy(), rowvar=False)
        mixed = scipy.linalg.sqrtm(own @ known["sigma"])
        gap = np.square(fake.numpy().mean(0) - known["mu"]).sum()
        return float(gap + np.trace(own) + np.trace(known["sigma"]) - 2 * np.trace(mixed).real)

    return {
        OURS: lambda: distances.frechet_to_root(fake, mean, simulated.root),
        TORCHMETRICS: lambda: evaluation.torchmetrics_frechet(
            fake, mean, covariance, REFERENCE_COUNT
        ),
        FIDELITY: by_fidelity,
        SCIPY: by_scipy,
    }


def _kernel(simulated: Simulated, settings: ScoreSettings) -> dict[str, Computation]:
    from torch_fidelity import metric_kid

    fake, real = simulated.fake(settings.samples), simulated.real(settings.kept)
    within = distances.kernel_within(real)  # kept with the reference

    def by_fidelity() -> float:
        options = {"kid_subsets": settings.subsets, "kid_subset_size": settings.subset_size}
        found = metric_kid.kid_features_to_metric(fake, real, verbose=False, rng_seed=0, **options)
        return found[metric_kid.KEY_METRIC_KID_MEAN]

    def ours() -> float:
        return distances.kernel_within(fake) + within - 2 * distances.kernel_between(fake, real)

    return {OURS: ours, FIDELITY: by_fidelity}


def _row(name: str, value: float, seconds: dict[str, list[float]]) -> dict[str, Any]:
    part, _, library = name.partition(": ")
    return {
        "name": name,
        "part": part,
        "by": library,
        "kind": "own" if library == OURS else "reference",
        "value": value,
        "ratio": ratio(seconds[name], seconds[f"{part}: {OURS}"]),
        "seconds": seconds[name],
    }


def _shares(spent: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Shares of an evaluation's time, by what it was spent on."""
    totals = [sum(each.values()) for each in spent]
    parts = {NETWORKS: [each["generator"] + each["extractor"] for each in spent]}
    parts |= {name: [each[name] for each in spent] for name in spent[0]}
    return [
        {
            "name": f"evaluation: {name}",
            "part": "evaluation",
            "by": name,
            "kind": "own",
            "share": ratio(seconds, totals),
            "seconds": seconds,
        }
        for name, seconds in parts.items()
    ]
