"""DISTURBANCES: what a distance between image sets must notice, each at levels that get worse.

Heusel et al. 2017, arXiv:1706.08500, figure 3, disturbed real images in this way to see whether a
distance agrees with the eye. Three spoil every image (blur, noise, JPEG's blocks), two leave each
image as it is and take away variety (classes dropped, few images repeated).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from msngan.data import images as convert
from msngan.runs import rng

Function = Callable[[Tensor, "Tensor | None", float, torch.Generator], Tensor]
FEWEST = 10  # images that a collapsed generator still makes


class Disturbance(NamedTuple):
    """levels: of (number of images, number of classes), mild first, none where none makes sense.

    apply: (images, labels, level, generator) to as many images. images: uint8 (N, C, H, W), C 1 or
    3; labels: whole numbers (N,) or None, of which only `classes` makes use. ValueError for other
    images and for levels that have no meaning. words: what a level is. draws: how many are
    averaged, more than one where it matters which images chance takes.
    """

    levels: Callable[[int, int], tuple[float, ...]]
    apply: Function
    words: str
    draws: int = 1


def disturb(
    name: str, images: Tensor, labels: Tensor | None, level: float, draw: int = 0
) -> Tensor:
    """`images` under one disturbance; the same arguments give the same result.

    A draw has one generator for all levels, so that a larger one is the smaller one made worse.
    """
    if name not in DISTURBANCES:
        raise ValueError(f"unknown disturbance {name!r}; choose one of {', '.join(DISTURBANCES)}")
    generator = rng.generator(0, 1 + draw, 0, "scores")
    return DISTURBANCES[name].apply(images, labels, level, generator)


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise ValueError(f"images to disturb must be uint8, not {images.dtype}")
    if images.ndim != 4 or not images.numel() or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images to disturb must have shape (N, C, H, W), C 1 or 3, not {tuple(images.shape)}"
        )


def _rounded(images: Tensor) -> Tensor:
    return images.round_().clamp_(0, 255).to(torch.uint8)


def _positive(what: str, level: float) -> None:
    if not (math.isfinite(level) and level > 0):
        raise ValueError(f"{what} must be above 0, not {level}")


def _smoothing(size: int, sigma: float) -> Tensor:
    """(size, size): a Gaussian to four sigmas on a line whose end pixels go on for ever."""
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets.double() / sigma) ** 2).exp()
    rows = torch.arange(size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        matrix[rows, (rows + offset).clamp(0, size - 1)] += weight
    return matrix


def blur(images: Tensor, labels: Tensor | None, level: float, generator: torch.Generator) -> Tensor:
    """Each channel under a Gaussian of `level` pixels."""
    _check(images)
    _positive("blur's sigma", level)
    height, width = images.shape[2:]
    return _rounded(_smoothing(height, level) @ images.double() @ _smoothing(width, level).T)


def noise(
    images: Tensor, labels: Tensor | None, level: float, generator: torch.Generator
) -> Tensor:
    """Independent Gaussian noise of `level` grey levels on every value."""
    _check(images)
    _positive("noise's sd", level)
    return _rounded(images + level * torch.randn(images.shape, generator=generator))


def jpeg(images: Tensor, labels: Tensor | None, level: float, generator: torch.Generator) -> Tensor:
    """Each image written as JPEG of quality `level`, 1 to 95, colour at half size, and read."""
    from PIL import Image

    _check(images)
    if not (float(level).is_integer() and 1 <= level <= 95):
        raise ValueError(f"JPEG's quality must be a whole number from 1 to 95, not {level}")
    result = torch.empty_like(images)
    for index, image in enumerate(images):
        file = io.BytesIO()
        convert.to_pil(image).save(file, "JPEG", quality=int(level), subsampling="4:2:0")
        array = np.array(Image.open(file))  # (H, W) or (H, W, 3)
        result[index] = torch.from_numpy(array.reshape(*image.shape[1:], -1)).permute(2, 0, 1)
    return result


def classes(
    images: Tensor, labels: Tensor | None, level: float, generator: torch.Generator
) -> Tensor:
    """Only images of the first `level` classes, in order of label, repeated as often as needed."""
    _check(images)
    if labels is None or labels.shape != images.shape[:1]:
        shape = None if labels is None else tuple(labels.shape)
        raise ValueError(f"dropping classes needs a label for each image, not labels {shape}")
    known = labels.unique()  # sorted
    if not (float(level).is_integer() and 1 <= level <= len(known)):
        raise ValueError(f"of {len(known)} classes 1 to {len(known)} can be kept, not {level}")
    kept = torch.isin(labels, known[: int(level)]).nonzero().flatten()
    shuffled = kept[torch.randperm(len(kept), generator=generator)]
    return images[_repeated(shuffled, len(images))]


def collapse(
    images: Tensor, labels: Tensor | None, level: float, generator: torch.Generator
) -> Tensor:
    """Only `level` of the images, drawn at random, each as often as the others."""
    _check(images)
    if not (float(level).is_integer() and 1 <= level <= len(images)):
        raise ValueError(f"of {len(images)} images 1 to {len(images)} can be kept, not {level}")
    order = torch.randperm(len(images), generator=generator)
    return images[_repeated(order[: int(level)], len(images))]


def _repeated(kept: Tensor, count: int) -> Tensor:
    """The indices over and over, `count` in all: none occurs twice more than another."""
    return kept[torch.arange(count) % len(kept)]


def _always(*levels: float) -> Callable[[int, int], tuple[float, ...]]:
    return lambda images, classes: levels


def _kept_classes(images: int, classes: int) -> tuple[float, ...]:
    """One fewer than all, then about 7, 5, 3 and 1 in 10."""
    wanted = {classes - 1, *(round(classes * tenths / 10) for tenths in (7, 5, 3, 1))}
    return tuple(sorted((each for each in wanted if 0 < each < classes), reverse=True))


def _kept_images(images: int, classes: int) -> tuple[float, ...]:
    """Half, a quarter, ... while there are twice FEWEST, then FEWEST."""
    levels = []
    while images // 2 >= 2 * FEWEST:
        images //= 2
        levels.append(images)
    return tuple([*levels, min(FEWEST, images // 2)]) if images > 1 else ()


DISTURBANCES: dict[str, Disturbance] = {
    "blur": Disturbance(_always(0.5, 1, 2, 4), blur, "Gaussian, sigma in pixels"),
    "noise": Disturbance(_always(4, 8, 16, 32, 64), noise, "Gaussian, sd in grey levels"),
    "jpeg": Disturbance(_always(90, 70, 50, 30, 10), jpeg, "quality"),
    "classes": Disturbance(_kept_classes, classes, "classes kept, the first ones"),
    "collapse": Disturbance(_kept_images, collapse, "distinct images, repeated", draws=10),
}
