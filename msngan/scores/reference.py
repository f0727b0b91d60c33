"""What the real images are to a score: computed once from their pixels, then cached.

The cache is keyed by content: the pixels, the extractor's weights and the version of this file. Its
files are arrays without pickles, written whole or not at all, and checked when they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.scores import core, neighbours
from msngan.scores import sharing as processes
from msngan.scores.cache import (
    ARRAYS,
    cache_folder,
    cache_key,
    read_array,
    read_arrays,
    write_array,
    write_arrays,
)
from msngan.scores.interface import Extractor, Features
from msngan.scores.protocol import KERNEL_IMAGES

VERSION = 1  # of the cached arrays: raise it when a computation below changes
Progress = Callable[[int, int], None]  # (images done, images in all)
LAYERS = ("pool", "logits")


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of `count` real images in one extractor's features.

    mean (d,) and root (d, r) are float64, root @ root.T the covariance. features (n, d) and
    logits (n, K) are float32, of at most KERNEL_IMAGES images in a fixed random order.
    kernel_within: the kernel distance's term of those alone. sha256: of all images' pixels.
    floors, radii: those computed so far, see msngan.scores.floors and neighbours().
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
    floors: dict[str, dict[str, list[float]]] = field(default_factory=dict, repr=False)
    radii: dict[str, Tensor] = field(default_factory=dict, repr=False)

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
            "layers": list(LAYERS),
            "dtype": "float64",
            "kept": KERNEL_IMAGES,
        }
        path = (cache or cache_folder()) / f"{cache_key(identity)}.npz"
        with processes.first_goes_first():
            arrays = read_arrays(path, identity, extractor.dimensions)
            if arrays is None:
                arrays = _compute(images, extractor, progress)
                write_arrays(path, identity, arrays)
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

    def neighbours(self, pool: Tensor, nearest: tuple[int, int]) -> dict[str, float]:
        """Precision, recall, density and coverage of features (N, d) against as many kept ones.

        nearest: the k of the first two and of the last two. Both sides have min(N, n) rows, the
        first: a set with more rows would cover more.
        """
        count = min(len(pool), len(self.features))
        real = self.features[:count].double()
        first, last = nearest
        return neighbours.neighbours(
            real,
            pool[:count],
            precision_neighbours=first,
            coverage_neighbours=last,
            real_radii=(self._radii(real, first), self._radii(real, last)),
        )

    def _radii(self, real: Tensor, k: int) -> Tensor:
        """Distances (n,) of the first n kept features to their k-th neighbours, from the cache."""
        path = self.cache.with_name(f"{self.cache.stem}-radii-{len(real)}-{k}.npy")
        if path.name not in self.radii:
            found = read_array(path, (len(real),))
            if found is None:
                found = neighbours.radii(real, k).numpy()
                with contextlib.suppress(OSError):  # the reference has warned of it
                    write_array(path, found)
            self.radii[path.name] = torch.from_numpy(found)
        return self.radii[path.name]


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
