"""Embedded extractors as files: safetensors with the recipe and the measured accuracy inside.

Weights are float16 in the file and float32 in memory. A file can be read without trusting whoever
wrote it, and its name as an extractor is its hash: another training is another extractor.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from msngan.data import images as convert
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError
from msngan.runs.safe_read import read_json, read_tensors, tensors_to_bytes
from msngan.scores.embedded import EmbedNet
from msngan.scores.interface import Extractor, file_sha256

FORMAT = "msngan-extractor-1"
SIZE = 32
FOLDER = Path(__file__).parent / "weights"
FIELDS = (
    "format",
    "dataset",
    "channels",
    "classes",
    "widths",
    "recipe",
    "train_images",
    "held_out_accuracy",
    "test_accuracy",
)


def shipped() -> dict[str, Path]:
    """Data set -> weights file of the extractors that come with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


class EmbeddedExtractor(Extractor):
    """A frozen EmbedNet; `metadata` is what its file says about its training."""

    network: EmbedNet

    def __init__(
        self,
        net: EmbedNet,
        metadata: dict[str, str],
        sha256: str,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            f"embed-{metadata['dataset']}-{sha256[:8]}",
            sha256,
            net,
            dimensions=net.head.in_features,
            classes=net.head.out_features,
            size=SIZE,
            channels=int(metadata["channels"]),
            resize=f"bicubic-antialias-{SIZE}",
            batch=1000 if torch.device(device).type == "cuda" else 50,  # the CPU's cache is small
            device=device,
        )
        self.metadata = metadata

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> EmbeddedExtractor:
        """Read a file that save_extractor wrote; anything else is a UserError."""
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"no extractor file {path}; make one with `msngan extractor fit --dataset NAME`"
            )
        try:
            metadata, state = read_tensors(path)
            _check(metadata)
            net = _network(metadata, state)
            net.load_state_dict({name: _loaded(value) for name, value in state.items()})
        except (OSError, ValueError, RuntimeError, TypeError) as problem:
            reason = str(problem).splitlines()[0][:200]
            raise UserError(
                f"{path} is not a whole extractor file ({reason}); make one with"
                " `msngan extractor fit`"
            ) from problem
        return cls(net, metadata, file_sha256(path), device)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = convert.to_float(convert.resize(images, self.size))
        pool = self.network.features(x.contiguous(memory_format=torch.channels_last))
        return pool, self.network.head(pool)


def _loaded(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    if not value.isfinite().all():
        raise ValueError("its weights hold NaN or Inf")
    return value.float()


def _check(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    if metadata["channels"] not in ("1", "3"):
        raise ValueError(f"it says {metadata['channels'][:80]} channels, which can be 1 or 3")


def _network(metadata: dict[str, str], state: dict[str, Tensor]) -> EmbedNet:
    """The network that the metadata describe, where it is the one that the tensors are of."""
    widths = tuple(read_json(metadata["widths"]))
    if len(widths) != 4 or not all(type(w) is int and 0 < w <= 4096 for w in widths):
        raise ValueError(f"its widths are {metadata['widths'][:80]}")
    if not 0 < int(metadata["classes"]) <= 10**6:
        raise ValueError(f"it says {metadata['classes'][:80]} classes")
    with torch.device("meta"):  # of what it claims nothing is built that is not in the file
        claimed = EmbedNet(int(metadata["channels"]), int(metadata["classes"]), widths).state_dict()
    if {name: x.shape for name, x in claimed.items()} != {
        name: x.shape for name, x in state.items()
    }:
        raise ValueError("its tensors are not those of the network that it describes")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, then replaced
        return EmbedNet(int(metadata["channels"]), int(metadata["classes"]), widths)


def halved(net: EmbedNet) -> dict[str, Tensor]:
    """The network's state as it is stored: float16, refused where that overflows."""
    state = {}
    for name, value in net.state_dict().items():
        half = value.half() if value.is_floating_point() else value
        if half.is_floating_point() and not half.isfinite().all():
            raise ValueError(f"{name} does not fit into float16; the training has diverged")
        state[name] = half.contiguous()
    return state


def save_extractor(net: EmbedNet, path: Path | str, metadata: dict[str, str]) -> None:
    """Write `net` (any precision) with `metadata`, which must have every one of FIELDS but format.

    The same network and metadata give the same bytes, and so the same name.
    """
    metadata = {"format": FORMAT, **metadata}
    _check(metadata)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(tensors_to_bytes(halved(net), metadata))
