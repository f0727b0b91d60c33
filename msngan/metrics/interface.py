"""What a feature extractor is to the rest of the package: uint8 images in, float64 features out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from msngan import images as convert

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Features:
    """pool: float64 (N, d); logits: float64 (N, K); both on the CPU.

    float64, although the networks are float32: the reference libraries take means in the features'
    own type, which costs them three digits when the mean is large against the spread.
    """

    pool: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def finite(self) -> bool:
        return bool(self.pool.isfinite().all() and self.logits.isfinite().all())


class Extractor(ABC):
    """A frozen network with a name that its weights decide.

    name: <kind>-<first 8 hex digits of the weights file's sha256>. dimensions: d; classes: K.
    size: of the images that the network sees; resize: how others get there, for the protocol.
    batch: images a forward pass.
    """

    official_inception: ClassVar[bool] = False  # a property of the class: no argument can set it

    def __init__(
        self,
        name: str,
        weights_sha256: str,
        network: nn.Module,
        *,
        dimensions: int,
        classes: int,
        size: int,
        channels: int,
        resize: str,
        batch: int,
        device: torch.device | str,
    ) -> None:
        self.name = name
        self.weights_sha256 = weights_sha256
        self.dimensions = dimensions
        self.classes = classes
        self.size = size
        self.channels = channels
        self.resize = resize
        self.batch = batch
        self.device = torch.device(device)
        network.requires_grad_(False).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)

    @property
    def keys(self) -> dict[str, str]:
        """Names of the three scores. Only the official Inception's bear the usual ones."""
        if self.official_inception:
            return {"frechet": "fid", "score": "is", "kernel": "kid"}
        return {
            "frechet": f"fd/{self.name}",
            "score": f"cs/{self.name}",
            "kernel": f"kd/{self.name}",
        }

    def features(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W), C 1 or 3, on any device.

        Images of other channels or sizes are converted. TypeError for any dtype but uint8, for a
        hidden change of range would move every score; ValueError for other shapes or none at all.
        """
        if images.dtype != torch.uint8:
            raise TypeError(
                f"an extractor takes uint8 images, not {images.dtype}; use msngan.images.to_uint8"
            )
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
        self.network.eval()
        pools, logits = [], []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for part in images.split(self.batch):
                part = convert.with_channels(part.cpu(), self.channels).to(self.device)
                pool, logit = self._embed(part)
                pools.append(pool.cpu().double())  # in this order: MPS has no float64
                logits.append(logit.cpu().double())
        return Features(torch.cat(pools), torch.cat(logits))

    @abstractmethod
    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) and (N, K) of uint8 images on this extractor's device."""


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
