"""How an extractor's numbers answer to disturbances of real images: the evidence on its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msngan.data import images as convert
from msngan.scores.disturbances import DISTURBANCES, disturb
from msngan.scores.floors import Score, summary
from msngan.scores.interface import Extractor, Features
from msngan.scores.measuring import ROLES, measure
from msngan.scores.reference import Reference, in_random_order

if TYPE_CHECKING:
    from torch import Tensor

    from msngan.scores.protocol import Protocol

IMAGES = 2000  # that are disturbed, at the most


@dataclass(frozen=True)
class Row:
    """level: None for the undisturbed images. numbers: by role, as in a score line."""

    level: float | None
    numbers: dict[str, Score]

    @property
    def shown(self) -> float:
        """The Fréchet distance to the digits that a card shows: no claim rests on more."""
        return float(f"{self.numbers['frechet']['mean']:.4g}")


@dataclass(frozen=True)
class Response:
    """One disturbance's rows: undisturbed, then mild to strong."""

    name: str
    rows: list[Row]

    @property
    def falls(self) -> list[tuple[Row, Row]]:
        """Neighbouring rows of which the second has no larger Fréchet distance."""
        pairs = zip(self.rows[:-1], self.rows[1:], strict=True)
        return [(mild, strong) for mild, strong in pairs if strong.shown <= mild.shown]


def responses(
    extractor: Extractor,
    reference: Reference,
    protocol: Protocol,
    images: Tensor,
    labels: Tensor,
    report: Callable[[str], None] = lambda name: None,
) -> list[Response]:
    """One Response for each of DISTURBANCES that makes sense for these images.

    images, labels: uint8 (N, C, H, W) and int64 (N,), N at least 2; IMAGES of them are used, in
    the order that floors take them. report is told of each disturbance before it is measured.
    """
    part = in_random_order(len(images))[:IMAGES]
    images, labels = images[part], labels[part]
    whole = extractor.features(images)
    place = {image.numpy().tobytes(): index for index, image in enumerate(images)}

    def features(disturbed: Tensor) -> Features:
        """As of the extractor; images that are among the undisturbed are not embedded again."""
        places = [place.get(image.numpy().tobytes()) for image in disturbed]
        if None in places:
            return extractor.features(disturbed)
        return Features(whole.pool[places], whole.logits[places])

    def row(name: str, level: float) -> Row:
        found: dict[str, list[float]] = {}
        for draw in range(DISTURBANCES[name].draws):
            own = features(disturb(name, images, labels, level, draw))
            for role, value in measure(own, reference, protocol, ROLES).items():
                found.setdefault(role, []).append(value)
        return Row(level, {role: summary(values) for role, values in found.items()})

    numbers = measure(whole, reference, protocol, ROLES)
    undisturbed = Row(None, {role: summary([value]) for role, value in numbers.items()})
    result = []
    for name, each in DISTURBANCES.items():
        report(name)
        rows = [row(name, level) for level in each.levels(len(images), len(labels.unique()))]
        if rows:
            result.append(Response(name, [undisturbed, *rows]))
    return result


def enlarged_blur(extractor: Extractor, reference: Reference, images: Tensor) -> float | None:
    """Fréchet distance under a blur of one pixel of the network's, None where images have as many.

    Images that are enlarged hold nothing as fine as that, and a distance may not notice it.
    """
    if images.shape[-1] >= extractor.size:
        return None
    images = images[in_random_order(len(images))[:IMAGES]]
    enlarged = convert.resize(images, extractor.size)
    return reference.frechet(extractor.features(disturb("blur", enlarged, None, 1)).pool)
