"""One image file's bytes to pixels, through Pillow, which is imported when it is needed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Pillow goes by content, not by a name's ending, and others of its readers start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@contextmanager
def strict() -> Iterator[None]:
    """Inside, a decompression bomb is an error, and oddities in metadata are not reported."""
    from PIL import Image

    Image.init()  # Pillow loads its readers on first use, which threads should not race to do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def picture(data: bytes) -> Image:
    """The first frame, upright, in whatever mode the file has.

    ValueError if it is no image; for damaged ones Pillow raises nearly anything.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return _upright(image)
    except Image.UnidentifiedImageError as problem:
        raise ValueError("it is damaged, or no image") from problem


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

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF data, which is common, says nothing about the pixels
        return image.copy()


def _flat(image: Image) -> Image:
    """A mode that Pillow converts to L and RGB: 8 bits, opaque."""
    from PIL import Image as pil

    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it has 32-bit levels; save it with 8 or 16 bits")
        return pil.fromarray(np.rint(levels / 257).astype(np.uint8))  # 65535 / 255 = 257
    if image.mode in ("F", "LAB"):
        raise ValueError(f"it has mode {image.mode}; save it as grey or RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image
