"""The official Inception network, the only one whose numbers are called FID, IS and KID.

torch-fidelity's port of the TensorFlow graph of 2015-12-05, with TensorFlow 1's bilinear resize
inside. Its weights are 96 MB and are not shipped: they come from a file at hand or a download, and
are hashed before they are opened.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.scores.interface import Extractor, file_sha256

FILE = "weights-inception-2015-12-05-6726825d.pth"
HASH = "6726825d"  # how the sha256 of the file starts
# The whole of it: the file is a pickle, and eight digits can be had by trying.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
VARIABLE = "MSNGAN_INCEPTION"
LAYERS = ("2048", "logits_unbiased")  # torch-fidelity's names of pool features and logits
# measured on a CPU: 23 MB in batches of 5, 17 of 25; one layer's output alone is 64 x 147 x 147
BYTES_PER_IMAGE = 24_000_000


def hub_file() -> Path:
    """Where torch.hub keeps the weights: below $TORCH_HOME, or the user's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE


def find_weights(explicit: Path | str | None = None) -> Path | None:
    """The weights file at hand: `explicit`, $MSNGAN_INCEPTION or torch hub's, else None.

    A file that is asked for by name and is not there is a UserError.
    """
    asked = explicit or os.environ.get(VARIABLE)
    if asked:
        path = Path(asked).expanduser()
        if not path.is_file():
            source = "" if explicit else f" (from ${VARIABLE})"
            raise UserError(f"no Inception weights file {path}{source}; give the path of {FILE}")
        return path
    return hub_file() if hub_file().is_file() else None


def download_weights() -> Path:
    """Fetch the weights into torch hub's folder; a UserError with the remedies if that fails."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    target = hub_file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(target), HASH, progress=False)
    except (OSError, RuntimeError) as problem:  # URLError is an OSError, a wrong hash the other
        raise UserError(
            f"no Inception weights, and they cannot be downloaded ({problem}); put {FILE} into"
            f" {target.parent}, or set {VARIABLE} to its path, or use the embedded extractor"
        ) from problem
    return target


def official_sha256(path: Path) -> str:
    """The sha256 of the official weights file; a UserError for any other.

    The file is a pickle, which could run code when it is opened: nothing is opened unhashed.
    """
    try:
        sha256 = file_sha256(path)
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror}); give {FILE}") from problem
    if sha256 != SHA256:
        raise UserError(
            f"{path} is not the official Inception weights file: its sha256 is {sha256[:16]}...,"
            f" not {SHA256[:16]}...; get {FILE} from torch-fidelity's releases"
        )
    return sha256


class InceptionExtractor(Extractor):
    """Inception with pool features (N, 2048) and logits without bias (N, 1008).

    path: its weights file.
    """

    official_inception = True

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """path: the weights; a UserError if they are not the official ones."""
        sha256 = official_sha256(path)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        name = f"inception-{HASH}"
        with rng.untouched():  # the first weights are drawn, then replaced
            network = FeatureExtractorInceptionV3(name, list(LAYERS), str(path))
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
            bytes_per_image=BYTES_PER_IMAGE,
            device=device,
        )
        self.path = path

    @classmethod
    def load(
        cls, path: Path | str | None = None, device: torch.device | str = "cpu"
    ) -> InceptionExtractor:
        """From `path`, else from find_weights, else by download."""
        return cls(find_weights(path) or download_weights(), device)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pool, logits = self.network(images)
        return pool, logits
