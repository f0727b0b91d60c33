"""Files of the cache of reference statistics: arrays without pickles, whole or not there.

Its files are written beside their place and renamed, and checked when they are read: one that is
cut, damaged or another's counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from msngan.runs.atomic import replacing
from msngan.runs.safe_read import read_json, read_npy, read_npz

ARRAYS = ("mean", "root", "features", "logits", "kernel_within")
LARGEST = 2**36  # bytes of a file; the features of a large reference take some GiB


def cache_folder() -> Path:
    """$MSNGAN_CACHE, or the user's cache, with /references."""
    root = os.environ.get("MSNGAN_CACHE") or Path.home() / ".cache" / "msngan"
    return Path(root) / "references"


def cache_key(identity: dict[str, object]) -> str:
    """sha256 of the canonical JSON of all that the cached numbers depend on."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_arrays(
    path: Path, identity: dict[str, object], dimensions: int
) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, or None where it is absent, cut, damaged or another's."""
    try:
        found = read_npz(path, LARGEST)
        if read_json(str(found["identity"])) != identity:
            return None
        arrays = {name: found[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError):
        return None
    widths = (arrays["mean"].shape, arrays["root"].shape[:1], arrays["features"].shape[1:])
    if any(width != (dimensions,) for width in widths):
        return None
    sound = (array.dtype.kind == "f" and np.isfinite(array).all() for array in arrays.values())
    return arrays if all(sound) else None


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array without NaN or Inf, or None where the file is absent or holds another."""
    try:
        array = read_npy(path, LARGEST)
    except (OSError, ValueError):
        return None
    sound = array.shape == shape and array.dtype == np.float64
    return array if sound and np.isfinite(array).all() else None


def write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def write_arrays(path: Path, identity: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            content: dict[str, Any] = {"identity": np.array(json.dumps(identity)), **arrays}
            np.savez(file, **content)
    except OSError as problem:
        warnings.warn(
            f"reference statistics are not cached in {path.parent} ({problem.strerror}); set"
            " MSNGAN_CACHE to a folder that can be written, or each evaluation computes them anew",
            stacklevel=3,
        )
