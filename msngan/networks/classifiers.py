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
    Activation,
    ActivationName,
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


class DenseNetBC(nn.Sequential):
    """Three blocks of `depth` dense layers, 1x1 to 4 * width channels and 3x3 to width.

    Before them a 3x3 convolution to 2 * width channels; between them a 1x1 convolution to 0.8 times
    the channels, and average pooling. An activation, and dropout if any, precedes each convolution
    but the first, and the head. size: a multiple of 4, 8 or more. No convolution has a bias.

    placement: where the output part of a norm goes; its weight part is on every layer.
        before_activation: on the input of an activation, as in DenseNet: an nn.Identity is there.
        Such a place belongs to the layer after it, with which norm_layers selects it.
        after_layer: on the output of each convolution, the paper's equations 6 and 7.
    At width 12, depth 16 and 3 x 32 x 32: none and spectral 978,772 parameters; batch 1,009,730
    (985,506 after_layer); mean_spectral 994,251 (982,139 after_layer).
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        size: int,
        width: int,
        activation: Activation,
        depth: int,
        placement: PlacementName = "before_activation",
    ) -> None:
        if size < 8 or size % 4:
            raise ValueError(
                f"densenet_bc takes images of a multiple of 4 and at least 8, not {size}"
            )

        def activations(number: str = "") -> dict[str, nn.Module]:
            place = {"norm": nn.Identity()} if placement == "before_activation" else {}
            return {f"{name}{number}": part for name, part in (place | activation.parts()).items()}

        def dense_layer(inputs: int) -> nn.Module:
            first = activations("1") | {"conv1": nn.Conv2d(inputs, 4 * width, 1, bias=False)}
            conv2 = nn.Conv2d(4 * width, width, 3, padding=1, bias=False)
            return _sequence(first | activations("2") | {"conv2": conv2})

        features = 2 * width
        stem = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for last in (False, False, True):
            blocks.append(DenseBlock(dense_layer(features + i * width) for i in range(depth)))
            features += depth * width
            if not last:
                kept = features * 4 // 5
                conv = {"conv": nn.Conv2d(features, kept, 1, bias=False), "pool": nn.AvgPool2d(2)}
                blocks.append(_sequence(activations() | conv))
                features = kept
        pooled = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        parts = {"stem": stem, "blocks": nn.Sequential(*blocks)}
        parts["last"] = _sequence(activations() | pooled)
        parts["head"] = nn.Linear(features, classes)
        super().__init__(OrderedDict(parts))
        activation.initialise(self)


def _sequence(parts: dict[str, nn.Module]) -> nn.Module:
    return FusedSequential(OrderedDict(parts))


class CNN3(nn.Sequential):
    """Three convolutions: 5x5 to `width` channels, 3x3 to twice and 4x4 of stride 2 to as many.

    All have padding 2, so that the 3x3 convolution enlarges the image by 2. At width 16, 28 x 28
    grey pixels and 10 classes: 103,402 parameters without a norm.
    """

    def __init__(
        self, classes: int, channels: int, size: int, width: int, activation: Activation
    ) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (channels, width, 5, 1),
            (width, 2 * width, 3, 1),
            (2 * width, 2 * width, 4, 2),
        ):
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding=2))
            layers += activation.parts().values()
        body = FusedSequential(*layers, nn.Flatten())
        head = nn.Linear(2 * width * ((size + 2) // 2 + 1) ** 2, classes)
        super().__init__(OrderedDict(body=body, head=head))


class VGG7(nn.Sequential):
    """Six 3x3 convolutions to 1, 1, 2, 2, 4 and 8 times `width` channels, the last without padding.

    2x2 max pooling follows the second, fourth, fifth and sixth. At width 32, 32 x 32 pixels in
    colour and 10 classes: 437,162 parameters without a norm. size: a multiple of 8, 32 or more.
    """

    def __init__(
        self, classes: int, channels: int, size: int, width: int, activation: Activation
    ) -> None:
        if size < 32 or size % 8:
            raise ValueError(
                f"vgg7 takes images of 32 pixels or a larger multiple of 8, not {size}"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for factor, pooled in ((1, False), (1, True), (2, False), (2, True), (4, True), (8, True)):
            layers.append(nn.Conv2d(inputs, factor * width, 3, padding=0 if factor == 8 else 1))
            layers += activation.parts().values()
            layers += [nn.MaxPool2d(2)] if pooled else []
            inputs = factor * width
        body = FusedSequential(*layers, nn.Flatten())
        head = nn.Linear(inputs * ((size // 8 - 2) // 2) ** 2, classes)
        super().__init__(OrderedDict(body=body, head=head))


class ResidualBlock(nn.Module):
    """activation(body(x) + shortcut(x)): (N, inputs, H, W) to (N, outputs, H / stride, W / stride).

    The body is two 3x3 convolutions with an activation between them; the shortcut is a 1x1
    convolution where the shape changes, else the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.body = _sequence({"conv1": conv1} | activation.parts() | {"conv2": conv2})
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()
        self.activation = nn.Sequential(*activation.parts().values())

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 with the stem of He et al.'s networks for CIFAR-10: 3x3, and no max pooling.

    Four stages of two blocks with 1, 2, 4 and 8 times `width` channels, each stage but the first
    halving the image, and the mean over the image. An activation follows the first convolution, the
    first of each block and each block's sum. size: 8 or more. At width 64, 3 x 32 x 32 pixels and
    10 classes: batch 11,173,962 parameters, as He et al. have it; none, spectral and mean_spectral
    11,169,162.
    """

    blocks: nn.Sequential

    def __init__(
        self, classes: int, channels: int, size: int, width: int, activation: Activation
    ) -> None:
        if size < 8:
            raise ValueError(f"resnet18 takes images of 8 pixels or more, not {size}")
        first = nn.Conv2d(channels, width, 3, 1, 1)
        stem = FusedSequential(first, *activation.parts().values())
        blocks, inputs = [], width
        for factor in (1, 2, 4, 8):
            for stride in (1 if factor == 1 else 2, 1):
                blocks.append(ResidualBlock(inputs, factor * width, stride, activation))
                inputs = factor * width
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        head = nn.Linear(inputs, classes)
        parts = {"stem": stem, "blocks": nn.Sequential(*blocks), "pool": pool, "head": head}
        super().__init__(OrderedDict(parts))
        activation.initialise(self)


# The networks with the shapes that their papers have.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn3": partial(CNN3, channels=1, size=28, width=16),
    "vgg7": partial(VGG7, channels=3, size=32, width=32),
    "densenet_bc": partial(DenseNetBC, channels=3, size=32, width=12, depth=16),
    "resnet18": partial(ResNet18, channels=3, size=32, width=64),
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
    made = make(activation=Activation(activation, slope, dropout), **given)
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
