"""Safetensors files: tensors and words, read without trusting whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msngan.runs.safe_files import is_regular, read_json

MOST_HEADER = 2**20  # bytes
LARGEST = 2**32  # bytes of a file


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensors in a file; ValueError in one line for a file that is not whole.

    No more memory is taken than the file has bytes.
    """
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, state
    except (SafetensorError, OSError, RuntimeError, TypeError) as problem:
        raise ValueError(str(problem).splitlines()[0][:200]) from None


def _check_header(path: Path) -> None:
    """Judge the header before the library does, which takes 100 MB of it."""
    if not is_regular(path):
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise ValueError("its header is damaged")
        header = read_json(file.read(length))
    if size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**30} GiB")
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError("its metadata are no words")


def to_bytes(state: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its header sorted: the library writes it in a random order."""
    from safetensors.torch import save

    data = save(dict(state), dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    text = header.encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
