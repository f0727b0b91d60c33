"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993) as in the paper, for CIFAR-10.

Subramanian & Chong 2019, arXiv:1907.04003, section IV-A and Table III: 100 layers, growth rate 12,
a bottleneck of 4 times that, and a compression of 0.8 where Huang et al. have 0.5.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from msngan.networks.norms_and_activations import ActivationName, activation_and_dropout, he_normal
from msngan.norms import FusedSequential

PLACEMENTS = ("before_activation", "after_layer")

if TYPE_CHECKING:
    PlacementName = str
else:
    PlacementName = Literal[PLACEMENTS]


class DenseBlock(nn.ModuleList):
    """Dense layers; each takes the block's input and the outputs of all layers before it."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self:
            # Always a new tensor, because norms and activations write over their input.
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class DenseNetBC(nn.Module):
    """Images (N, channels, size, size) to logits (N, classes).

    A 3x3 convolution (`stem`) to 2 * width channels; three blocks of `depth` dense layers (`conv1`,
    1x1 to 4 * width channels, and `conv2`, 3x3 to width), between which `conv`, 1x1 to 0.8 times
    the channels, and average pooling; the mean over the image; a linear head. An activation, and
    dropout if any, precedes each convolution but the first, and the head. size: a multiple of 4, 8
    or more. No convolution has a bias, under any norm.

    placement: where the output part of a norm goes; its weight part is on every layer.
        before_activation: on the input of an activation, as in DenseNet: an nn.Identity is there.
        Such a place belongs to the layer after it, so norm_layers selects layers together with the
        places before them. The first convolution has none.
        after_layer: on the output of each convolution, the paper's equations 6 and 7; the head gets
        the weight part only.
    At width 12, depth 16 and 3 x 32 x 32: none and spectral 978,772 parameters; batch 1,009,730
    (985,506 after_layer); mean_spectral 994,251 (982,139 after_layer).
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        *,
        width: int = 12,
        depth: int = 16,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
        placement: PlacementName = "before_activation",
    ) -> None:
        super().__init__()
        if size < 8 or size % 4:
            raise ValueError(
                f"densenet_bc takes images of a multiple of 4 and at least 8, not {size}"
            )

        def activations(number: str = "") -> dict[str, nn.Module]:
            parts = activation_and_dropout(activation, slope, dropout)
            made = dict(zip(("activation", "dropout"), parts, strict=False))
            place = {"norm": nn.Identity()} if placement == "before_activation" else {}
            return {f"{name}{number}": part for name, part in (place | made).items()}

        def dense_layer(inputs: int) -> nn.Module:
            first = activations("1") | {"conv1": nn.Conv2d(inputs, 4 * width, 1, bias=False)}
            conv2 = nn.Conv2d(4 * width, width, 3, padding=1, bias=False)
            return _sequence(first | activations("2") | {"conv2": conv2})

        features = 2 * width
        self.stem = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for last in (False, False, True):
            blocks.append(DenseBlock(dense_layer(features + i * width) for i in range(depth)))
            features += depth * width
            if not last:
                kept = features * 4 // 5
                conv = {"conv": nn.Conv2d(features, kept, 1, bias=False), "pool": nn.AvgPool2d(2)}
                blocks.append(_sequence(activations() | conv))
                features = kept
        self.blocks = nn.Sequential(*blocks)
        pooled = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        self.last = _sequence(activations() | pooled)
        self.head = nn.Linear(features, classes)
        he_normal(self, activation, slope)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(images))))


def _sequence(parts: dict[str, nn.Module]) -> nn.Module:
    return FusedSequential(OrderedDict(parts))
