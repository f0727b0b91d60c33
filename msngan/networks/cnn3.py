"""The paper's three-layer network for MNIST (Table III; arXiv:1907.04003, section IV-A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from msngan.networks.activations import ActivationName, activated
from msngan.networks.normed import check_norms, put_norms
from msngan.norms import NormName
from msngan.norms.sequence import FusedSequential


class CNN3(nn.Module):
    """Images (N, channels, size, size) to logits (N, classes).

    Convolutions 5x5 to `width` channels (padding 2), 3x3 to twice as many (padding 2, so that the
    image grows by 2) and 4x4 of stride 2 to as many (padding 2), each with its norm, activation
    and dropout, and a linear head, which gets the norm's weight part alone. At width 16, 28 x 28
    grey pixels and 10 classes: 103,402 parameters without a norm.
    """

    def __init__(
        self,
        norm: NormName = "mean_spectral",
        classes: int = 10,
        channels: int = 1,
        size: int = 28,
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
        w = 16 if width is None else width
        shapes = [(channels, w, 5, 1), (w, 2 * w, 3, 1), (2 * w, 2 * w, 4, 2)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in shapes:
            layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding=2))
            layers += activated(activation, slope, dropout)
        self.body = FusedSequential(*layers, nn.Flatten())
        side = (size + 2) // 2 + 1
        self.head = nn.Linear(2 * w * side**2, classes)
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
