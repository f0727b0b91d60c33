"""SNGAN's residual generator and critic, for 32, 48, 64 and 128 pixels.

Miyato et al. 2018, arXiv:1802.05957, appendix B.4: table 4 has those for 32 pixels (CIFAR-10),
table 5 those for 48 (STL-10), table 6 those for 128 (ImageNet). Those for 64 have one stage less
than those for 128, as in the authors' code. `width` is that of the map with the most pixels; the
published networks are

| size | generator's width | its parameters | critic's width | its parameters |
|---|---|---|---|---|
| 32 | 256 | 4,274,435 | 128 | 1,053,825 |
| 48 | 64 | 4,876,739 | 64 | 10,141,441 |
| 64 | 64 | 12,217,795 | 64 | 10,141,441 |
| 128 | 64 | 32,144,835 | 64 | 29,017,857 |

The critics' numbers are the published ones (norms none, spectral and mean_spectral). The published
generators have 4,276,739 and 12,220,675, with biases in the convolutions of their blocks. Such a
bias shifts a channel by the same everywhere, in all that follows it, and the batch norms cancel it;
here it is not created.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from msngan.networks.attention import with_attention
from msngan.networks.conditional import (
    Conditioning,
    add_heads,
    batch_norm,
    class_logits,
    sequential,
)
from msngan.networks.dcgan import check
from msngan.networks.norms_and_activations import put_norms
from msngan.norms import FusedSequential, NormName, configured, layers_of


class Stages(NamedTuple):
    """The channels of each map, as factors of width.

    bottom: pixels of the linear layer's map. generator: of that map, and after each block, which
    doubles it. critic: after each block. halved: how many blocks, from the first on, halve the map.
    """

    bottom: int
    generator: tuple[int, ...]
    critic: tuple[int, ...]
    halved: int


STAGES = {
    32: Stages(4, (1, 1, 1, 1), (1, 1, 1, 1), 2),
    48: Stages(6, (8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    64: Stages(4, (16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 5),
    128: Stages(4, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
}


def _stages(width: int, channels: int, size: int) -> Stages:
    check(width, channels)
    if size not in STAGES:
        *others, last = STAGES
        known = f"{', '.join(map(str, others))} or {last}"
        raise ValueError(f"image size {size} is not {known}, which the residual networks are for")
    return STAGES[size]


class UpBlock(nn.Module):
    """body(x) + shortcut(x): (N, inputs, H, W) to (N, outputs, 2H, 2W).

    The body: batch norm, ReLU, nearest upsampling, 3x3 convolution, batch norm, ReLU, 3x3
    convolution. The shortcut: 1x1 convolution, upsampling; the paper has them the other way round,
    which gives the same at four times the cost. classes: the batch norms are conditional.
    """

    def __init__(self, inputs: int, outputs: int, classes: int = 0) -> None:
        super().__init__()
        self.norm1, self.activation1 = batch_norm(inputs, classes), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.norm2, self.activation2 = batch_norm(outputs, classes), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.doubled = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        shortcut = self.doubled(self.shortcut(x))
        body = [self.norm1, self.activation1, self.doubled, self.conv1]
        body += [self.norm2, self.activation2, self.conv2]
        return sequential(body, x, labels) + shortcut


class DownBlock(nn.Module):
    """body(x) + shortcut(x): (N, inputs, H, W) to (N, outputs, H / 2, W / 2).

    The body: ReLU, 3x3 convolution, ReLU, 3x3 convolution, mean of 2x2 pixels. The shortcut: mean
    of 2x2, 1x1 convolution; the paper has them the other way round in all blocks but the first,
    which gives the same at four times the cost, batch, layer and instance norm excepted.

    first: of images: the body begins with the convolution. down: without, the map keeps its size,
    and the shortcut is the identity if the channels stay the same.
    """

    def __init__(
        self, inputs: int, outputs: int, *, first: bool = False, down: bool = True
    ) -> None:
        super().__init__()
        hidden = outputs if first else inputs
        # The first activation is not in place, because the shortcut reads its input too.
        parts: dict[str, nn.Module] = {} if first else {"activation1": nn.ReLU()}
        parts["conv1"] = nn.Conv2d(inputs, hidden, 3, 1, 1)
        parts["activation2"] = nn.ReLU(inplace=True)
        parts["conv2"] = nn.Conv2d(hidden, outputs, 3, 1, 1)
        pool: dict[str, nn.Module] = {"pool": nn.AvgPool2d(2)} if down else {}
        self.body = FusedSequential(OrderedDict(parts | pool))
        changes = down or inputs != outputs
        conv = {"conv": nn.Conv2d(inputs, outputs, 1)}
        self.shortcut = nn.Sequential(OrderedDict(pool | conv)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return self.body(x) + shortcut


@torch.no_grad()
def _initialise(network: nn.Module) -> None:
    """Glorot's uniform weights, times sqrt(2) in the 3x3 convolutions of blocks; zero biases."""
    for name, layer in layers_of(network).items():
        nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
        if name.endswith((".conv1", ".conv2")):
            layer.weight *= math.sqrt(2)  # type: ignore[operator, assignment]
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class ResidualGenerator(nn.Module):
    """z (N, latent_dim) ~ N(0, 1) to images (N, channels, size, size), float, in [-1, 1].

    A linear layer to a 4x4 map (6x6 at 48), an UpBlock for each doubling, batch norm, ReLU, a 3x3
    convolution to the image, tanh. width: channels of the last map. attention: size in pixels of
    the map after which self-attention is put; None: none. classes: number of classes; the blocks'
    batch norms are then conditional, and labels, int64 (N,), are given beside z.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        width: int = 256,
        channels: int = 3,
        size: int = 32,
        classes: int = 0,
        attention: int | None = None,
    ) -> None:
        super().__init__()
        stages = _stages(width, channels, size)
        if latent_dim < 1:
            raise ValueError(f"latent_dim {latent_dim} is not positive")
        self.latent_dim, self.classes = latent_dim, classes
        widths = [factor * width for factor in stages.generator]
        self.bottom = stages.bottom
        self.stem = nn.Linear(latent_dim, widths[0] * self.bottom**2)
        outputs = [(each, self.bottom * 2**index) for index, each in enumerate(widths)][1:]
        blocks = [UpBlock(*each, classes) for each in pairwise(widths)]
        self.blocks = with_attention(blocks, outputs, attention)
        self.norm, self.activation = batch_norm(width), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(width, channels, 3, 1, 1)
        _initialise(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(z).unflatten(1, (-1, self.bottom, self.bottom))
        for block in self.blocks:
            x = block(x, labels) if isinstance(block, UpBlock) else block(x)
        return self.conv(self.activation(self.norm(x))).tanh()


class ResidualCritic(nn.Module):
    """Images (N, channels, size, size) in [-1, 1] to logits (N,), higher is real.

    A DownBlock for each halving and, but at 64 pixels, blocks that keep the size; ReLU, the sum
    over the map and a linear head. The norm goes on every convolution, those of shortcuts and of
    self-attention too; the head gets its weight part only. Biases that the norm cancels are not
    created unless conv_bias. One seed gives the same first weights under every norm.

    width: channels of the first block's map. norm_options, norm_layers and other_norm as in
    `msngan.networks.Critic`. attention: size in pixels of the map after which self-attention is
    put; None: none. classes, conditioning: a second head for this many classes, see
    `conditional.add_heads`. As in the paper, activations are ReLU: there is no slope.
    """

    def __init__(
        self,
        norm: NormName = "mean_spectral",
        width: int = 128,
        channels: int = 3,
        size: int = 32,
        conv_bias: bool = False,
        norm_options: Mapping[str, Any] | None = None,
        norm_layers: Sequence[int | str] | None = None,
        other_norm: NormName = "none",
        classes: int = 0,
        conditioning: Conditioning = "projection",
        attention: int | None = None,
    ) -> None:
        super().__init__()
        stages = _stages(width, channels, size)
        configured(norm, norm_options or {})
        configured(other_norm, {})
        widths = [channels, *(factor * width for factor in stages.critic)]
        blocks, outputs, pixels = [], [], size
        for index, (each, following) in enumerate(pairwise(widths)):
            down = index < stages.halved
            blocks.append(DownBlock(each, following, first=index == 0, down=down))
            pixels = pixels // 2 if down else pixels
            outputs.append((following, pixels))
        self.blocks = with_attention(blocks, outputs, attention)
        self.activation = nn.ReLU(inplace=True)
        add_heads(self, widths[-1], classes, conditioning)
        _initialise(self)  # before a norm looks at the weights
        put_norms(
            self,
            norm,
            conv_bias=conv_bias,
            norm_options=norm_options,
            norm_layers=norm_layers,
            other_norm=other_norm,
        )

    def forward(
        self, images: Tensor, labels: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = self.activation(self.blocks(images))
        return class_logits(self, x.sum((2, 3)), labels)
