"""CLASSIFIERS: the paper's networks for MNIST and SVHN, and a residual one, with norms.

Subramanian & Chong 2019, arXiv:1907.04003, section IV-A and Table III. The paper has no residual
network; this one is that of He et al. 2016, arXiv:1512.03385. DenseNet-BC (Huang et al. 2017,
arXiv:1608.06993) is the paper's: 100 layers, growth rate 12, a bottleneck of 4 times that, and a
compression of 0.8 where Huang et al. have 0.5.

Each takes images (N, channels, size, size) to logits (N, classes). An activation, and dropout if
any, follows each convolution; the head is linear. `classifier` puts the norms on.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from msngan.networks.norms_and_activations import (
    ActivationName,
    activation_and_dropout,
    he_normal,
    put_norms,
    refuse_instance_norm,
)
from msngan.networks.released import released
from msngan.norms import FusedSequential, NormName, configured, layers_of

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


class CNN3(nn.Module):
    """Three convolutions: 5x5 to `width` channels, 3x3 to twice and 4x4 of stride 2 to as many.

    All have padding 2, so that the 3x3 convolution enlarges the image by 2. At width 16, 28 x 28
    grey pixels and 10 classes: 103,402 parameters without a norm.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
        *,
        width: int = 16,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        w = width
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (channels, w, 5, 1),
            (w, 2 * w, 3, 1),
            (2 * w, 2 * w, 4, 2),
        ):
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding=2))
            layers += activation_and_dropout(activation, slope, dropout)
        self.body = FusedSequential(*layers, nn.Flatten())
        side = (size + 2) // 2 + 1
        self.head = nn.Linear(2 * w * side**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class VGG7(nn.Module):
    """Six 3x3 convolutions to 1, 1, 2, 2, 4 and 8 times `width` channels, the last without padding.

    2x2 max pooling follows the second, fourth, fifth and sixth. At width 32, 32 x 32 pixels in
    colour and 10 classes: 437,162 parameters without a norm. size: a multiple of 8, 32 or more.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        *,
        width: int = 32,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size < 32 or size % 8:
            raise ValueError(
                f"vgg7 takes images of 32 pixels or a larger multiple of 8, not {size}"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for factor, pooled in ((1, False), (1, True), (2, False), (2, True), (4, True), (8, True)):
            layers.append(nn.Conv2d(inputs, factor * width, 3, padding=0 if factor == 8 else 1))
            layers += activation_and_dropout(activation, slope, dropout)
            layers += [nn.MaxPool2d(2)] if pooled else []
            inputs = factor * width
        self.body = FusedSequential(*layers, nn.Flatten())
        self.head = nn.Linear(inputs * ((size // 8 - 2) // 2) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class ResidualBlock(nn.Module):
    """activation(body(x) + shortcut(x)): (N, inputs, H, W) to (N, outputs, H / stride, W / stride).

    The body is two 3x3 convolutions with an activation between them; the shortcut is a 1x1
    convolution where the shape changes, else the identity.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, name: ActivationName, slope: float, p: float
    ) -> None:
        super().__init__()
        convolutions = (
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        activations = activation_and_dropout(name, slope, p)
        between = dict(zip(("activation", "dropout"), activations, strict=False))
        parts = {"conv1": convolutions[0]} | between | {"conv2": convolutions[1]}
        self.body = FusedSequential(OrderedDict(parts))
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()
        self.activation = nn.Sequential(*activation_and_dropout(name, slope, p))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 with the stem of He et al.'s networks for CIFAR-10: 3x3, and no max pooling.

    Four stages of two blocks with 1, 2, 4 and 8 times `width` channels, each stage but the first
    halving the image, and the mean over the image. An activation follows the first convolution, the
    first of each block and each block's sum. size: 8 or more. At width 64, 3 x 32 x 32 pixels and
    10 classes: batch 11,173,962 parameters, as He et al. have it; none, spectral and mean_spectral
    11,169,162.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        *,
        width: int = 64,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"resnet18 takes images of 8 pixels or more, not {size}")
        self.stem = FusedSequential(
            nn.Conv2d(channels, width, 3, 1, 1), *activation_and_dropout(activation, slope, dropout)
        )
        blocks, inputs = [], width
        for factor in (1, 2, 4, 8):
            for stride in (1 if factor == 1 else 2, 1):
                outputs = factor * width
                blocks.append(ResidualBlock(inputs, outputs, stride, activation, slope, dropout))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)
        he_normal(self, activation, slope)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(images))))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn3": CNN3,
    "vgg7": VGG7,
    "densenet_bc": DenseNetBC,
    "resnet18": ResNet18,
}


def classifier(
    network: str,
    norm: NormName = "mean_spectral",
    classes: int = 10,
    channels: int | None = None,
    size: int | None = None,
    *,
    width: int | None = None,
    depth: int | None = None,
    activation: ActivationName = "leaky_relu",
    slope: float = 0.1,
    dropout: float = 0.0,
    conv_bias: bool = False,
    placement: PlacementName = "before_activation",
    as_released: bool = False,
    norm_options: Mapping[str, Any] | None = None,
    norm_layers: Sequence[int | str] | None = None,
    other_norm: NormName = "none",
) -> nn.Module:
    """A network: images (N, channels, size, size), float, to logits (N, classes).

    The norm goes on every layer; the head gets its weight part only. Biases that the norm cancels
    are not created unless conv_bias. None for channels, size, width and depth: the network's own.
    placement: see DenseNetBC; in the other networks both are the same place. as_released: the form
    of the authors' code (see `msngan.networks.released`), which has its own activation, slope,
    dropout, conv_bias and placement, whatever is given here. One seed gives the same first weights
    under every norm.

    Raises ValueError for what the network or the norm cannot have.
    """
    make = NETWORKS[network]
    shape = {"classes": classes, "channels": channels, "size": size, "width": width, "depth": depth}
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    if depth is not None and "depth" not in signature(make).parameters:
        raise ValueError(f"{network} has the depth that its name says; leave depth out")
    for name, least in (("classes", 2), ("size", 1), ("width", 1), ("depth", 1)):
        if given.get(name, least) < least:
            raise ValueError(f"{name} {given[name]} is less than {least}")
    if given.get("channels", 1) not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    if not 0 <= slope < math.inf:
        raise ValueError(f"slope {slope} is negative or not finite; 0.1 is the paper's")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is not in [0, 1)")
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    if as_released:
        if norm_layers is not None or other_norm != "none":
            raise ValueError(
                "as_released says which layers have which norm; leave norm_layers and other_norm"
                " out, or as_released"
            )
        return released(make, network, norm, norm_options, **given)
    configured(norm, norm_options or {})
    configured(other_norm, {})
    dense = network == "densenet_bc"
    if dense and conv_bias:
        raise ValueError("densenet_bc has no convolution with a bias to keep; leave conv_bias out")
    given |= {"placement": placement} if dense else {}
    made = make(activation=activation, slope=slope, dropout=dropout, **given)
    put_norms(
        made,
        norm,
        conv_bias=conv_bias,
        norm_options=norm_options,
        norm_layers=norm_layers,
        other_norm=other_norm,
        before_activation=dense and placement == "before_activation",
    )
    if isinstance(made, ResNet18) and size == 8:
        refuse_instance_norm(
            layers_of(made.blocks[-2:]).values(),
            "the last two blocks of resnet18 for images of 8x8; use 9x9 or larger",
        )
    return made


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    name: partial(classifier, name) for name in NETWORKS
}

if TYPE_CHECKING:
    ClassifierName = str
else:
    ClassifierName = Literal[tuple(NETWORKS)]
