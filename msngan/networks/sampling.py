"""Samples from a generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from msngan.data import images as convert
from msngan.runs import rng
from msngan.runs.folder import counted
from msngan.runs.rng import LEAST_TRUNCATION


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `module` requires a gradient."""
    required = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, eval mode and no gradients; afterwards each module has its former mode."""
    before = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def applied(network: Callable[..., Any], x: Tensor, labels: Tensor | None) -> Any:
    """network(x, labels), or network(x) without labels."""
    return network(x) if labels is None else network(x, labels)


def latents(
    count: int,
    latent_dim: int,
    seed: int,
    truncation: float | None = None,
    *,
    stream: rng.Stream = "samples",
) -> Tensor:
    """z (count, latent_dim) ~ N(0, 1), on the CPU, derived from (seed, stream).

    truncation: draw numbers beyond it, in size, again until none is left, so that samples are
    better and less diverse (Brock et al. 2019, arXiv:1809.11096, section 3.1). ValueError below
    LEAST_TRUNCATION.
    """
    draw = rng.generator(seed, 0, 0, stream)
    z = torch.randn(count, latent_dim, generator=draw)
    if truncation is not None:
        if not truncation >= LEAST_TRUNCATION:
            raise ValueError(f"truncation {truncation} is less than {LEAST_TRUNCATION}")
        flat = z.view(-1)
        far = (flat.abs() > truncation).nonzero().flatten()
        while len(far):
            flat[far] = torch.randn(len(far), generator=draw)
            far = far[flat[far].abs() > truncation]
    return z


def draw_samples(
    generator: nn.Module,
    count: int,
    seed: int,
    batch_size: int = 250,
    *,
    only: Tensor | None = None,
    truncate: bool = False,
    labels: Tensor | Sequence[int] | None = None,
    truncation: float | None = None,
) -> Iterator[Tensor]:
    """`count` samples, or those at the indices `only`, as uint8 batches on the CPU.

    labels: of all samples, whole numbers (count,), for a conditional generator; None: each class in
    turn. truncate: how floats become bytes. truncation: of the latents, see `latents`.
    All latents are drawn at once on the CPU, so they do not depend on batch size, device or `only`.

    Raises ValueError for labels of another number or of classes that the generator does not have.
    """
    z = latents(count, cast(int, generator.latent_dim), seed, truncation)
    if labels is None:
        chosen = labels_in_turn(generator, count)
    else:
        chosen = _checked(labels, count, classes_of(generator))
    if only is not None:
        z, chosen = z[only], None if chosen is None else chosen[only]
    yield from decode(generator, z, batch_size, truncate, labels=chosen)


def decode(
    generator: nn.Module,
    z: Tensor,
    batch_size: int = 250,
    truncate: bool = False,
    *,
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """The images of z (N, latent_dim) in eval mode, as uint8 batches on the CPU.

    labels: of a conditional generator, int64 (N,), or shares of classes, float (N, classes).
    """
    first = next(generator.parameters())
    for start in range(0, len(z), batch_size):
        part = slice(start, start + batch_size)
        own = None if labels is None else labels[part].to(first.device)
        if own is not None and own.is_floating_point():
            own = own.to(first.dtype)
        with evaluating(generator):
            images = applied(generator, z[part].to(first.device, first.dtype), own)
            yield convert.to_uint8(images, truncate).cpu()


def classes_of(generator: nn.Module) -> int:
    """How many classes a generator takes labels of; 0 for one that is not conditional."""
    return int(getattr(generator, "classes", 0))


def labels_in_turn(generator: nn.Module, count: int) -> Tensor | None:
    """Labels 0, 1, ... in turn, int64 (count,), for a conditional generator, otherwise None."""
    classes = classes_of(generator)
    return torch.arange(count) % classes if classes else None


def _checked(labels: Tensor | Sequence[int], count: int, classes: int) -> Tensor:
    """The labels as int64 (count,); with 0 for `classes`, which is unknown then, of any class."""
    given = torch.as_tensor(labels)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if not whole or given.shape != (count,):
        raise ValueError(
            f"labels are {given.dtype} of shape {tuple(given.shape)}; give"
            f" {counted(count, 'whole number')}, one for each sample"
        )
    given = given.long()
    if classes and count and not 0 <= int(given.min()) <= int(given.max()) < classes:
        raise ValueError(
            f"labels from {int(given.min())} to {int(given.max())}: the generator has the classes 0"
            f" to {classes - 1}"
        )
    return given


MOST_CLASSES = 4  # times the images that a grid is to have


def class_rows(classes: Sequence[int], count: int) -> tuple[Tensor, int]:
    """Labels of about `count` images in which each row is one of the classes, and the row's length.

    At least one image of each; where there are many classes, a row has several of them. Of more
    classes than MOST_CLASSES * count at most so many are taken, evenly.
    """
    classes = classes[:: math.ceil(len(classes) / (MOST_CLASSES * count))]
    each = max(1, round(count / len(classes)))
    labels = torch.tensor(classes).repeat_interleave(each)
    in_row = max(1, round(math.sqrt(len(labels)) / each))
    return labels, each * in_row


def first_of_each(labels: Tensor, wanted: Tensor) -> Tensor:
    """Places in `labels` of images with the wanted labels: the first of a class, then its second.

    Where a class has too few, its images are taken again.
    """
    places = []
    for label, count in zip(*wanted.unique(return_counts=True), strict=True):
        own = (labels == label).nonzero().flatten()
        places.append(own[torch.arange(int(count)) % len(own)])
    return torch.cat(places)[wanted.argsort(stable=True).argsort()]


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Spherical interpolation from start to end, both (N, d), as (steps, N, d).

    Directions move on great circles, lengths linearly. Gaussian latents lie near a sphere, and a
    straight line would pass through its unlikely inside. White 2016, arXiv:1609.04468.
    """
    share = torch.linspace(0, 1, steps).view(-1, 1, 1)
    a, b = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    cosine = ((start / a) * (end / b)).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    # No single great circle joins parallel vectors: interpolate linearly.
    flat = sine < 1e-6
    safe = torch.where(flat, torch.ones_like(sine), sine)
    first = torch.where(flat, 1 - share, ((1 - share) * angle).sin() / safe)
    second = torch.where(flat, share, (share * angle).sin() / safe)
    length = torch.lerp(a.expand(steps, -1, -1), b.expand(steps, -1, -1), share)
    return (first * (start / a) + second * (end / b)) * length
