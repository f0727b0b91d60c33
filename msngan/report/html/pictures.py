"""Sample grids, made small; the size of a file is read before a pixel is decoded."""

from __future__ import annotations

import base64
import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from msngan.runs.safe_read import read_up_to

NAME = re.compile(r"step-(\d{8,12})\.png")
WIDEST = 384  # pixels of a picture on a page
SHOWN = 4  # grids of one run, beside its real images
LARGEST_FILE = 64 * 2**20  # bytes of a file that is read
LARGEST_IMAGE = 64_000_000  # pixels of an image that is decoded


@dataclass(frozen=True)
class Picture:
    """data: a data: address, for an <img>. words: for who cannot see it."""

    data: str
    width: int
    height: int
    words: str = ""
    caption: str = ""
    note: str = ""


class Pictures:
    """The pictures of one page, at most `most` bytes together."""

    def __init__(self, most: int) -> None:
        self.left = most

    def add(self, path: Path, words: str, caption: str, note: str = "") -> Picture | str:
        """The PNG as a picture, or a sentence that says why it is left out."""
        try:
            data, width, height = small(path)
            if len(data) > self.left:
                raise ValueError("the pictures of this page already take the space they may")
        except (OSError, ValueError) as problem:
            return f"{path.name} left out: {problem}"
        self.left -= len(data)
        return Picture(data, width, height, words, caption, note)


def grids(samples: Path) -> list[tuple[int, Path]]:
    """The sample grids of a run, by step."""
    paths = samples.glob("step-*.png")
    return sorted((int(match[1]), path) for path in paths if (match := NAME.fullmatch(path.name)))


def small(path: Path) -> tuple[str, int, int]:
    """A PNG at most WIDEST pixels wide and high: its data: address, width and height.

    WebP where Pillow has it, else PNG. ValueError says what is wrong with the file.
    """
    from PIL import Image, features

    file = io.BytesIO(read_up_to(path, LARGEST_FILE))
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if not 0 < image.width * image.height <= LARGEST_IMAGE:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            made = image.convert("RGB")
    except Image.DecompressionBombError:
        raise ValueError("it has too many pixels") from None
    except (OSError, SyntaxError, EOFError, struct.error):
        raise ValueError("the file is damaged, or not a PNG file") from None
    made.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    made.save(buffer, kind, quality=80)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{text}", made.width, made.height
