"""Batch normalisation of a layer's output (Ioffe & Szegedy 2015; the paper's equation 1).

With or without its gain: Miyato et al. 2018, arXiv:1802.05957, section 4, leave it out of critics,
for a learned factor per channel would undo any bound on the Lipschitz constant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msngan.norms.base import Norm
from msngan.norms.parts import outputs_of


class BatchNormLast(nn.BatchNorm1d):
    """torch's BatchNorm1d for (..., C): statistics are over all axes but the last."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        return super().forward(rows).reshape(input.shape)


class _NoGain(nn.modules.batchnorm._BatchNorm):
    """A learned offset alone; torch's own switches drop either the offset or both.

    The gain is a constant one and not None, for which torch's second derivative in the offset is
    zero where it should not be.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)


class BatchNorm1dNoGain(_NoGain, nn.BatchNorm1d):
    """torch's BatchNorm1d with an offset and no gain."""


class BatchNorm2dNoGain(_NoGain, nn.BatchNorm2d):
    """torch's BatchNorm2d with an offset and no gain."""


class BatchNorm3dNoGain(_NoGain, nn.BatchNorm3d):
    """torch's BatchNorm3d with an offset and no gain."""


class BatchNormLastNoGain(_NoGain, BatchNormLast):
    """BatchNormLast with an offset and no gain."""


KINDS = {
    2: (BatchNormLast, BatchNormLastNoGain),
    3: (nn.BatchNorm1d, BatchNorm1dNoGain),
    4: (nn.BatchNorm2d, BatchNorm2dNoGain),
    5: (nn.BatchNorm3d, BatchNorm3dNoGain),
}  # by the axes of the layer's weight


def batch_norm_of(layer: nn.Module, *, gain: bool = True) -> nn.Module:
    """torch's BatchNorm with an offset for the outputs of a convolution or linear layer."""
    channels, _ = outputs_of(layer)
    assert isinstance(layer.weight, Tensor)
    with_gain, without = KINDS[layer.weight.dim()]
    return with_gain(channels) if gain else without(channels)


BATCH = Norm(output=batch_norm_of, cancels_bias=True)


def _batch_no_gain(layer: nn.Module) -> nn.Module:
    return batch_norm_of(layer, gain=False)


BATCH_NO_GAIN = Norm(output=_batch_no_gain, cancels_bias=True)
