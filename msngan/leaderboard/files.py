"""Files that may come from anyone, read up to a size."""

from __future__ import annotations

from pathlib import Path


def read_up_to(path: Path, most: int) -> bytes:
    """The bytes of a regular file; ValueError for anything else, and for more than `most`."""
    if not path.is_file():
        raise ValueError("no file")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        unit, name = (2**20, "MiB") if most >= 2**20 else (1024, "KiB")
        raise ValueError(f"larger than {most // unit} {name}")
    return data
