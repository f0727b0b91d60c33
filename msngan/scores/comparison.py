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

import torch
from torch import nn

from msngan.data.images import Images
from msngan.leaderboard.rank_correlation import correlation, ranks
from msngan.networks.sampling import classes_of
from msngan.runs.folder import Failure, UserError, counted
from msngan.scores.degradations import degraded
from msngan.scores.scorer import Real, Scorer, choose

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
    `real`. subjects: generators of images of that shape. progress: called with what is next.
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

    both = []
    for asked, name in zip(extractors, names, strict=True):
        progress(f"{name}: features of {counted(len(real.images), 'real image')}")
        both.append(scorer(asked))
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
