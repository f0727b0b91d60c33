"""Do two extractors agree? Their distances of degraded real images and of generators, by rank.

The numbers of two extractors are on different scales, so their order is compared: Spearman's rank
correlation. Strengths of one kind of degradation, and steps of one run, are not independent, so its
interval is a bootstrap over kinds and over runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from msngan.data.images import Images
from msngan.networks.sampling import classes_of
from msngan.runs.folder import Failure, UserError
from msngan.scores.degradations import degraded
from msngan.scores.scorer import Real, Scorer, choose

RESAMPLES = 2000
Row = dict[str, Any]  # of the record
DISTANCES = {"fd": "frechet", "kd": "kernel"}


@dataclass(frozen=True)
class Subject:
    """A generator, and what it is called: several steps of one run are one group."""

    run: str
    step: int
    weights: str
    generator: nn.Module

    @property
    def classes(self) -> int:
        return classes_of(self.generator)


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1 for the smallest; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, in [-1, 1]; NaN where all values of one side are equal."""
    x, y = (each - each.mean() for each in (ranks(a), ranks(b)))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else float("nan")


def correlation(
    a: Sequence[float], b: Sequence[float], groups: Sequence[str]
) -> dict[str, float | int | None]:
    """Spearman's correlation with a 95 % interval, by bootstrap over groups of items.

    `items` and `groups` are how many there are. None where there is none: the correlation of fewer
    than 3 items or of equal values, the interval of fewer than 3 groups.
    """
    names = list(dict.fromkeys(groups))
    members = [[i for i, group in enumerate(groups) if group == name] for name in names]
    found: dict[str, float | int | None] = {"items": len(a), "groups": len(names)}
    value = spearman(a, b) if len(a) > 2 else float("nan")
    found |= {"spearman": None if np.isnan(value) else value, "low": None, "high": None}
    if len(names) < 3 or np.isnan(value):
        return found
    one, other, resampled = np.asarray(a), np.asarray(b), []
    for drawn in np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names))):
        chosen = [i for group in drawn for i in members[group]]
        resampled.append(spearman(one[chosen], other[chosen]))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return found | {"low": float(low), "high": float(high)}


def compare(
    real: Real,
    held_out: Images,
    extractors: Sequence[str],
    subjects: Sequence[Subject],
    *,
    samples: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] = lambda done: None,
) -> dict[str, Any]:
    """Both distances of two extractors to `real`, of `samples` images each, and how they agree.

    extractors: two of what `choose` takes. held_out: real images to degrade, which are not in
    `real`. subjects: generators of images of that shape. progress: called with what is scored next.
    UserError for an extractor that is not available, and for one that is given twice.
    """
    channels = real.images.shape[1]
    names = [choose(each, real.dataset, channels, device)[0].name for each in extractors]
    if len({*names}) < len(names):
        raise UserError(f"{' and '.join(extractors)} are the same extractor, {names[0]}; give two")

    def scorer(extractor: str, classes: int = 0) -> Scorer:
        return Scorer(
            real,
            extractor=extractor,
            device=device,
            runs=1,
            samples=samples,
            seed=seed,
            metrics=("fid", "kid"),
            classes=classes,
        )

    both = [scorer(each) for each in extractors]
    disturbed: list[Row] = []
    for each in degraded(held_out, samples, seed):
        progress(f"{each.kind} {each.strength:g}")
        pools = [one.extractor.features(each.images).pool for one in both]
        found = [
            {"fd": one.reference.frechet(pool), "kd": one.reference.kernel(pool)}
            for one, pool in zip(both, pools, strict=True)
        ]
        disturbed.append({"kind": each.kind, "strength": each.strength} | _by_distance(found))
    generated: list[Row] = []
    for subject in subjects:
        progress(f"{subject.run}, step {subject.step}")
        found = [_of_generator(scorer(each, subject.classes), subject) for each in extractors]
        about = {"run": subject.run, "step": subject.step, "weights": subject.weights}
        generated.append(about | _by_distance(found))
    undisturbed, rows = disturbed[0], disturbed[1:]
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {
        "dataset": real.dataset,
        "split": real.split,
        "reference_images": both[0].reference.count,
        "reference_sha256": both[0].reference.sha256,
        "size": real.images.shape[2],
        "channels": channels,
        "samples": samples,
        "seed": seed,
        "extractors": names,
        "undisturbed": {name: undisturbed[name] for name in DISTANCES},
        "degradations": _with_ranks(rows),
        "kinds": [_in_order(undisturbed, rows, kind) for kind in kinds],
        "generators": _with_ranks(generated),
        "correlations": {
            "degradations": _correlations(rows, "kind"),
            "generators": _correlations(generated, "run"),
        },
    }


def _of_generator(scorer: Scorer, subject: Subject) -> dict[str, float]:
    keys = scorer.extractor.keys
    found = scorer.score(subject.generator.to(scorer.extractor.device)).scores
    scores = {name: found[keys[role]] for name, role in DISTANCES.items()}
    for score in scores.values():
        if score["mean"] is None:
            raise Failure(f"{subject.run}, step {subject.step}: {score['reason']}")
    return {name: score["mean"] for name, score in scores.items()}


def _by_distance(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [each[name] for each in found] for name in DISTANCES}


def _columns(rows: Sequence[Row], name: str) -> list[list[float]]:
    """The values of each of the two extractors."""
    return [[row[name][side] for row in rows] for side in (0, 1)]


def _with_ranks(rows: Sequence[Row]) -> list[Row]:
    found = list(rows)
    for name in DISTANCES:
        pairs = zip(*(ranks(column).tolist() for column in _columns(rows, name)), strict=True)
        found = [
            row | {f"{name}_ranks": list(pair)} for row, pair in zip(found, pairs, strict=True)
        ]
    return found


def _in_order(undisturbed: Row, rows: Sequence[Row], kind: str) -> Row:
    """Of one kind, from undisturbed to the last strength: how many steps raise each distance."""
    own = [undisturbed, *(row for row in rows if row["kind"] == kind)]
    rises = {
        name: [sum(b > a for a, b in pairwise(column)) for column in _columns(own, name)]
        for name in DISTANCES
    }
    return {"kind": kind, "strengths": [row["strength"] for row in own[1:]], **rises}


def _correlations(rows: Sequence[Row], group: str) -> Row:
    groups = [row[group] for row in rows]
    found = {name: _columns(rows, name) for name in DISTANCES}
    return {name: correlation(a, b, groups) for name, (a, b) in found.items()}
