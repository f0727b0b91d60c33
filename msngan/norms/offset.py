"""The two halves of Mean Spectral Normalization, each by itself: the ablation the paper lacks.

`spectral_bias` bounds the weight and adds the offset m but does not centre; `mean_only` centres and
adds m but does not bound the weight.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from msngan.norms.base import Norm
from msngan.norms.centre import along
from msngan.norms.mean_spectral import centring_of
from msngan.norms.parts import outputs_of
from msngan.norms.spectral import SpectralNorm


class Offset(nn.Module):
    """Add a learned m per channel, at first zero, to (N, C, ...) or, channel_axis -1, (..., C)."""

    def __init__(self, channels: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.channels, self.channel_axis = channels, channel_axis
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{self.channels}"

    def forward(self, x: Tensor) -> Tensor:
        return (x + along(self.bias, x, self.channel_axis % x.dim())).to(x.dtype)


def offset_of(layer: nn.Module) -> Offset:
    """The offset for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
    channels, axis = outputs_of(layer)
    return Offset(channels, channel_axis=axis)


def mean_only(gain: bool = False, sync: bool = False, momentum: float | None = 0.1) -> Norm:
    """Centring without a bound on the weight; the options are those of `mean_spectral`."""
    output = partial(centring_of, gain=gain, sync=sync, momentum=momentum)
    return Norm(output=output, cancels_bias=True, options=mean_only)


MEAN_ONLY = mean_only()
# A bias of the layer would do what m does a second time, and takes another part in weight decay.
SPECTRAL_BIAS = Norm(weight=SpectralNorm.of, output=offset_of, cancels_bias=True)
