"""What a feature extractor is to the rest of the package: uint8 images in, float64 features out."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from msngan.data import images as convert
from msngan.runs import hardware as machine

if TYPE_CHECKING:
    from pathlib import Path

# role -> what the official Inception's number is called, and what any other's name begins with
KEYS = {
    "frechet": ("fid", "fd"),
    "score": ("is", "cs"),
    "kernel": ("kid", "kd"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
    "density": ("density", "density"),
    "coverage": ("coverage", "coverage"),
}


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
    batch: images a forward pass, as many as half of the memory that was free at the start holds.
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
        bytes_per_image: int = 1_000_000,
        device: torch.device | str,
    ) -> None:
        """batch: the most images for a forward pass, each of which takes `bytes_per_image`."""
        self.name = name
        self.weights_sha256 = weights_sha256
        self.dimensions = dimensions
        self.classes = classes
        self.size = size
        self.channels = channels
        self.resize = resize
        self.device = torch.device(device)
        free = machine.free_memory(self.device)
        # once: if it followed the memory of the moment, so would the last bits of every score
        self.batch = batch if free is None else max(1, min(batch, free // 2 // bytes_per_image))
        network.requires_grad_(False).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)

    @property
    def keys(self) -> dict[str, str]:
        """Role -> key of a score line. Only the official Inception's bear the usual names."""
        if self.official_inception:
            return {role: usual for role, (usual, _) in KEYS.items()}
        return {role: f"{kind}/{self.name}" for role, (_, kind) in KEYS.items()}

    def features(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W), C 1 or 3, on any device.

        Images of other channels or sizes are converted. TypeError for any dtype but uint8, for a
        hidden change of range would move every score; ValueError for other shapes or none at all.
        """
        if images.dtype != torch.uint8:
            raise TypeError(
                f"an extractor takes uint8 images, not {images.dtype};"
                " use msngan.data.images.to_uint8"
            )
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
        self.network.eval()
        pools, logits = [], []
        off = torch.autocast(self.device.type, enabled=False)
        with torch.no_grad(), off, full_float32():
            for part in images.split(self.batch):
                part = convert.with_channels(part.cpu(), self.channels).to(self.device)
                pool, logit = self._embed(part)
                pools.append(pool.cpu().double())  # in this order: MPS has no float64
                logits.append(logit.cpu().double())
        return Features(torch.cat(pools), torch.cat(logits))

    @abstractmethod
    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) and (N, K) of uint8 images on this extractor's device."""


class _Float32:
    """Inside, convolutions and products of float32 are computed in float32 and nothing less.

    No TensorFloat-32, no bfloat16: a GPU of another generation, or a user's wish for speed in
    training, would else move scores. The switches are the process's, so of several threads inside
    the last to leave puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []

    @staticmethod
    def _places() -> list[Any]:
        backends: Any = torch.backends  # its modules are replaced when they are imported
        cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
        return [cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv]

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [place.fp32_precision for place in self._places()]
                for place in self._places():
                    place.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for place, value in zip(self._places(), self._before, strict=True):
                    place.fp32_precision = value


_FLOAT32 = _Float32()


def full_float32() -> _Float32:
    """`with full_float32():` see _Float32."""
    return _FLOAT32


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
