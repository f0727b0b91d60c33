"""The paper's seven-layer VGG network for SVHN (Table III; arXiv:1907.04003, section IV-A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from msngan.networks.activations import ActivationName, activated
from msngan.networks.normed import check_norms, put_norms
from msngan.norms import NormName
from msngan.norms.sequence import FusedSequential


class VGG7(nn.Module):
    """Images (N, channels, size, size) to logits (N, classes).

    Six 3x3 convolutions to 1, 1, 2, 2, 4 and 8 times `width` channels, the last without padding,
    each with its norm, activation and dropout; 2x2 max pooling after the second, fourth, fifth and
    sixth; a linear head, which gets the norm's weight part alone. At width 32, 32 x 32 pixels in
    colour and 10 classes: 437,162 parameters without a norm. size: a multiple of 8, 32 or more.
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
        if size < 32 or size % 8:
            raise ValueError(
                f"vgg7 takes images of 32 pixels or a larger multiple of 8, not {size}"
            )
        w = 32 if width is None else width
        layers: list[nn.Module] = []
        inputs = channels
        for factor, pooled in ((1, False), (1, True), (2, False), (2, True), (4, True), (8, True)):
            layers.append(nn.Conv2d(inputs, factor * w, 3, padding=0 if factor == 8 else 1))
            layers += activated(activation, slope, dropout)
            layers += [nn.MaxPool2d(2)] if pooled else []
            inputs = factor * w
        self.body = FusedSequential(*layers, nn.Flatten())
        self.head = nn.Linear(inputs * ((size // 8 - 2) // 2) ** 2, classes)
        put_norms(
            self,
            norm,
            head="head",
            conv_bias=conv_bias,
            norm_options=norm_options,
            norm_layers=norm_layers,
            other_norm=other_norm,
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))
