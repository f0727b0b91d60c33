"""Known degradations of real images, each in strengths from mild to severe.

A distance that deserves its name grows with each of them. They are made of real images that are not
in the reference: pixels are changed, images are replaced, or some kinds of images are missing.
Every strength of a kind has the same random draws, so that one is the other, only further.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from msngan.data.images import Images, resize, to_pil
from msngan.runs import rng
from msngan.runs.folder import counted
from msngan.scores.reference import in_random_order

# (images, strength, draws) -> images. Pixels: float32 (N, C, H, W) in [0, 255], rounded later.
Change = Callable[[Tensor, float, Generator], Tensor]
# (labels of images in random order, number of images, strength) -> the places of those taken.
Choice = Callable[[Tensor | None, int, float], Tensor]


@dataclass(frozen=True)
class Degraded:
    """images: uint8 (N, C, H, W), after the degradation `kind` with this strength."""

    kind: str
    strength: float
    images: Tensor


def degraded(real: Images, count: int, seed: int = 0) -> Iterator[Degraded]:
    """`count` of the real images under every strength of every kind; the first is undisturbed.

    The first has the kind "none". A strength that changes nothing, or makes what the milder one
    made, is left out: one of colour for grey images, of classes for images without labels.
    ValueError for more images than there are.
    """
    if count > len(real):
        raise ValueError(f"{counted(count, 'image')} to degrade, but there are {len(real)}")
    order = in_random_order(len(real))
    images = real.images[order]
    labels = None if real.labels is None else real.labels[order]
    plain = images[:count]
    yield Degraded("none", 0, plain)

    def made(kind: str, strength: float) -> Tensor:
        if kind in CHOICES:
            return images[CHOICES[kind][1](labels, count, strength)]
        draw = rng.generator(seed, 0, 0, "degradation")
        changed = CHANGES[kind][1](plain.float(), strength, draw)
        return changed.round_().clamp_(0, 255).to(torch.uint8)

    for kind, (strengths, _) in (CHANGES | CHOICES).items():
        last = plain
        for strength in strengths:
            found = made(kind, strength)
            if not any(torch.equal(found, each) for each in (plain, last)):
                yield Degraded(kind, strength, found)
            last = found


# Pixels


def blurred(x: Tensor, sigma: float, draw: Generator | None = None) -> Tensor:
    """By a Gaussian of this sd in pixels; edges are repeated."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    rows = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(rows, weights), weights.mT).view(x.shape)


def noisy(x: Tensor, sd: float, draw: Generator) -> Tensor:
    return x + sd * torch.randn(x.shape, generator=draw)


def specked(x: Tensor, share: float, draw: Generator) -> Tensor:
    """A share of the pixels black or white."""
    hit = torch.rand(x[:, :1].shape, generator=draw)
    white = torch.rand(x[:, :1].shape, generator=draw) < 0.5
    return torch.where(hit < share, 255.0 * white, x)


def jpeg(x: Tensor, quality: float, draw: Generator) -> Tensor:
    """Written as JPEG and read again, by Pillow."""
    made = []
    for image in x.to(torch.uint8):
        file = io.BytesIO()
        to_pil(image).save(file, "JPEG", quality=int(quality))
        made.append(np.atleast_3d(np.asarray(Image.open(file))))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float()


def few_levels(x: Tensor, levels: float, draw: Generator) -> Tensor:
    return (x * ((levels - 1) / 255)).round() * (255 / (levels - 1))


def coarse(x: Tensor, share: float, draw: Generator) -> Tensor:
    """Shrunk to a share of the size, and enlarged again."""
    size = x.shape[-1]
    return resize(resize(x.to(torch.uint8), max(1, round(share * size))), size).float()


def contrast(x: Tensor, factor: float, draw: Generator) -> Tensor:
    """Factor: of the distance to the mean of the image."""
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, factor)


def brighter(x: Tensor, levels: float, draw: Generator) -> Tensor:
    return x + levels


def faded(x: Tensor, share: float, draw: Generator) -> Tensor:
    """A share of the colour is left."""
    return torch.lerp(x.mean(1, keepdim=True).expand_as(x), x, share)


def turned_hue(x: Tensor, degrees: float, draw: Generator) -> Tensor:
    """Colours turned about the grey axis of the RGB cube."""
    if x.shape[1] == 1:
        return x
    angle = math.radians(degrees)
    # Rodrigues' formula for the axis (1, 1, 1) / sqrt(3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * torch.eye(3) + math.sin(angle) * across + (1 - math.cos(angle)) / 3
    return torch.einsum("ij,njhw->nihw", turn, x)


def cut_out(x: Tensor, share: float, draw: Generator) -> Tensor:
    """A grey square inside each image; share: of the image's side."""
    size = x.shape[-1]
    side = max(1, round(share * size))
    first = (torch.rand((2, len(x), 1), generator=draw) * (size + 1 - side)).long()
    place = torch.arange(size) - first
    rows, columns = (place >= 0) & (place < side)
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 127)


