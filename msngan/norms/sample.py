"""Layer and instance norm of a layer's output: each sample by its own mean and variance.

Ba et al. 2016, arXiv:1607.06450, and Ulyanov et al. 2016, arXiv:1607.08022. No sample sees another,
so training and eval are the same function and there are no running statistics.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms.base import Norm, outputs_of
from msngan.norms.parts import full_precision


class SampleNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * gain + offset, the statistics of each sample by itself.

    Input and output: (N, C, ...) with channel_axis 1, or (..., C) with channel_axis -1. Over
    "layer" the statistics are over channels and space, as torch's GroupNorm(1, C); of (..., C) over
    the last axis, as torch's LayerNorm. Over "space" they are of each channel by itself, as torch's
    InstanceNorm; of (N, T, C) over the tokens. Gain and offset are per channel, the variance is the
    biased one, and all of it is computed in float32 at least, outside autocast.

    Raises ValueError where a mean would be over one value: the output would be the offset, whatever
    the input.
    """

    def __init__(
        self,
        channels: int,
        *,
        over: Literal["layer", "space"],
        channel_axis: int = 1,
        gain: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.channels, self.over, self.channel_axis, self.eps = channels, over, channel_axis, eps
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{self.channels}, over={self.over!r}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            wide = torch.promote_types(x.dtype, torch.float32)
            gain = None if self.weight is None else self.weight.to(wide)
            return self._normed(x.to(wide), gain, self.bias.to(wide)).to(x.dtype)

    def _normed(self, x: Tensor, gain: Tensor | None, offset: Tensor) -> Tensor:
        last = self.channel_axis == -1
        if last and self.over == "layer":
            self._needs_several(x, self.channels)
            return F.layer_norm(x, (self.channels,), gain, offset, self.eps)
        groups = 1 if self.over == "layer" else self.channels
        self._needs_several(x, prod(x.shape[1:]) // groups)
        if last:
            y = F.group_norm(x.movedim(-1, 1), groups, gain, offset, self.eps)
            return y.movedim(1, -1)
        if torch.compiler.is_compiling():  # torch 2.14 traces another memory layout than it runs
            x = x.contiguous()
        return F.group_norm(x, groups, gain, offset, self.eps)

    def _needs_several(self, x: Tensor, values: int) -> None:
        if values > 1:
            return
        if self.over == "layer":
            raise ValueError("layer norm needs more than one value per sample; use more channels")
        raise ValueError(
            "instance norm needs more than one value per sample and channel, got "
            f"{tuple(x.shape)}; use larger images, token axes (N, T, C), or layer norm"
        )


def sample_norm_of(
    layer: nn.Module, *, over: Literal["layer", "space"], gain: bool = True
) -> SampleNorm:
    """The norm for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
    channels, axis = outputs_of(layer)
    return SampleNorm(channels, over=over, channel_axis=axis, gain=gain)


def layer_norm(gain: bool = True) -> Norm:
    """Layer norm. A bias of the layer stays: one per channel is no common shift, so it is alive."""
    return Norm(output=partial(sample_norm_of, over="layer", gain=gain), options=layer_norm)


def instance_norm(gain: bool = True) -> Norm:
    """Instance norm of images or tokens. A linear layer on (N, C) is refused at its first call."""
    output = partial(sample_norm_of, over="space", gain=gain)
    return Norm(output=output, cancels_bias=True, options=instance_norm)


LAYER, INSTANCE = layer_norm(), instance_norm()
