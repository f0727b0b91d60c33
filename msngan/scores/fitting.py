"""Training of an embedded extractor: the recipe behind every file in msngan/scores/weights.

SGD with Nesterov momentum, one cycle of the learning rate, label smoothing, shifts by up to four
pixels and (for photographs) mirroring. A tenth of the training split is held out to watch, the test
split is looked at once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.data import images as convert
from msngan.runs import rng
from msngan.scores.embedded import EmbedNet


@dataclass(frozen=True)
class Recipe:
    """How an extractor is trained. learning_rate is the peak, for a batch of 128."""

    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    shift: int = 4
    mirror: bool = False
    seed: int = 0
    precision: str = "bfloat16"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def _augmented(batch: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Each image shifted by its own whole pixels, mirrored by its own coin."""
    count, _, height, _ = batch.shape
    s = recipe.shift
    padded = F.pad(batch, (s, s, s, s), mode="reflect")
    top, left = torch.randint(0, 2 * s + 1, (2, count), generator=draw)
    coin = torch.rand(count, generator=draw) < 0.5 if recipe.mirror else None
    return convert.windows(padded, top, left, height, coin)


def _one_cycle(optimizer: torch.optim.Optimizer, peak: float, done: float) -> None:
    """The rate rises to its peak over the first fifth, then falls to zero; `done` in [0, 1]."""
    for group in optimizer.param_groups:
        group["lr"] = peak * (done / 0.2 if done < 0.2 else (1 - done) / 0.8)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of uint8 images whose largest logit is at their label; eval mode, no flips."""
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
        net = EmbedNet(images.shape[1], int(labels.max()) + 1, recipe.widths)
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
            _one_cycle(optimizer, recipe.learning_rate, done)
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