def shuffled(x: Tensor, parts: float, draw: Generator) -> Tensor:
    """Each image cut into parts x parts tiles, which change places."""
    count, size, n = len(x), x.shape[-1], int(parts)
    if size % n:
        return x
    tiles = F.unfold(x, size // n, stride=size // n)
    order = torch.rand((count, 1, n * n), generator=draw).argsort(2)
    tiles = tiles.gather(2, order.expand_as(tiles))
    return F.fold(tiles, x.shape[-2:], size // n, stride=size // n)


def mixed(x: Tensor, share: float, draw: Generator) -> Tensor:
    """With a share of another image."""
    return torch.lerp(x, x.roll(1, 0), share)


def turned(x: Tensor, degrees: float, draw: Generator) -> Tensor:
    """Turned to the left, mirrored beyond the edges."""
    angle = math.radians(degrees)
    turn = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
    grid = F.affine_grid(torch.tensor([turn]), [1, *x.shape[1:]], align_corners=False)
    grid = grid.expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


# Images replaced: a share of them, by what is none


def _replaced(x: Tensor, share: float, others: Tensor) -> Tensor:
    count = max(1, round(share * len(x)))
    return torch.cat([others[:count], x[count:]])


def plain_colours(x: Tensor, share: float, draw: Generator) -> Tensor:
    """Each by its mean colour."""
    return _replaced(x, share, x.mean((2, 3), keepdim=True).expand_as(x))


def uniform_noise(x: Tensor, share: float, draw: Generator) -> Tensor:
    return _replaced(x, share, 255 * torch.rand(x.shape, generator=draw))


def blurred_noise(x: Tensor, share: float, draw: Generator) -> Tensor:
    """Noise of the mean and the spread of real pixels, blurred by 2 pixels."""
    noise = blurred(torch.randn(x.shape, generator=draw), 2)
    return _replaced(x, share, x.mean() + x.std() * noise / noise.std())


# Kinds of images missing


def repeated(labels: Tensor | None, count: int, share: float) -> Tensor:
    """A share of the images, repeated."""
    distinct = max(1, round(share * count))
    return torch.arange(count) % distinct


def fewer_classes(labels: Tensor | None, count: int, share: float) -> Tensor:
    """Without the last classes, this share of them."""
    if labels is None:
        return torch.arange(count)
    kept = max(1, round((1 - share) * len(labels.unique())))
    return _of_classes(labels, [count / kept] * kept)


def unbalanced(labels: Tensor | None, count: int, ratio: float) -> Tensor:
    """The first class is `ratio` times as frequent as the last, the others lie between."""
    if labels is None or (last := len(labels.unique()) - 1) < 1:
        return torch.arange(count)
    weights = [ratio ** -(each / last) for each in range(last + 1)]
    return _of_classes(labels, [count * each / sum(weights) for each in weights])


def _of_classes(labels: Tensor, counts: list[float]) -> Tensor:
    """Places of so many images of the first classes, repeated where a class has fewer.

    Rounded so that their sum is that of the counts.
    """
    found, before, wanted = [], 0, 0.0
    for label, more in zip(labels.unique(), counts, strict=False):
        own = (labels == label).nonzero().flatten()
        wanted += more
        found.append(own[torch.arange(round(wanted) - before) % len(own)])
        before = round(wanted)
    return torch.cat(found)


# Kind -> strengths, from mild to severe, and what is done.
SHARES = (1 / 16, 1 / 4, 1)
CHANGES: dict[str, tuple[tuple[float, ...], Change]] = {
    "blur, sd in pixels": ((0.5, 1, 2, 4), blurred),
    "noise, sd in grey levels": ((4, 8, 16, 32, 64), noisy),
    "black and white pixels, share": ((0.01, 0.04, 0.16, 0.5), specked),
    "JPEG, quality": ((90, 70, 50, 30, 10), jpeg),
    "grey levels per channel": ((32, 16, 8, 4, 2), few_levels),
    "resolution, share": ((0.75, 0.5, 0.25, 0.125), coarse),
    "contrast, factor": ((0.75, 0.5, 0.25, 0.1), contrast),
    "brightness, grey levels": ((16, 32, 64, 128), brighter),
    "colour left, share": ((0.67, 0.33, 0), faded),
    "hue, degrees": ((20, 45, 90, 180), turned_hue),
    "grey square, share of the side": ((0.125, 0.25, 0.5, 0.75), cut_out),
    "shuffled tiles, per side": ((2, 4, 8, 16), shuffled),
    "mixed with another, share": ((0.1, 0.2, 0.35, 0.5), mixed),
    "rotation, degrees": ((5, 10, 20, 45), turned),
    "plain colours, share of images": (SHARES, plain_colours),
    "uniform noise, share of images": (SHARES, uniform_noise),
    "blurred noise, share of images": (SHARES, blurred_noise),
}
CHOICES: dict[str, tuple[tuple[float, ...], Choice]] = {
    "distinct images, share": ((1 / 2, 1 / 8, 1 / 32, 1 / 128), repeated),
    "classes left out, share": ((0.1, 0.3, 0.5, 0.7, 0.9), fewer_classes),
    "most frequent class to rarest": ((4, 16, 64, 256), unbalanced),
}
