"""One image file: its pixels, upright and in 8 bits, or one line that says why there are none.

Pillow decodes it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from msngan.data.parallel import one_at_a_time
from msngan.runs.folder import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow identifies a file by its content; some of its other readers start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
# What can say which side of a PNG or JPEG image is up; most have none of it.
ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
MOST_PIXELS = 2**26  # of one file: 8192 x 8192
MANY_PIXELS = 2**22  # larger images are decoded one at a time


class DataError(UserError):
    """Images that are missing, damaged or unsuitable: one line with the remedy."""


class UnreadableError(DataError):
    """A file that cannot be read; `reason` says why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be read: {reason}; repair or remove it")
        self.reason = reason


@dataclass(frozen=True)
class Look:
    """What must agree between images, without their pixels. A palette counts as colour."""

    name: str
    width: int
    height: int
    kind: str  # grey or colour

    @classmethod
    def of(cls, name: str, image: Image) -> Look:
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        return cls(name, image.width, image.height, "grey" if grey else "colour")

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turn any failure inside into an UnreadableError about `what`; DataErrors pass."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as problem:
        raise DataError(f"{what} does not fit into memory; give fewer images") from problem
    except Exception as problem:  # damaged files make zlib, json and Pillow raise nearly anything
        system = problem.strerror if isinstance(problem, OSError) else None
        reason = system or " ".join(str(problem).split())[:200] or type(problem).__name__
        raise UnreadableError(str(what), reason) from problem


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside, a decompression bomb is an error, and oddities in metadata are not reported."""
    from PIL import Image

    Image.init()  # Pillow loads its readers on first use, which threads should not race to do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def picture(data: bytes) -> Iterator[Image]:
    """The first frame, upright, in the file's own mode, while the block lasts.

    Only one large image is in memory at a time, however many threads there are. ValueError if the
    data are not an image, or too large; for damaged ones Pillow raises nearly anything.
    """
    from PIL import Image, ImageOps

    if not data:
        raise ValueError("it is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.UnidentifiedImageError as problem:
        raise ValueError("it is damaged, or not an image") from problem
    with image:
        count = image.width * image.height
        if count > MOST_PIXELS:
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, over {MOST_PIXELS:,}; resize it"
            )
        with one_at_a_time() if count > MANY_PIXELS else nullcontext():
            image.load()
            if image.format not in ("PNG", "JPEG") or not ORIENTED.isdisjoint(image.info):
                with suppress(Exception):  # unreadable EXIF data, common: it is not the pixels
                    ImageOps.exif_transpose(image, in_place=True)
            yield image


def centred(image: Image, side: int) -> Image:
    """The square of this side, or the largest that there is, at the centre."""
    side = min(side, *image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@cache
def _formats() -> list[str]:
    """FORMATS without those that an old Pillow does not have (AVIF)."""
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def pixels(image: Image, channels: int, size: int) -> Tensor:
    """uint8 (channels, size, size): the shorter side resized, the centre cut out.

    Transparent pixels are blended with white; 16-bit levels are rounded to 8. ValueError for levels
    without a fixed range.
    """
    from PIL.Image import Resampling

    image, mode = _flat(image), "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Resized through a box: the whole of a long thin image may not fit into memory.
        image = image.resize((size, size), Resampling.LANCZOS, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1)


def _flat(image: Image) -> Image:
    """The image in a mode that Pillow converts to L and RGB: 8 bits, opaque."""
    from PIL import Image as pil

    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it has 32-bit levels; save it with 8 or 16 bits")
        # 65535 / 255 = 257, which is odd: no level lies half way
        return pil.fromarray(((levels.astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.mode in ("F", "LAB"):
        raise ValueError(f"it has mode {image.mode}; save it as grey or RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image
