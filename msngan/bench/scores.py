"""`bench scores`: the arithmetic of scores against other libraries', and its share of a whole.

Each library is given the moments of the reference as it would have them from its cache, and the
features of the fakes, of which it takes the moments itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from msngan.bench.features import Simulated
from msngan.bench.ratios import ratio
from msngan.bench.rounds import Watcher, clock_of, interleaved
from msngan.bench.score_settings import ScoreSettings
from msngan.bench.settings import record
from msngan.bench.whole import Evaluation
from msngan.scores import by_torchmetrics, core

OURS, TORCHMETRICS, FIDELITY, SCIPY = "msngan", "torchmetrics", "torch-fidelity", "scipy sqrtm"
GOALS = {  # how many times longer another's may take, at the least
    ("frechet", TORCHMETRICS): 2.5,
    ("frechet", SCIPY): 5.0,
    ("low-rank", TORCHMETRICS): 20.0,
}
NETWORKS = "generator and extractor"
SHARE_GOAL = 0.9  # of an evaluation's time, for both
REFERENCE_COUNT = 50_000  # what the moments of the reference are said to be of
DESCRIPTIONS = {
    TORCHMETRICS: "FrechetInceptionDistance with the reference's moments set, update and compute",
    FIDELITY: "fid_features_to_statistics and fid_statistics_to_metric; kid_features_to_metric",
    SCIPY: "numpy's mean and cov, then scipy.linalg.sqrtm of the covariances' product",
}

Computation = Callable[[], float]


def run(settings: ScoreSettings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    from threadpoolctl import threadpool_limits

    clock = clock_of(settings.device, settings.threads)
    computations = _computations(settings)
    values: dict[str, float] = {}
    measures: dict[str, Computation] = {
        name: partial(clock.seconds, partial(_note, values, name, each))
        for name, each in computations.items()
    }
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(settings.threads):
        whole = Evaluation.of(settings, Path(folder)) if "evaluation" in settings.only else None
        if whole:
            measures["evaluation"] = whole.seconds
        seconds = interleaved(measures, settings.rounds, watcher)
    rows = [_row(name, values[name], seconds) for name in computations]
    if whole:
        rows += _shares(whole.spent[-settings.rounds :])
    return record(
        "scores",
        settings,
        clock.name,
        OURS,
        rows,
        references=DESCRIPTIONS,
        extractor=whole.extractor.name if whole else None,
    )


def _note(values: dict[str, float], name: str, compute: Computation) -> None:
    values[name] = compute()


def _computations(settings: ScoreSettings) -> dict[str, Computation]:
    """By part and whose."""
    simulated = Simulated(settings.dimensions)
    found: dict[str, Computation] = {}
    for part, count in (("frechet", settings.samples), ("low-rank", settings.few)):
        if part in settings.only:
            made = _frechet(simulated, count)
            if part == "low-rank":
                del made[SCIPY]  # asked nothing of, and the longest of all
            found |= {f"{part}: {whose}": each for whose, each in made.items()}
    if "kernel" in settings.only:
        made = _kernel(simulated, settings)
        found |= {f"kernel: {whose}": each for whose, each in made.items()}
    return found


def _frechet(simulated: Simulated, count: int) -> dict[str, Computation]:
    import numpy as np
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
        OURS: lambda: core.frechet_to_root(fake, mean, simulated.root),
        TORCHMETRICS: lambda: by_torchmetrics.frechet(fake, mean, covariance, REFERENCE_COUNT),
        FIDELITY: by_fidelity,
        SCIPY: by_scipy,
    }


def _kernel(simulated: Simulated, settings: ScoreSettings) -> dict[str, Computation]:
    from torch_fidelity import metric_kid

    fake, real = simulated.fake(settings.samples), simulated.real(settings.kept)
    within = core.kernel_within(real)  # of the reference alone: kept with its moments

    def by_fidelity() -> float:
        options = {"kid_subsets": settings.subsets, "kid_subset_size": settings.subset_size}
        found = metric_kid.kid_features_to_metric(fake, real, verbose=False, rng_seed=0, **options)
        return found[metric_kid.KEY_METRIC_KID_MEAN]

    def ours() -> float:
        return core.kernel_within(fake) + within - 2 * core.kernel_between(fake, real)

    return {OURS: ours, FIDELITY: by_fidelity}


def _row(name: str, value: float, seconds: dict[str, list[float]]) -> dict[str, Any]:
    part, _, whose = name.partition(": ")
    return {
        "name": name,
        "part": part,
        "by": whose,
        "kind": "own" if whose == OURS else "reference",
        "value": value,
        "ratio": asdict(ratio(seconds[name], seconds[f"{part}: {OURS}"])),
        "goal": GOALS.get((part, whose)),
        "seconds": seconds[name],
    }


def _shares(spent: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Of an evaluation's seconds, by what they went to, a round each."""
    totals = [sum(each.values()) for each in spent]
    parts = {name: [each[name] for each in spent] for name in spent[0]}
    networks = [each["generator"] + each["extractor"] for each in spent]
    return [
        {
            "name": f"evaluation: {name}",
            "part": "evaluation",
            "by": name,
            "kind": "own",
            "share": asdict(ratio(seconds, totals)),
            "goal": SHARE_GOAL if name == NETWORKS else None,
            "seconds": seconds,
        }
        for name, seconds in {NETWORKS: networks, **parts}.items()
    ]
