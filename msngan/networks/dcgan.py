"""The DCGAN generator and the critic of convolutions of the SNGAN paper and of Table II.

Miyato et al. 2018, arXiv:1802.05957, table 3 ("standard CNN"); Subramanian & Chong 2019,
arXiv:1907.04003, section IV-C. Both halve images three times. The deep ones halve them down to a
map of 4 to 7 pixels, as the DCGAN for 64 pixels does (Radford et al. 2016, arXiv:1511.06434).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from msngan.networks.conditional import (
    Conditioning,
    add_heads,
    batch_norm,
    class_logits,
    sequential,
)
from msngan.networks.norms_and_activations import put_norms, refuse_instance_norm
from msngan.norms import FusedSequential, NormName, configured


def check(width: int, channels: int) -> None:
    """ValueError for a width or channels of images that no network has."""
    if width < 1:
        raise ValueError(f"width {width} is not positive")
    if channels not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")


def _stages(size: int, deep: bool) -> int:
    """How many layers of stride 2 there are for images of this size; ValueError if they do not fit.

    deep: down to 4, 5, 6 or 7 pixels; else three.
    """
    if not deep:
        if size < 8 or size % 8:
            raise ValueError(
                f"image size {size} is not a multiple of 8; choose 32 or 64 for example"
            )
        return 3
    stages = size.bit_length() - 3
    if size < 32 or size % 2**stages:
        raise ValueError(
            f"image size {size} is not 4, 5, 6 or 7 times a power of two from 8 up; choose 64, 96"
            " or 128 for example"
        )
    return stages


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2) and zero biases, as in DCGAN and the SNGAN recipes."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(bias)


class Generator(nn.Module):
    """z (N, latent_dim) ~ N(0, 1) to images (N, channels, size, size), float, in [-1, 1].

    A linear layer to (8 * width, size / 8, size / 8), three transposed 4x4 convolutions of stride 2
    to 4, 2 and 1 times width, a 3x3 convolution and tanh, with batch norm and ReLU between. At size
    32 and width 64 this is Miyato's. The linear layer is the same map as the paper's transposed 4x4
    convolution of a 1x1 image. Layers before a batch norm have no bias, which it would cancel.

    classes: number of classes; the batch norms are then conditional, and labels, int64 (N,), are
    given beside z. deep: begin with 4 pixels at 64 and 128, 6 at 96, and at most 16 times width;
    see `_stages`.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        width: int = 64,
        channels: int = 3,
        size: int = 32,
        classes: int = 0,
        deep: bool = False,
    ) -> None:
        super().__init__()
        check(width, channels)
        if latent_dim < 1:
            raise ValueError(f"latent_dim {latent_dim} is not positive")
        stages = _stages(size, deep)
        inputs = min(2**stages, 16) * width
        self.latent_dim, self.classes, self.bottom = latent_dim, classes, size // 2**stages
        self.stem = nn.Linear(latent_dim, inputs * self.bottom**2, bias=False)
        layers: list[nn.Module] = [batch_norm(inputs, classes), nn.ReLU()]
        for stage in reversed(range(stages)):
            outputs = min(2**stage, 16) * width
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                batch_norm(outputs, classes),
                nn.ReLU(),
            ]
            inputs = outputs
        self.body = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, 1, 1), nn.Tanh())
        self.apply(_initialise)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(z).unflatten(1, (-1, self.bottom, self.bottom))
        return sequential(self.body, x, labels)


class Critic(nn.Module):
    """Images (N, channels, size, size) in [-1, 1] to logits (N,), higher is real.

    Seven convolutions, alternately 3x3 and 4x4 of stride 2, LeakyReLU, and a linear head. The norm
    goes on every convolution; the head gets its weight part only. Biases that the norm cancels are
    not created unless conv_bias. At width 64, size 32 and 3 channels: none and spectral 2,935,873
    parameters; batch 2,937,281 (2,938,689 with conv_bias, as in Table III); `msngan params` lists
    all. One seed gives the same first weights under every norm.

    norm_options: the options of the norm, by name. norm_layers: the layers that get the norm, as in
    `msngan.norms.convert` (indices 0 to 6 are the convolutions, 7 the head); None: all. other_norm:
    the norm of the other layers. wide: increase the channels in the convolutions of stride 2, as
    the official SNGAN code does (5,860,865 parameters); else in those after them, as in Table III.
    deep: nine convolutions at 64 and 96 pixels, eleven at 128, down to a map of 4 pixels (6 at 96),
    and at most 16 times width; see `_stages`. classes, conditioning: a second head for this many
    classes, see `conditional.add_heads`.
    """

    def __init__(
        self,
        norm: NormName = "mean_spectral",
        width: int = 64,
        channels: int = 3,
        size: int = 32,
        slope: float = 0.1,
        conv_bias: bool = False,
        wide: bool = False,
        deep: bool = False,
        norm_options: Mapping[str, Any] | None = None,
        norm_layers: Sequence[int | str] | None = None,
        other_norm: NormName = "none",
        classes: int = 0,
        conditioning: Conditioning = "projection",
    ) -> None:
        super().__init__()
        check(width, channels)
        stages = _stages(size, deep)
        configured(norm, norm_options or {})
        configured(other_norm, {})
        layers: list[nn.Module] = []
        inputs = channels
        for index in range(2 * stages + 1):
            kernel, stride = (4, 2) if index % 2 else (3, 1)
            outputs = min(2 ** ((index + wide) // 2), 16) * width
            layers += [
                nn.Conv2d(inputs, outputs, kernel, stride, 1),
                nn.LeakyReLU(slope, inplace=True),
            ]
            inputs = outputs
        self.body = FusedSequential(*layers, nn.Flatten())
        features = inputs * (size // 2**stages) ** 2
        add_heads(self, features, classes, conditioning)
        self.apply(_initialise)  # before a norm looks at the weights
        put_norms(
            self,
            norm,
            conv_bias=conv_bias,
            norm_options=norm_options,
            norm_layers=norm_layers,
            other_norm=other_norm,
        )
        if size == 8:
            refuse_instance_norm(
                [self.body[-3]],  # of size / 8
                "the last convolution of a critic of 8x8 images; use 16x16 or larger",
            )

    def forward(
        self, images: Tensor, labels: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        return class_logits(self, self.body(images), labels)
