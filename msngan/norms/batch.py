"""Batch normalisation of a layer's output (Ioffe & Szegedy 2015; the paper's equation 1).

With or without its gain: Miyato et al. 2018, arXiv:1802.05957, section 4, leave it out of critics,
for a learned factor per channel would undo any bound on the Lipschitz constant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msngan.norms.base import Norm, outputs_of
from msngan.runs import distributed as processes


class Shared(_BatchNorm):
    """torch's batch norm whose statistics can be those of all processes' batches.

    sync: whether they are, in training; torch's own SyncBatchNorm does it on GPUs alone. Otherwise,
    and for one process, this is torch's.
    """

    sync = False

    def forward(self, input: Tensor) -> Tensor:
        if not (self.sync and self.training) or processes.count() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        return self._over_all(input)

    @torch.compiler.disable
    def _over_all(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local = x.numel() // x.shape[1]
        sums = processes.total(torch.cat([wide.sum(axes), wide.new_tensor([local])]))
        number = sums[-1].detach()
        mean = sums[:-1] / number
        centred = wide - mean.view(shape)
        variance = processes.total(centred.square().sum(axes)) / number
        if self.track_running_stats:
            self._move(mean.detach(), variance.detach() * number / (number - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        share = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class BatchNorm1d(Shared, nn.BatchNorm1d):
    """Of (N, C) or (N, C, L)."""


class BatchNorm2d(Shared, nn.BatchNorm2d):
    """Of (N, C, H, W)."""


class BatchNorm3d(Shared, nn.BatchNorm3d):
    """Of (N, C, D, H, W)."""


class BatchNormLast(Shared, nn.BatchNorm1d):
    """torch's BatchNorm1d for (..., C): statistics are over all axes but the last."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        return super().forward(rows).reshape(input.shape)


class _NoGain(_BatchNorm):
    """A learned offset alone; torch's own switches drop either the offset or both.

    The gain is a constant one and not None, for which torch's second derivative in the offset is
    zero where it should not be.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.ones_like(self.bias.detach())


class BatchNorm1dNoGain(_NoGain, BatchNorm1d):
    """torch's BatchNorm1d with an offset and no gain."""


class BatchNorm2dNoGain(_NoGain, BatchNorm2d):
    """torch's BatchNorm2d with an offset and no gain."""


class BatchNorm3dNoGain(_NoGain, BatchNorm3d):
    """torch's BatchNorm3d with an offset and no gain."""


class BatchNormLastNoGain(_NoGain, BatchNormLast):
    """BatchNormLast with an offset and no gain."""


KINDS = {
    2: (BatchNormLast, BatchNormLastNoGain),
    3: (BatchNorm1d, BatchNorm1dNoGain),
    4: (BatchNorm2d, BatchNorm2dNoGain),
    5: (BatchNorm3d, BatchNorm3dNoGain),
}  # by the axes of the output


def batch_norm_of(layer: nn.Module, *, gain: bool = True) -> nn.Module:
    """torch's BatchNorm with an offset for the outputs of a convolution or linear layer."""
    channels, axis = outputs_of(layer)
    with_gain, without = KINDS[2 if axis == -1 else len(layer.kernel_size) + 2]  # type: ignore[arg-type]
    return with_gain(channels) if gain else without(channels)


BATCH = Norm(output=batch_norm_of, cancels_bias=True)


def _batch_no_gain(layer: nn.Module) -> nn.Module:
    return batch_norm_of(layer, gain=False)


BATCH_NO_GAIN = Norm(output=_batch_no_gain, cancels_bias=True)
