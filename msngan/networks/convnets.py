"""Classifiers: the paper's networks for MNIST and SVHN, and ResNet-18 for small images.

Subramanian & Chong 2019, arXiv:1907.04003, section IV-A and Table III. The paper has no residual
network; this one is that of He et al. 2016, arXiv:1512.03385.

Each takes images (N, channels, size, size) to logits (N, classes). An activation, and dropout if
any, follows each convolution; the head is linear. `msngan.networks.classifiers` puts the norms on.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from msngan.networks.norms_and_activations import ActivationName, activation_and_dropout, he_normal
from msngan.norms import FusedSequential


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
