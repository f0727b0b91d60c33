"""Images with their labels, and their conversion, resizing and grids.

Inside, images are float32 in [-1, 1]; outside (files, extractors, scores) they are uint8. Both are
(N, C, H, W). Conversion to uint8 rounds and clamps: truncation, which many tools use, darkens a
quarter of all grey levels by one and changes scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from msngan.runs.folder import Diverged, counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Images:
    """images: uint8 (N, C, H, W); labels: int64 (N,) or None; classes: the labels' names, if any.

    The names are those of a folder's subfolders.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def __getitem__(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images and labels at `index`, of a data set with labels."""
        assert self.labels is not None
        return self.images[index], self.labels[index]


class Chosen:
    """The images at some places of a tensor (N, C, H, W): copied only where they are asked for."""

    def __init__(self, images: Tensor, places: Tensor) -> None:
        self.images, self.places = images, places
        self.shape = (len(places), *images.shape[1:])
        self.device = images.device

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.images[self.places[index]]

    def split(self, count: int) -> Iterator[Tensor]:
        return (self.images[part] for part in self.places.split(count))


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


def to_uint8(images: Tensor, truncate: bool = False) -> Tensor:
    """Float in [-1, 1] to uint8, rounded; values outside saturate, NaN raises Diverged.

    truncate: cut the fraction off instead, as older code does.
    """
    if torch.isnan(images).any():
        raise Diverged("images hold NaN; the generator has diverged")
    if truncate:  # in their order of operations, which keeps all 256 levels
        return images.float().mul(255 / 2).add_(255 / 2).clamp_(0, 255).to(torch.uint8)
    return images.float().add(1).mul(255 / 2).round_().clamp_(0, 255).to(torch.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) to (N, C, size, size), bicubic with antialiasing, rounded."""
    if images.shape[-2:] == (size, size):
        return images
    parts = [
        F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True)
        for part in images.split(4096)  # a float copy of a whole data set may not fit
    ]
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])


def clean_resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) to float32 (N, C, size, size) in [0, 255], not rounded.

    clean-fid's resizing (Parmar et al. 2022, arXiv:2104.11222): Pillow's bicubic filter, which
    widens with the scale when it shrinks, on each channel as float32.
    """
    if images.shape[-2:] == (size, size):
        return images.float()
    x = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return x.clamp_(0, 255)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 (N, 1 or 3, H, W) to `channels`: grey is repeated, colour becomes ITU-R 601 luma."""
    have = images.shape[1]
    if have == channels:
        return images
    if (have, channels) == (1, 3):
        return images.expand(-1, 3, -1, -1).contiguous()
    if (have, channels) == (3, 1):
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        grey = (images.float() * weights).sum(1, keepdim=True)
        return grey.round_().clamp_(0, 255).to(torch.uint8)
    raise ValueError(
        f"cannot turn images of {counted(have, 'channel')} into {channels}; use 1 or 3"
    )


def windows(
    padded: Tensor, top: Tensor, left: Tensor, size: int, mirrored: Tensor | None = None
) -> Tensor:
    """A square window (N, C, size, size) of each image (N, C, H, W), flipped where mirrored.

    top, left: int64 (N,), the window's first row and column; mirrored: bool (N,).
    """
    rows = top[:, None] + torch.arange(size, device=top.device)  # (N, size)
    columns = left[:, None] + torch.arange(size, device=left.device)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    pick = torch.arange(len(padded), device=padded.device)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[pick, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def tile(images: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """uint8 (N, C, H, W) to one picture (C, rows*(H+gap)+gap, ...), row by row, light gaps."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = torch.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap),
        235,
        dtype=torch.uint8,
    )
    for index, image in enumerate(images):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        picture[:, top : top + height, left : left + width] = image
    return picture


def to_pil(picture: Tensor, scale: int = 1) -> Image:
    """uint8 (C, H, W), C 1 or 3, to a PIL image, enlarged by whole pixels."""
    from PIL import Image

    array = picture.permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def save_grid(
    images: Tensor, path: Path, columns: int | None = None, kind: str | None = None
) -> None:
    """Write uint8 (N, C, H, W) as one picture; small images are enlarged to be visible.

    kind: Pillow's name of the format; None: by the path's suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, round(64 / images.shape[-1]))
    to_pil(tile(images, columns), scale).save(path, kind)
