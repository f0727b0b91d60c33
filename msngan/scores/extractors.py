"""Feature extractors: uint8 images in, float64 features out. The interface, and Inception.

Each network has a way of its own to resize images. With `clean` they are resized as clean-fid does
instead, and the extractor's name says so: the scores are others.

The official Inception is the only one whose numbers are called FID, IS and KID. It is
torch-fidelity's port of the TensorFlow graph of 2015-12-05, with TensorFlow 1's bilinear resize
inside. Its weights are 96 MB and are not shipped: they come from a local file or a download, and
are hashed before they are opened.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from msngan.data import images as convert
from msngan.norms.parts import full_float32
from msngan.runs import hardware, rng
from msngan.runs.folder import UserError
from msngan.scores.protocol import KEYS, roles_of

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
# The whole hash: the file is a pickle, and a file with the same eight digits can be made.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_VARIABLE = "MSNGAN_INCEPTION"
# measured on a CPU: 23 MB in batches of 5, 17 of 25; one layer's output alone is 64 x 147 x 147
INCEPTION_BYTES_PER_IMAGE = 24_000_000


@dataclass(frozen=True)
class Features:
    """pool: float64 (N, d); logits: float64 (N, K), K 0 without classes; both on the CPU.

    float64, although the networks are float32: the reference libraries compute means in the type of
    the features, which loses three digits if the mean is large relative to the spread.
    """

    pool: Tensor
    logits: Tensor

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def finite(self) -> bool:
        return bool(self.pool.isfinite().all() and self.logits.isfinite().all())


class Extractor(ABC):
    """A frozen network, named by its weights.

    name: <kind>-<first 8 hex digits of the weights file's sha256>. dimensions: d; classes: K, or 0
    of a network without logits, which has no inception score.
    size: of the network's input; resize: how other images are resized, for the protocol.
    clean: resize as `clean_resize` does instead; <kind> then ends in -clean.
    batch: images per forward pass of `bytes_per_image` each, at most what half of the initially
    free memory holds.
    """

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
        clean: bool = False,
    ) -> None:
        kind, _, digest = name.rpartition("-")
        self.name = f"{kind}-clean-{digest}" if clean else name
        self.weights_sha256 = weights_sha256
        self.dimensions = dimensions
        self.classes = classes
        self.size = size
        self.channels = channels
        self.resize = f"clean-bicubic-{size}" if clean else resize
        self.clean = clean
        self.device = torch.device(device)
        free = hardware.free_memory(self.device)
        # only once: the batch size changes the last bits of every score
        self.batch = batch if free is None else max(1, min(batch, free // 2 // bytes_per_image))
        network.requires_grad_(False).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)

    @property
    def official_inception(self) -> bool:
        """Whether the scores are FID, IS and KID: a property, so that no argument can set it."""
        return False

    @property
    def keys(self) -> dict[str, str]:
        """Role -> key in a score line, of the roles that this extractor's features have.

        Only the official Inception has the usual names.
        """
        official = self.official_inception
        return {
            role: usual if official else f"{kind}/{self.name}"
            for role, (usual, kind) in KEYS.items()
            if role not in ("score", "agreement") or self.classes
        }

    def roles(self, metrics: Collection[str]) -> tuple[str, ...]:
        """The roles of names in METRICS that this extractor has."""
        return tuple(role for role in roles_of(metrics) if role in self.keys)

    def features(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W), C 1 or 3, on any device.

        Other channels or sizes are converted. TypeError for any dtype but uint8, since a hidden
        change of range would change every score; ValueError for other shapes or no images.
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
                if self.clean:
                    part = convert.clean_resize(part, self.size)
                pool, logit = self._embed(part)
                pools.append(pool.cpu().double())  # in this order: MPS has no float64
                logits.append(logit.cpu().double())
        return Features(torch.cat(pools), torch.cat(logits))

    @abstractmethod
    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) and (N, K) of uint8 images on this extractor's device.

        With `clean` they have this extractor's size and are float32 in [0, 255].
        """


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def hub_file() -> Path:
    """Where torch.hub keeps the weights: in $TORCH_HOME, or the user's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def find_weights(explicit: Path | str | None = None) -> Path | None:
    """The local weights file: `explicit`, $MSNGAN_INCEPTION or torch hub's, otherwise None.

    UserError if a file that was given by name does not exist.
    """
    asked = explicit or os.environ.get(INCEPTION_VARIABLE)
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            source = "" if explicit else f" (from ${INCEPTION_VARIABLE})"
            raise UserError(
                f"no Inception weights file {path}{source}; give the path of {INCEPTION_FILE}"
            )
        return path
    return hub_file() if hub_file().is_file() else None


def download_weights() -> Path:
    """Download the weights into torch hub's folder; UserError with the remedies if that fails."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    target, sha256 = hub_file(), INCEPTION_SHA256[:8]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(target), sha256, progress=False)
    except (OSError, RuntimeError) as problem:  # URLError is an OSError, a wrong hash the other
        raise UserError(
            f"no Inception weights, and they cannot be downloaded ({problem}); put"
            f" {INCEPTION_FILE} into {target.parent}, or set {INCEPTION_VARIABLE} to its path, or"
            " use the embedded extractor"
        ) from problem
    return target


class InceptionExtractor(Extractor):
    """Inception with pool features (N, 2048) and logits without bias (N, 1008).

    With `clean` its numbers are clean-fid's, which is not called FID here.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu", clean: bool = False) -> None:
        """path: the weights; a UserError if they are not the official ones.

        The file is a pickle, which could run code when it is opened: nothing is opened unhashed.
        """
        try:
            sha256 = file_sha256(path)
        except OSError as problem:
            raise UserError(
                f"{path} cannot be read ({problem.strerror}); give {INCEPTION_FILE}"
            ) from problem
        if sha256 != INCEPTION_SHA256:
            raise UserError(
                f"{path} is not the official Inception weights file: its sha256 is"
                f" {sha256[:16]}..., not {INCEPTION_SHA256[:16]}...; get {INCEPTION_FILE} from"
                " torch-fidelity's releases"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        name = f"inception-{INCEPTION_SHA256[:8]}"
        with rng.untouched():  # the initial weights are random, then replaced
            network = FeatureExtractorInceptionV3(name, ["2048", "logits_unbiased"], str(path))
        super().__init__(
            name,
            sha256,
            network,
            dimensions=2048,
            classes=1008,
            size=network.INPUT_IMAGE_SIZE,
            channels=3,
            resize=f"tensorflow1-bilinear-{network.INPUT_IMAGE_SIZE}",
            batch=250 if torch.device(device).type == "cuda" else 25,  # the CPU's cache is small
            bytes_per_image=INCEPTION_BYTES_PER_IMAGE,
            device=device,
            clean=clean,
        )

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        device: torch.device | str = "cpu",
        clean: bool = False,
    ) -> InceptionExtractor:
        """From `path`, otherwise from find_weights, otherwise by download."""
        return cls(find_weights(path) or download_weights(), device, clean)

    @property
    def official_inception(self) -> bool:
        return not self.clean

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self.clean:
            return self.network(images)
        # The network takes bytes only: its first layer gets the resized images in their place.
        first = self.network.get_submodule("Conv2d_1a_3x3")
        with first.register_forward_pre_hook(lambda *_: ((images - 128) / 128,)):
            return self.network(images.to(torch.uint8))
