"""Embedded extractors: small frozen classifiers, their files, and how they are trained.

They make scores possible without Inception's 24 million parameters and 96 MB of weights: on a
laptop, offline, every few hundred steps. Their numbers are never called FID or IS. A file is
safetensors, with the recipe and the measured accuracy inside; its weights are float16 in the file
and float32 in memory. It can be read without trusting whoever wrote it, and the extractor's name is
its hash: another training is another extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.data import images as convert
from msngan.networks.classifiers import classifier
from msngan.runs import rng
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError, counted
from msngan.runs.safe_read import read_json, read_tensors, tensors_to_bytes
from msngan.scores.extractors import Extractor, file_sha256

FORMAT = "msngan-extractor-1"
SIZE = 32
FOLDER = Path(__file__).parent / "weights"
FIELDS = ("dataset", "channels", "classes", "widths")  # that a file needs


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class EmbedNet(nn.Module):
    """A classifier of 32x32 images. Input: float32 (N, channels, 32, 32) in [-1, 1].

    body: to features (N, d); head: from these to logits (N, classes).
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def residual(channels: int, classes: int, widths: Sequence[int]) -> EmbedNet:
    """A residual network of eight convolutions; the last stage averaged over the image.

    widths: channels of the four stages; the last is the number of features.
    """
    a, b, c, d = widths
    body = nn.Sequential(
        _conv(channels, a),
        _conv(a, b),
        nn.MaxPool2d(2),
        _Residual(b),
        _conv(b, c),
        nn.MaxPool2d(2),
        _Residual(c),
        _conv(c, d),
        _Mean(),
    )
    return EmbedNet(body, nn.Linear(d, classes))


def vgg7(channels: int, classes: int, widths: Sequence[int]) -> EmbedNet:
    """The classifier VGG-7 with batch norm: six convolutions without shortcuts.

    widths: one, of the first two convolutions; the features are 8 times as many.
    """
    (width,) = widths
    net = classifier("vgg7", "batch", classes, channels, SIZE, width=width)
    return EmbedNet(net.get_submodule("body"), cast(nn.Linear, net.get_submodule("head")))


NETWORKS = {"residual": residual, "vgg7": vgg7}
WIDTHS = {"residual": 4, "vgg7": 1}  # how many
# What an extractor in the package is asked for by -> its network.
REQUESTS = {"embedded": "residual", "embedded-vgg7": "vgg7"}


def file_name(dataset: str, network: str) -> str:
    """Of an extractor's file; `residual`, the first network, goes without saying."""
    return f"{dataset}{'' if network == 'residual' else f'-{network}'}.safetensors"


def shipped(network: str = "residual") -> dict[str, Path]:
    """Data set -> weights file, of the extractors in the package with this network."""
    files = {dataset: FOLDER / file_name(dataset, network) for dataset in sorted(RECIPES)}
    return {dataset: path for dataset, path in files.items() if path.exists()}


class EmbeddedExtractor(Extractor):
    """A frozen EmbedNet; `metadata`: what its file says about its training."""

    network: EmbedNet

    def __init__(
        self,
        net: EmbedNet,
        metadata: dict[str, str],
        sha256: str,
        device: torch.device | str = "cpu",
        clean: bool = False,
    ) -> None:
        network = network_of(metadata)
        kind = "embed" if network == "residual" else f"embed-{network}"
        super().__init__(
            f"{kind}-{metadata['dataset']}-{sha256[:8]}",
            sha256,
            net,
            dimensions=net.head.in_features,
            classes=net.head.out_features,
            size=SIZE,
            channels=int(metadata["channels"]),
            resize=f"bicubic-antialias-{SIZE}",
            batch=1000 if torch.device(device).type == "cuda" else 50,  # the CPU's cache is small
            device=device,
            clean=clean,
        )
        self.metadata = metadata

    @classmethod
    def load(
        cls, path: Path | str, device: torch.device | str = "cpu", clean: bool = False
    ) -> EmbeddedExtractor:
        """Read a file that save_extractor wrote; UserError for any other."""
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"no extractor file {path}; make one with `msngan extractor fit --dataset NAME`"
            )
        try:
            metadata, state = read_tensors(path)
            _check(metadata)
            widths, network = tuple(read_json(metadata["widths"])), network_of(metadata)
            if len(widths) != WIDTHS[network]:
                need = f"{network} has {counted(WIDTHS[network], 'width')}"
                raise ValueError(f"widths {metadata['widths'][:50]}, but {need}")
            with torch.device("meta"):  # nothing is allocated before the claims are checked
                make = NETWORKS[network]
                net = make(int(metadata["channels"]), int(metadata["classes"]), widths)
            net.load_state_dict(state, assign=True)
            if not all(value.isfinite().all() for value in state.values()):
                raise ValueError("its weights hold NaN or Inf")
        except (OSError, ValueError, RuntimeError, TypeError) as problem:
            reason = str(problem).splitlines()[0][:200]
            raise UserError(
                f"{path} is not a complete extractor file ({reason}); make one with"
                " `msngan extractor fit`"
            ) from problem
        return cls(net.float(), metadata, file_sha256(path), device, clean)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = convert.to_float(convert.resize(images, self.size))
        pool = self.network.body(x.contiguous(memory_format=torch.channels_last))
        return pool, self.network.head(pool)


