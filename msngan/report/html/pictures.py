"""Sample grids, made small enough to be part of a page.

The files may come from anyone: their size is read from the header before a pixel is decoded.
"""

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
MOST_FILES = 100_000
LARGEST_FILE = 64 * 2**20  # bytes of a file that is read
LARGEST_IMAGE = 64_000_000  # pixels of an image that is decoded
SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
        except ValueError as problem:
            return f"{path.name} left out: {problem}"
        self.left -= len(data)
        return Picture(data, width, height, words, caption, note)


def grids(samples: Path) -> list[tuple[int, Path]]:
    """The sample grids of a run, by step."""
    found = []
    for path in samples.glob("step-*.png"):
        if match := NAME.fullmatch(path.name):
            found.append((int(match[1]), path))
        if len(found) >= MOST_FILES:
            break
    return sorted(found)


def small(path: Path) -> tuple[str, int, int]:
    """A PNG at most WIDEST pixels wide and high: its data: address, width and height.

    WebP where Pillow has it, else PNG. ValueError says what is wrong with the file.
    """
    from PIL import Image, features

    try:
        data = _read(path)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            made = image.convert("RGB")
    except (OSError, SyntaxError, EOFError, struct.error) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else None
        raise ValueError(reason or "the file is damaged") from None
    made.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    made.save(buffer, kind, quality=80)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{text}", made.width, made.height


def _read(path: Path) -> bytes:
    data = read_up_to(path, LARGEST_FILE)
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        raise ValueError("not a PNG file")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= LARGEST_IMAGE:
        raise ValueError(f"{width} x {height} pixels are too many")
    return data
