"""The last sample grid of a run, made small enough to be part of a page.

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
WIDEST = 384  # pixels of an embedded picture
LARGEST_FILE = 64 * 2**20  # bytes of a file that is read
LARGEST_IMAGE = 64_000_000  # pixels of an image that is decoded
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """data: a data: address, for an <img>. bytes: what that adds to a page."""

    data: str
    width: int
    height: int

    @property
    def bytes(self) -> int:
        return len(self.data)


def last_grid(samples: Path) -> tuple[int, Path] | None:
    """The step and the file of a run's last grid; None if there is none."""
    found = [
        (int(match[1]), path)
        for path in samples.glob("step-*.png")
        if (match := NAME.fullmatch(path.name))
    ]
    return max(found, default=None)


def small(path: Path) -> Picture:
    """A PNG at most WIDEST pixels wide and high, as WebP where Pillow can, else as PNG.

    ValueError says what is wrong with the file.
    """
    from PIL import Image, features

    try:
        data = _read(path)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            made = image.convert("RGB")
    except (OSError, SyntaxError, EOFError, struct.error) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else None
        raise ValueError(reason or "damaged") from None
    made.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "png"
    buffer = io.BytesIO()
    made.save(buffer, kind, quality=80)
    text = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{text}", *made.size)


def _read(path: Path) -> bytes:
    data = read_up_to(path, LARGEST_FILE)
    if data[:8] != SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        raise ValueError("no PNG")
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= LARGEST_IMAGE:
        raise ValueError(f"{width} x {height} pixels are too many")
    return data
