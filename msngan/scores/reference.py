"""What the real images are to a score: their statistics, and what real images themselves score.

Both are computed once and cached. The name of a cache file is the hash of what it depends on: the
pixels, the extractor's weights and the version of this file. It holds no pickles; it is written
beside its place and renamed, and checked when it is read: a damaged file counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import msngan.scores.distances as distances
from msngan.data.cache import pixels_sha256, user_cache
from msngan.runs import distributed, rng
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError
from msngan.runs.hardware import for_float64
from msngan.runs.safe_read import read_npy, read_npz
from msngan.scores.extractors import Extractor, Features
from msngan.scores.protocol import KERNEL_IMAGES, NEIGHBOURS, ROLES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from msngan.scores.protocol import Protocol

VERSION = 1  # of the cached arrays: raise it when a computation below changes
MOST_BYTES = 2**36  # of a cache file; the features of a large reference take some GiB
ARRAYS = ("mean", "root", "features", "logits", "kernel_within")
DISTANCES = tuple(role for role in ROLES if role != "score")

Progress = Callable[[int, int], None]  # (images done, images in all)
Score = dict[str, Any]  # {"mean", "sd", "values"}, and "kind" for real data; as in a score line


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of `count` real images in one extractor's features.

    mean (d,) and root (d, r) are float64, root @ root.T the covariance. features (n, d) and
    logits (n, K) are float32, of at most KERNEL_IMAGES images in a fixed random order.
    kernel_within: the kernel distance's term of those alone. sha256: of all images' pixels.
    device: where distances to it are computed. known: real-data scores and neighbours' distances so
    far, see `cached`.
    """

    extractor: str
    count: int
    sha256: str
    mean: Tensor
    root: Tensor
    features: Tensor
    logits: Tensor
    kernel_within: float
    cache: Path  # the file that holds these numbers, if it could be written
    device: torch.device = torch.device("cpu")
    known: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        images: Tensor,
        extractor: Extractor,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> Reference:
        """The statistics of uint8 images (N, C, H, W), from the cache or computed and cached.

        cache: a folder; None: cache_folder(). A damaged cache file is computed again; a cache that
        cannot be written is a warning. UserError, and nothing is cached, for fewer than 2 images;
        ValueError for features that are not finite.
        """
        if len(images) < 2:
            raise UserError(f"a reference needs at least 2 images, not {len(images)}")
        sha256 = pixels_sha256(images)
        identity = {
            "version": VERSION,
            "pixels": sha256,
            "extractor": extractor.name,
            "weights": extractor.weights_sha256,
            "resize": extractor.resize,
            "layers": ["pool", "logits"],
            "dtype": "float64",
            "kept": KERNEL_IMAGES,
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(text.encode()).hexdigest()
        path = (cache or cache_folder()) / f"{key}.npz"
        with distributed.first_goes_first():
            arrays = _read_arrays(path, extractor.dimensions)
            if arrays is None:
                arrays = _compute(images, extractor, progress)
                _write_arrays(path, arrays)
        mean, root, features, logits = (torch.from_numpy(arrays[name]) for name in ARRAYS[:4])
        within = float(arrays["kernel_within"])
        about = extractor.name, len(images), sha256
        device = for_float64(extractor.device)
        return cls(*about, mean, root, features, logits, within, path, device)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of the covariance, float64 (r,), those above rounding."""
        return self.root.square().sum(0)

    @cached_property
    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and root, on the device."""
        return self.mean.to(self.device), self.root.to(self.device)

    @cached_property
    def _kept(self) -> Tensor:
        """The features, on the device."""
        return self.features.to(self.device)

    def measure(
        self, features: Features, protocol: Protocol, roles: Collection[str]
    ) -> dict[str, float]:
        """The number of each role for one run's features; see `computable`."""
        found: dict[str, float] = {}
        if "frechet" in roles:
            found["frechet"] = self.frechet(features.pool)
        if "score" in roles:
            found["score"] = distances.inception_score(features.logits, protocol.splits)
        if "kernel" in roles:
            found["kernel"] = self.kernel(features.pool)
        wanted = self.computable(roles, len(features), protocol)
        if not set(NEIGHBOURS).isdisjoint(wanted):
            nearest = (protocol.precision_neighbours, protocol.coverage_neighbours)
            found |= self.neighbours(features.pool, nearest)
        return {role: found[role] for role in wanted}

    def computable(self, roles: Collection[str], images: int, protocol: Protocol) -> list[str]:
        """The roles in order, without precision and its like if images are too few for those."""
        nearest = max(protocol.precision_neighbours, protocol.coverage_neighbours)
        enough = min(images, len(self.features)) > nearest
        return [role for role in ROLES if role in roles and (enough or role not in NEIGHBOURS)]

    def frechet(self, pool: Tensor) -> float:
        """Fréchet distance of features (N, d) to all `count` images."""
        return distances.frechet_to_root(pool.to(self.device), *self._moments)

    def kernel(self, pool: Tensor) -> float:
        """Kernel distance of features (N, d) to the kept images."""
        pool = pool.to(self.device)
        both = distances.kernel_between(pool, self._kept.double())
        return distances.kernel_within(pool) + self.kernel_within - 2 * both

    def neighbours(self, pool: Tensor, nearest: tuple[int, int]) -> dict[str, float]:
        """Precision, recall, density and coverage of features (N, d) against as many kept ones.

        nearest: k of the first two, and of the last two. Both sides have the first min(N, n) rows:
        a set with more rows would cover more.
        """
        count = min(len(pool), len(self.features))
        real = self._kept[:count].double()
        first, last = nearest
        return distances.neighbours(
            real,
            pool[:count].to(self.device),
            precision_neighbours=first,
            coverage_neighbours=last,
            real_radii=(self._radii(real, first), self._radii(real, last)),
        )

    def _radii(self, real: Tensor, k: int) -> Tensor:
        """Distances (n,) of the first n kept features to their k-th neighbours."""
        shape = (len(real),)
        found = self.cached(f"radii-{len(real)}-{k}", shape, lambda: distances.radii(real, k).cpu())
        return torch.from_numpy(found)

    def cached(
        self, what: str, shape: tuple[int, ...], compute: Callable[[], ArrayLike]
    ) -> np.ndarray:
        """A finite float64 array of this shape: from memory, a file beside `cache`, or computed."""
        path = self.cache.with_name(f"{self.cache.stem}-{what}.npy")
        if path.name not in self.known:
            found = _read_array(path, shape)
            if found is None:
                found = np.asarray(compute())
                # Where it cannot be written, the reference has warned of it.
                with contextlib.suppress(OSError), replacing(path) as new, open(new, "wb") as file:
                    np.save(file, found)
            self.known[path.name] = found
        return self.known[path.name]


def in_random_order(count: int) -> Tensor:
    """A fixed permutation, so that part of a folder sorted by class holds every class."""
    return torch.randperm(count, generator=rng.generator(0, 0, 0, "scores"))


def _compute(
    images: Tensor, extractor: Extractor, progress: Progress | None
) -> dict[str, np.ndarray]:
    total: distances.Moments | None = None
    kept: list[Features] = []
    done = 0
    # Not all at once: 50,000 of Inception's features fill a gigabyte.
    for index in in_random_order(len(images)).split(4 * extractor.batch):
        part = extractor.features(images[index])
        if not part.finite:
            raise ValueError(f"{extractor.name} gives NaN or Inf for reference images")
        own = distances.moments(part.pool)
        total = own if total is None else distances.merge(total, own)
        if done < KERNEL_IMAGES:
            kept.append(part)
        done += len(part)
        if progress:
            progress(done, len(images))
    pool = torch.cat([part.pool for part in kept])[:KERNEL_IMAGES].float()
    logits = torch.cat([part.logits for part in kept])[:KERNEL_IMAGES].float()
    assert total is not None
    return {
        "mean": total.mean.numpy(),
        "root": distances.root(total.covariance).numpy(),
        "features": pool.numpy(),
        "logits": logits.numpy(),
        "kernel_within": np.float64(distances.kernel_within(pool.double())),
    }


# What real images score


def summary(values: Sequence[float]) -> Score:
    """Mean, sd with divisor runs - 1 (null for a single run) and the values themselves."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": list(values)}


def real_data_scores(
    reference: Reference,
    extractor: Extractor,
    protocol: Protocol,
    held_out: Tensor | None = None,
    roles: Collection[str] = ROLES,
) -> dict[str, Score]:
    """Key -> what real images score at the protocol's sizes, and the kind of evidence for it.

    held_out: uint8 real images (M, C, H, W) that are not in the reference. If they are enough for a
    run, up to `runs` disjoint parts of them are scored: "real-vs-real". Otherwise the distances are
    "estimated": the Fréchet distance's bias from the reference's covariance, and 0 for the kernel
    distance, which has no bias; neighbours have no estimate. The inception score is always "real
    data": of reference images.
    """
    if held_out is not None and len(held_out) >= protocol.samples:
        found = _measured(reference, extractor, protocol, held_out)
    else:
        bias = distances.frechet_bias(reference.eigenvalues, protocol.samples, reference.count)
        found = {
            "frechet": {**summary([bias]), "kind": "estimated"},
            "kernel": {**summary([0.0]), "kind": "estimated"},
        }
    if "score" in extractor.keys:
        found["score"] = _real_inception_score(reference, protocol)
    return {extractor.keys[role]: found[role] for role in roles if role in found}


def _measured(
    reference: Reference, extractor: Extractor, protocol: Protocol, held_out: Tensor
) -> dict[str, Score]:
    samples = protocol.samples
    runs = min(protocol.runs, len(held_out) // samples)
    roles = reference.computable(DISTANCES, samples, protocol)

    def compute() -> list[list[float]]:
        parts = in_random_order(len(held_out))[: runs * samples].split(samples)
        each = [extractor.features(held_out[part]) for part in parts]
        return [[*reference.measure(features, protocol, roles).values()] for features in each]

    near = f"{protocol.precision_neighbours}-{protocol.coverage_neighbours}"
    what = f"{pixels_sha256(held_out)[:32]}-{runs}x{samples}-{near}"
    values = reference.cached(what, (runs, len(roles)), compute)
    return {
        role: {**summary(each), "kind": "real-vs-real"}
        for role, each in zip(roles, values.T.tolist(), strict=True)
    }


def _real_inception_score(reference: Reference, protocol: Protocol) -> Score:
    """The score of kept reference images in parts of the protocol's size, or of all there are.

    If they do not fill a run, splits are fewer, not smaller: a smaller split scores less.
    """
    logits = reference.logits.double()
    size, splits = protocol.samples, protocol.splits
    if len(logits) < size:
        per_split = size // splits
        splits = max(1, len(logits) // per_split)
        size = min(len(logits), splits * per_split)
    runs = min(protocol.runs, len(logits) // size)
    parts = logits[: runs * size].split(size)
    values = [distances.inception_score(part, splits) for part in parts]
    return {**summary(values), "kind": "real data"}


# Files of the cache


def cache_folder() -> Path:
    """The folder of the user's cache."""
    return user_cache("references")


def _read_arrays(path: Path, dimensions: int) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None if it is absent or damaged."""
    try:
        found = read_npz(path, MOST_BYTES)
        arrays = {name: found[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError):
        return None
    widths = (arrays["mean"].shape, arrays["root"].shape[:1], arrays["features"].shape[1:])
    if any(width != (dimensions,) for width in widths):
        return None
    sound = (array.dtype.kind == "f" and np.isfinite(array).all() for array in arrays.values())
    return arrays if all(sound) else None


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except OSError as problem:
        warnings.warn(
            f"reference statistics are not cached in {path.parent} ({problem.strerror}); set"
            " MSNGAN_CACHE to a writable folder, or each evaluation computes them again",
            stacklevel=3,
        )


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A finite float64 array of this shape; None if the file is absent or holds another."""
    try:
        array = read_npy(path, MOST_BYTES)
    except (OSError, ValueError):
        return None
    sound = array.shape == shape and array.dtype == np.float64
    return array if sound and np.isfinite(array).all() else None
