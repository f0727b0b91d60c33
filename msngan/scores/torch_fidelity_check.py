"""torch-fidelity's scores of the same images: its loop, its arithmetic, and its Inception network.

Obukhov et al. 2020, https://github.com/toshas/torch-fidelity. Its arithmetic gets the features in
float64. In float32, as it computes those of Inception, the error of its means changes the Fréchet
distance of a good generator by about 1e-6, and its kernel distance by a factor of 1e-5 and more.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from msngan.data import images as convert
from msngan.runs import rng
from msngan.scores.extractors import (
    Extractor,
    InceptionExtractor,
    full_float32,
    official_sha256,
)
from msngan.scores.protocol import KERNEL_IMAGES
from msngan.scores.reference import cache_folder, in_random_order, read_array, write_array

# role -> the metric of calculate_metrics, and its name in the result
ROLES = {
    "frechet": ("fid", torch_fidelity.KEY_METRIC_FID),
    "score": ("isc", torch_fidelity.KEY_METRIC_ISC_MEAN),
    "kernel": ("kid", torch_fidelity.KEY_METRIC_KID_MEAN),
    "precision": ("prc", torch_fidelity.KEY_METRIC_PRECISION),
    "recall": ("prc", torch_fidelity.KEY_METRIC_RECALL),
}


def scores(
    extractor: Extractor,
    generated: Tensor,
    real: Tensor,
    key: str,
    *,
    splits: int = 1,
    neighbours: int = 3,
    roles: Collection[str] = tuple(ROLES),
    folder: Path | None = None,
) -> dict[str, float]:
    """Role -> number, for the roles that torch-fidelity has: no density, no coverage.

    generated, real: uint8 (N, C, H, W) and (M, C, H, W), the whole reference. The Fréchet distance
    is to all of it. The kernel distance is the full U-statistic of the first n generated and the
    first n kept real images, n = min(N, number of kept images); precision and recall are of the
    same images, if n is above `neighbours`.

    key: of the reference's content (pixels, weights, resize); its moments are cached under it in
    `folder`, by default torch-fidelity in the cache. Nothing else is left behind.
    """
    folder = folder or cache_folder().with_name("torch-fidelity")
    stored = folder / f"{key}-{torch_fidelity.__version__}.npy"
    wanted = {ROLES[role][0] for role in roles if role in ROLES}
    kept = real[in_random_order(len(real))[:KERNEL_IMAGES]][: len(generated)]
    paired = wanted & ({"kid", "prc"} if len(kept) > neighbours else {"kid"})
    alone = wanted & {"isc"}
    all_generated, some_generated, all_real, some_real = (
        _Images(images, extractor.channels)
        for images in (generated, generated[: len(kept)], real, kept)
    )
    found: dict[str, float] = {}
    with _asking(extractor) as options:
        options |= {"isc_splits": splits, "prc_neighborhood": neighbours}
        if paired and len(kept) == len(generated):  # one pass over the generated
            paired, alone = paired | alone, set()
        found |= _compare(paired, some_generated, some_real, options)
        found |= _compare(alone, all_generated, None, options)
        if "fid" in wanted:
            found |= _frechet(all_generated, all_real, options, extractor.dimensions, stored)
    asked = {role: answer for role, (_, answer) in ROLES.items() if role in roles}
    return {role: found[answer] for role, answer in asked.items() if answer in found}


def calculate(**options: Any) -> dict[str, float]:
    """calculate_metrics, with a TypeError for an unknown option, which it would ignore.

    Its data loader draws from torch's global generator, which is restored.
    """
    if unknown := sorted(set(options) - set(DEFAULTS)):
        raise TypeError(f"torch-fidelity has no option {', '.join(unknown)}")
    with rng.untouched(), full_float32():
        return torch_fidelity.calculate_metrics(**options)


class _Images(Dataset[Tensor]):
    """uint8 images one by one."""

    def __init__(self, images: Tensor, channels: int) -> None:
        self.images, self.channels = images, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return convert.with_channels(self.images[index : index + 1].cpu(), self.channels)[0]


class _Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's own network, in its own memory layout; float64 features."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.double() for each in super().forward(images))


def _adapter(extractor: Extractor) -> type[FeatureExtractorBase]:
    """A class for register_feature_extractor, which makes the objects itself, from a name."""

    class Own(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pool", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "pool"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features = extractor.features(images)
            return tuple(getattr(features, layer) for layer in self.features_list)

    return Own


@contextlib.contextmanager
def _asking(extractor: Extractor) -> Iterator[dict[str, Any]]:
    """Options of every call, with the extractor under a name and a folder that last for the block.

    Named inputs are cached as pickles. In a folder of its own the images are embedded once, and no
    pickle from elsewhere is opened.
    """
    kind = _adapter(extractor)
    cuda, weights = False, None  # other extractors move images to their own device
    if isinstance(extractor, InceptionExtractor):
        official_sha256(extractor.path)  # again, since torch-fidelity opens it again
        kind, weights = _Inception, str(extractor.path)
        cuda = extractor.device.type == "cuda"
    on = torch.cuda.device(extractor.device) if cuda else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as root, on:
        name = f"{extractor.name}-{Path(root).name}"  # a name can be registered only once
        torch_fidelity.register_feature_extractor(name, kind)
        try:
            yield {
                "feature_extractor": name,
                "feature_extractor_weights_path": weights,
                "cuda": cuda,
                "batch_size": extractor.batch,
                "cache_root": root,
                "samples_shuffle": False,
                "kid_subsets": 1,
                "prc_batch_size": 1000,  # 80 MB of distances to 10,000
                "save_cpu_ram": True,  # also: no worker processes
                "verbose": False,
            }
        finally:
            del FEATURE_EXTRACTORS_REGISTRY[name]


def _compare(
    metrics: set[str], generated: _Images, real: _Images | None, options: dict[str, Any]
) -> dict[str, float]:
    if not metrics:
        return {}
    return calculate(
        **dict.fromkeys(metrics, True),
        input1=generated,
        input1_cache_name=f"generated-{len(generated)}",
        input2=real,
        kid_subset_size=len(generated),
        **options,
    )


def _frechet(
    generated: _Images, real: _Images, options: dict[str, Any], dimensions: int, stored: Path
) -> dict[str, float]:
    """With the reference's moments from `stored`, or written there."""
    name = options["feature_extractor"]
    layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
    theirs = Path(options["cache_root"]) / f"reference-{name}-stat-fid-{layer}.pt"
    known = read_array(stored, (1 + dimensions, dimensions))
    if known is not None:
        torch.save({"mu": known[0], "sigma": known[1:]}, theirs)
    found = _compare({"fid"}, generated, real, {**options, "input2_cache_name": "reference"})
    if known is None:
        made = torch.load(theirs, weights_only=False)
        write_array(stored, np.vstack([made["mu"], made["sigma"]]))
    return found
