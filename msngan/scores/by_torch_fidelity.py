"""torch-fidelity's scores of the same images: its loop, its arithmetic, for Inception its network.

Obukhov et al. 2020, https://github.com/toshas/torch-fidelity. Features are handed to its arithmetic
in float64. In float32, as it makes those of Inception, its means put the Fréchet distance of a good
generator off by some 1e-6, and its kernel distance is off by 1e-5 of itself and more.
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
from msngan.scores.cache import cache_folder, read_array, write_array
from msngan.scores.inception import InceptionExtractor, official_sha256
from msngan.scores.interface import Extractor, full_float32
from msngan.scores.protocol import KERNEL_IMAGES
from msngan.scores.reference import in_random_order

# role -> what calculate_metrics is asked for, and what it calls the answer
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
    """The numbers of `roles` by role, those that torch-fidelity has: no density, no coverage.

    generated, real: uint8 (N, C, H, W) and (M, C, H, W), the whole reference. The Fréchet distance
    is to all of it. The kernel distance is the full U-statistic of the first n generated and the
    first n kept real images, n the smaller of N and what is kept; of these are precision and recall
    too, where n is above `neighbours`.

    key: of the reference's content (pixels, weights, resize), under which its moments are cached in
    `folder`, by default torch-fidelity in the cache; nothing else is left behind.
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
    """calculate_metrics, which overlooks an option that it does not know: here a TypeError.

    Its data loader draws from torch's global generator, which is left as it was.
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
    """Its own network and weights, in its own memory layout."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.double() for each in super().forward(images))


def _adapter(extractor: Extractor) -> type[FeatureExtractorBase]:
    """A class as register_feature_extractor wants it: it makes the objects itself, from a name."""

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
    """Options that every call has: the extractor under a name and a folder, both gone afterwards.

    What has a name is cached, as a pickle. In a folder of its own the images are embedded once, and
    no pickle of another hand is opened.
    """
    kind = _adapter(extractor)
    cuda, weights = False, None  # any other extractor sees to its own device
    if isinstance(extractor, InceptionExtractor):
        official_sha256(extractor.path)  # once more, for torch-fidelity opens it once more
        kind, weights = _Inception, str(extractor.path)
        cuda = extractor.device.type == "cuda"
    on = torch.cuda.device(extractor.device) if cuda else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as root, on:
        name = f"{extractor.name}-{Path(root).name}"  # a name can be registered once only
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
                "save_cpu_ram": True,  # which also means no worker processes
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
        with contextlib.suppress(OSError):  # the reference has warned of it
            write_array(stored, np.vstack([made["mu"], made["sigma"]]))
    return found