def _check(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    if metadata["channels"] not in ("1", "3"):
        raise ValueError(f"it says {metadata['channels'][:80]} channels, which can be 1 or 3")
    if (network := network_of(metadata)) not in NETWORKS:
        raise ValueError(f"it says network {network[:80]!r}; there are {', '.join(NETWORKS)}")


def network_of(metadata: dict[str, str]) -> str:
    """The name of a file's network; files that do not say it are of the first."""
    return metadata.get("network", "residual")


def halved(net: EmbedNet) -> dict[str, Tensor]:
    """The network's state as stored: float16; ValueError if that overflows."""
    state = {}
    for name, value in net.state_dict().items():
        half = value.half() if value.is_floating_point() else value
        if half.is_floating_point() and not half.isfinite().all():
            raise ValueError(f"{name} does not fit into float16; the training has diverged")
        state[name] = half.contiguous()
    return state


def save_extractor(net: EmbedNet, path: Path | str, metadata: dict[str, str]) -> None:
    """Write `net` (any precision) with `metadata`: at least FIELDS.

    The same network and metadata give the same bytes, and so the same name.
    """
    metadata = {"format": FORMAT, **metadata}
    _check(metadata)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(tensors_to_bytes(halved(net), metadata))


@dataclass(frozen=True)
class Recipe:
    """How an extractor is trained. learning_rate is the peak, for a batch of 128.

    SGD with Nesterov momentum, one cycle of the learning rate, label smoothing, shifts by up to
    `shift` pixels and (for photographs) mirroring. A tenth of the training split is held out; the
    test split is evaluated once, at the end. network: of NETWORKS, which say what the widths are.
    """

    network: str = "residual"
    widths: tuple[int, ...] = (32, 64, 128, 192)
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    shift: int = 4
    mirror: bool = False
    seed: int = 0
    precision: str = "bfloat16"


# How the extractor of each data set is trained unless the command says otherwise.
PHOTOGRAPHS = Recipe(epochs=16, mirror=True)
STROKES = Recipe(widths=(16, 32, 64, 128), epochs=5, shift=2)

RECIPES: dict[str, Recipe] = {
    "cifar10": PHOTOGRAPHS,
    "cifar100": PHOTOGRAPHS,
    "stl10": PHOTOGRAPHS,
    "svhn": replace(PHOTOGRAPHS, mirror=False),
    "mnist": STROKES,
    "fashion": STROKES,
    "digits": Recipe(widths=(8, 16, 32, 64), epochs=60, batch_size=64, shift=2),
    "folder": replace(PHOTOGRAPHS, mirror=False),  # its images may hold text
    "hub": replace(PHOTOGRAPHS, mirror=False),
}


def _augmented(batch: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Each image shifted by whole pixels and, if asked for, mirrored, independently."""
    count, _, height, _ = batch.shape
    s = recipe.shift
    padded = F.pad(batch, (s, s, s, s), mode="reflect")
    top, left = torch.randint(0, 2 * s + 1, (2, count), generator=draw)
    coin = torch.rand(count, generator=draw) < 0.5 if recipe.mirror else None
    return convert.windows(padded, top, left, height, coin)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of uint8 images whose largest logit is their label's; in eval mode."""
    net.eval()
    right = 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        x = convert.to_float(x).contiguous(memory_format=torch.channels_last)
        right += int((net(x).argmax(1) == y).sum())
    return right / len(images)


def fit_extractor(
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    report: Callable[[int, float, float], None] = lambda epoch, loss, held_out: None,
) -> tuple[EmbedNet, float]:
    """Train on 90 % of (images, labels); returns the network and its held-out accuracy.

    images: uint8 (N, C, 32, 32); labels: int64 (N,). `report` is called after each epoch with the
    epoch, the mean training loss and the held-out accuracy.
    """
    draw = rng.generator(recipe.seed, 0, 0, "extractor")
    with rng.untouched():
        torch.manual_seed(rng.derive(recipe.seed, 0, 0, "init"))
        make = NETWORKS[recipe.network]
        net = make(images.shape[1], int(labels.max()) + 1, recipe.widths)
    net = net.to(memory_format=torch.channels_last)
    order = torch.randperm(len(images), generator=draw)
    held, train = order[: len(order) // 10], order[len(order) // 10 :]
    optimizer = torch.optim.SGD(
        net.parameters(), momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    per_epoch = len(train) // recipe.batch_size
    for epoch in range(recipe.epochs):
        net.train()
        shuffled = train[torch.randperm(len(train), generator=draw)]
        total = 0.0
        for step in range(per_epoch):
            index = shuffled[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            done = (epoch * per_epoch + step) / (recipe.epochs * per_epoch)
            for group in optimizer.param_groups:  # one cycle: up in the first fifth, then down to 0
                share = done / 0.2 if done < 0.2 else (1 - done) / 0.8
                group["lr"] = recipe.learning_rate * share
            x = _augmented(convert.to_float(images[index]), recipe, draw)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = net(x)
            loss = F.cross_entropy(
                logits.float(), labels[index], label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        report(epoch, total / per_epoch, accuracy(net, images[held], labels[held]))
    return net.eval(), accuracy(net, images[held], labels[held])
