"""One image file's bytes to pixels, through Pillow, which is imported when it is needed."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Pillow goes by content, not by a name's ending, and others of its readers start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MOST_PIXELS = 2**26  # of one file: 8192 x 8192
MANY_PIXELS = 2**22  # of files that are decoded one at a time
_one_at_a_time = threading.Lock()


@contextmanager
def strict() -> Iterator[None]:
    """Inside, a decompression bomb is an error, and oddities in metadata are not reported."""
    from PIL import Image

    Image.init()  # Pillow loads its readers on first use, which threads should not race to do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def picture(data: bytes) -> Iterator[Image]:
    """The first frame, upright, in whatever mode the file has, while the block lasts.

    Of large images one at a time is in memory, however many threads there are. ValueError if it is
    no image, or too large; for damaged ones Pillow raises nearly anything.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as problem:
        raise ValueError("it is damaged, or no image") from problem
    with image:
        count = image.width * image.height
        if count > MOST_PIXELS:
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, over {MOST_PIXELS:,}; resize it"
            )
        with _one_at_a_time if count > MANY_PIXELS else nullcontext():
            image.load()
            yield _upright(image)


def is_grey(image: Image) -> bool:
    """Whether the file's mode has no colour; a palette counts as colour."""
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def pixels(image: Image, channels: int, size: int) -> Tensor:
    """uint8 (channels, size, size): the shorter side resized, the centre cut out.

    Transparency is laid on white; 16-bit levels are rounded to 8. ValueError for levels that have
    no fixed range.
    """
    from PIL.Image import Resampling

    image = _flat(image).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Resized through a box, for the whole of a long thin image may not fit into memory.
    image = image.resize((size, size), Resampling.LANCZOS, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1)


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    with suppress(Exception):  # unreadable EXIF data, common, says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _flat(image: Image) -> Image:
    """A mode that Pillow converts to L and RGB: 8 bits, opaque."""
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
