"""ResNet-18 (He et al. 2016, arXiv:1512.03385) for small images: the paper has no residual network.

The stem is that of He et al.'s networks for CIFAR-10, a 3x3 convolution and no max pooling; the
rest is their ResNet-18 for ImageNet, with a projection wherever a block changes its shape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from msngan.networks.activations import ActivationName, activated
from msngan.networks.normed import check_norms, put_norms
from msngan.norms import NormName, SampleNorm
from msngan.norms.select import layers_of
from msngan.norms.sequence import FusedSequential


class ResidualBlock(nn.Module):
    """activation(body(x) + shortcut(x)): (N, inputs, H, W) to (N, outputs, H / stride, W / stride).

    The body is two 3x3 convolutions with an activation between them; the shortcut is a 1x1
    convolution where the shape changes, else nothing.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, name: ActivationName, slope: float, p: float
    ) -> None:
        super().__init__()
        convolutions = (
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        between = dict(zip(("activation", "dropout"), activated(name, slope, p), strict=False))
        parts = {"conv1": convolutions[0]} | between | {"conv2": convolutions[1]}
        self.body = FusedSequential(OrderedDict(parts))
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()
        self.activation = nn.Sequential(*activated(name, slope, p))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """Images (N, channels, size, size) to logits (N, classes).

    A 3x3 convolution, four stages of two blocks with 1, 2, 4 and 8 times `width` channels, each
    stage but the first halving the image, the mean over the image and a linear head. The norm goes
    on every convolution, shortcuts too; the head gets its weight part alone. An activation, and
    dropout if any, comes after the first convolution, within each block and after its sum. size: 8
    or more. A convolution has a bias where its norm puts no offset in its place, or, dead, with
    conv_bias. At width 64, 3 x 32 x 32 pixels and 10 classes: batch 11,173,962 parameters, as He et
    al. have it; none, spectral and mean_spectral 11,169,162.
    """

    def __init__(
        self,
        norm: NormName = "mean_spectral",
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        *,
        width: int | None = None,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
        conv_bias: bool = False,
        norm_options: Mapping[str, Any] | None = None,
        norm_layers: Sequence[int | str] | None = None,
        other_norm: NormName = "none",
    ) -> None:
        super().__init__()
        check_norms(norm, other_norm, norm_options)
        if size < 8:
            raise ValueError(f"resnet18 takes images of 8 pixels or more, not {size}")
        w = 64 if width is None else width
        self.stem = FusedSequential(
            nn.Conv2d(channels, w, 3, 1, 1), *activated(activation, slope, dropout)
        )
        blocks, inputs = [], w
        for factor in (1, 2, 4, 8):
            for stride in (1 if factor == 1 else 2, 1):
                blocks.append(ResidualBlock(inputs, factor * w, stride, activation, slope, dropout))
                inputs = factor * w
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)
        for layer in layers_of(self).values():
            if isinstance(layer, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852
                nn.init.kaiming_normal_(layer.weight, slope if activation == "leaky_relu" else 0.0)
        put_norms(
            self,
            norm,
            head="head",
            conv_bias=conv_bias,
            norm_options=norm_options,
            norm_layers=norm_layers,
            other_norm=other_norm,
        )
        if size == 8:
            _check_averages(self.blocks[-2:])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(images))))


def _check_averages(last: nn.Module) -> None:
    """ValueError for an instance norm in blocks whose outputs are of one pixel."""
    norms = [getattr(layer, "output_norm", None) for layer in layers_of(last).values()]
    if any(isinstance(norm, SampleNorm) and norm.over == "space" for norm in norms):
        raise ValueError(
            "an instance norm has one value per channel to average over in the last two blocks of"
            " resnet18 for images of 8x8; use 9x9 or larger, or leave them out by norm_layers"
        )
