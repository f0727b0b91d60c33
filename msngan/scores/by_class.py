"""Scores of a conditional generator that know which class each of its images should be of.

agreement: the share of images that the extractor classifies as their label says. It means something
only if the extractor was trained on these classes. intra: the mean over classes of the Fréchet
distance of a class's images to its real ones (Miyato & Koyama 2018, arXiv:1802.05637).
A class has only its share of a run's samples, so the distance's bias is that of so many times
fewer: read it beside what real images score, and raise the number of samples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import msngan.scores.distances as distances
from msngan.runs.folder import counted
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.extractors import Extractor, Features
from msngan.scores.protocol import BY_CLASS
from msngan.scores.reference import Progress, Reference, Score, in_random_order, summary

LEAST = 0.5  # of real images that an extractor must recognise, or its agreement means nothing


@dataclass(frozen=True, eq=False)
class ByClass:
    """real_agreement: of the reference's images; None where there is no agreement.

    references: those of each class, without features; empty where there is no distance within them.
    """

    real_agreement: float | None
    references: tuple[Reference, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        there = {"agreement": self.real_agreement is not None, "intra": bool(self.references)}
        return tuple(role for role in BY_CLASS if there[role])

    def measure(
        self, features: Features, labels: Tensor, roles: Collection[str]
    ) -> dict[str, float]:
        """The number of each role for one run's features and labels, int64 (N,).

        No distance where a class has fewer than two images.
        """
        found = {}
        if "agreement" in roles:
            found["agreement"] = agreement(features.logits, labels)
        if "intra" in roles and self.fewest(labels) > 1:
            each = [
                real.frechet(features.pool[labels == label])
                for label, real in enumerate(self.references)
            ]
            found["intra"] = sum(each) / len(each)
        return found

    def fewest(self, labels: Tensor) -> int:
        """The number of images of the class that has the fewest."""
        return int(torch.bincount(labels, minlength=len(self.references)).min())

    def real_data(self, samples: int, roles: Collection[str]) -> dict[str, Score]:
        """What real images score: their own agreement, and the bias of so few samples a class."""
        found: dict[str, Score] = {}
        if "agreement" in roles and self.real_agreement is not None:
            found["agreement"] = {**summary([self.real_agreement]), "kind": "real data"}
        if "intra" in roles:
            total = sum(each.count for each in self.references)
            biases = [
                distances.frechet_bias(each.eigenvalues, samples * each.count / total, each.count)
                for each in self.references
            ]
            found["intra"] = {**summary([sum(biases) / len(biases)]), "kind": "estimated"}
        return found


def agreement(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of logits (N, K) whose largest is that of its label, int64 (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def by_class(
    images: Tensor,
    labels: Tensor | None,
    dataset: str,
    classes: int,
    extractor: Extractor,
    reference: Reference,
    roles: Collection[str],
    progress: Progress | None = None,
) -> tuple[ByClass, list[str]]:
    """The scores by class that are possible, and for each of `roles` that is not, the reason.

    images, labels: the real ones, uint8 (N, C, H, W) and int64 (N,) from 0 to classes - 1, or None
    if they have no such labels; reference: of all of them. classes: of the generator, 0 for one
    that is not conditional.
    """
    left_out: list[str] = []
    if labels is None:
        why = (
            "the real images do not have labels of its classes"
            if classes
            else "the generator is not conditional"
        )
        return ByClass(None), [f"{role} is left out: {why}" for role in roles]
    real: float | None = None
    references: tuple[Reference, ...] = ()
    if "agreement" in roles:
        real, why = _agreement(labels, dataset, classes, extractor, reference)
        left_out += [f"agreement is left out: {why}"] if why else []
    if "intra" in roles:
        counts = torch.bincount(labels, minlength=classes)
        if int(counts.min()) > 1:
            references = tuple(
                _moments(Reference.of(images[labels == label], extractor, progress=progress))
                for label in range(classes)
            )
        else:
            few = int(counts.argmin())
            left_out.append(
                f"intra is left out: class {few} has {counted(int(counts[few]), 'real image')}"
            )
    return ByClass(real, references), left_out


def _agreement(
    labels: Tensor, dataset: str, classes: int, extractor: Extractor, reference: Reference
) -> tuple[float | None, str]:
    """The agreement of the reference's kept images, or None and why it means nothing."""
    name = extractor.name
    if not isinstance(extractor, EmbeddedExtractor):
        return None, f"{name} does not know these classes"
    learnt = extractor.metadata["dataset"]
    if (learnt, extractor.classes) != (dataset, classes):
        return None, (
            f"{name} was trained on {counted(extractor.classes, 'class', 'classes')} of {learnt},"
            f" not on {classes} of"
            f" {dataset}"
        )
    kept = labels[in_random_order(len(labels))[: len(reference.logits)]]
    found = agreement(reference.logits, kept)
    if found < LEAST:  # of another folder, for one
        return None, f"{name} recognises the classes of only {found:.0%} of the real images"
    return found, ""


def _moments(reference: Reference) -> Reference:
    return replace(
        reference, features=reference.features[:0].clone(), logits=reference.logits[:0].clone()
    )
