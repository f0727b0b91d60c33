"""What the real images are to a score: computed once from their pixels, then cached.

The cache is keyed by content: the pixels, the extractor's weights and the version of this file. Its
files are arrays without pickles, written whole or not at all, and checked when they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msngan import rng
from msngan.metrics import core
from msngan.metrics.interface import Extractor, Features
from msngan.metrics.protocol import KERNEL_IMAGES
from msngan.runs import UserError, replacing

VERSION = 1  # of the cached arrays: raise it when a computation below changes
Progress = Callable[[int, int], None]  # (images done, images in all)
ARRAYS = ("mean", "root", "features", "logits", "kernel_within")


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of `count` real images in one extractor's features.

    mean (d,) and root (d, r) are float64, root @ root.T the covariance. features (n, d) and
    logits (n, K) are float32, of at most KERNEL_IMAGES images in a fixed random order.
    kernel_within: the kernel distance's term of those alone. sha256: of all images' pixels.
    floors: those computed so far, see msngan.metrics.floors.
    """

    extractor: str
    count: int
    sha256: str
    mean: Tensor
    root: Tensor
    features: Tensor
    logits: Tensor
    kernel_within: float
    cache: Path  # the file that these numbers are in, if it could be written
    floors: dict[str, list[list[float]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        images: Tensor,
        extractor: Extractor,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> Reference:
        """The statistics of uint8 images (N, C, H, W), from the cache or computed and cached.

        cache: a folder; by default cache_folder(). A damaged cache file is computed again; a cache
        that cannot be written is only warned about. UserError, and nothing cached, for fewer than
        2 images; ValueError for features that are not finite.
        """
        if len(images) < 2:
            raise UserError(f"a reference needs at least 2 images, not {len(images)}")
        sha256 = pixels_sha256(images)
        identity: dict[str, object] = {
            "version": VERSION,
            "pixels": sha256,
            "extractor": extractor.name,
            "weights": extractor.weights_sha256,
            "resize": extractor.resize,
            "kept": KERNEL_IMAGES,
        }
        path = (cache or cache_folder()) / f"{cache_key(identity)}.npz"
        arrays = _read(path, identity, extractor.dimensions)
        if arrays is None:
            arrays = _compute(images, extractor, progress)
            _write(path, identity, arrays)
        mean, root, features, logits = (torch.from_numpy(arrays[name]) for name in ARRAYS[:4])
        within = float(arrays["kernel_within"])
        return cls(extractor.name, len(images), sha256, mean, root, features, logits, within, path)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of the covariance, float64 (r,), those above rounding."""
        return self.root.square().sum(0)

    @cached_property
    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    def frechet(self, pool: Tensor) -> float:
        """Fréchet distance of features (N, d) to all `count` images."""
        return core.frechet_to_root(pool, self.mean, self.root)

    def kernel(self, pool: Tensor) -> float:
        """Kernel distance of features (N, d) to the kept images."""
        own = core.kernel_within(pool)
        return own + self.kernel_within - 2 * core.kernel_between(pool, self.features.double())


def pixels_sha256(images: Tensor) -> str:
    """Hash of uint8 images (N, C, H, W), their shape and order included."""
    if images.dtype != torch.uint8:
        raise TypeError(f"reference images must be uint8, not {images.dtype}")
    digest = hashlib.sha256("x".join(map(str, images.shape)).encode())
    for part in images.split(4096):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_random_order(count: int) -> Tensor:
    """A fixed permutation, so that part of a folder sorted by class holds every class."""
    return torch.randperm(count, generator=rng.generator(0, 0, 0, "scores"))


def cache_folder() -> Path:
    """$MSNGAN_CACHE, or the user's cache, with /references."""
    root = os.environ.get("MSNGAN_CACHE") or Path.home() / ".cache" / "msngan"
    return Path(root) / "references"


def cache_key(identity: dict[str, object]) -> str:
    """sha256 of the canonical JSON of all that the cached numbers depend on."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def in_parts(images: Tensor, extractor: Extractor, progress: Progress | None) -> Iterator[Features]:
    """The features of many images, some at a time: 50,000 of Inception's would fill a gigabyte."""
    done = 0
    for part in images.split(4 * extractor.batch):
        yield extractor.features(part)
        done += len(part)
        if progress:
            progress(done, len(images))


def _compute(
    images: Tensor, extractor: Extractor, progress: Progress | None
) -> dict[str, np.ndarray]:
    order = in_random_order(len(images))
    rank = torch.empty_like(order)
    rank[order[:KERNEL_IMAGES]] = torch.arange(min(KERNEL_IMAGES, len(images)))
    rank[order[KERNEL_IMAGES:]] = -1
    kept = min(KERNEL_IMAGES, len(images))
    pool = torch.empty(kept, extractor.dimensions)
    logits = torch.empty(kept, extractor.classes)
    total: core.Moments | None = None
    done = 0
    for part in in_parts(images, extractor, progress):
        if not part.finite:
            raise ValueError(f"{extractor.name} gives NaN or Inf for reference images")
        own = core.moments(part.pool)
        total = own if total is None else core.merge(total, own)
        place = rank[done : done + len(part)]
        pool[place[place >= 0]] = part.pool[place >= 0].float()
        logits[place[place >= 0]] = part.logits[place >= 0].float()
        done += len(part)
    assert total is not None
    return {
        "mean": total.mean.numpy(),
        "root": core.root(total.covariance).numpy(),
        "features": pool.numpy(),
        "logits": logits.numpy(),
        "kernel_within": np.float64(core.kernel_within(pool.double())),
    }


def _read(path: Path, identity: dict[str, object], dimensions: int) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, or None where it is absent, cut, damaged or another's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if json.loads(str(file["identity"])) != identity:
                return None
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    widths = (arrays["mean"].shape, arrays["root"].shape[:1], arrays["features"].shape[1:])
    if any(width != (dimensions,) for width in widths):
        return None
    sound = (array.dtype.kind == "f" and np.isfinite(array).all() for array in arrays.values())
    return arrays if all(sound) else None


def _write(path: Path, identity: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
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
