"""Centring: the output half of Mean Spectral Normalization.

Subramanian & Chong 2019, arXiv:1907.04003, equations 7 and 10: h - E[h] + m.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Centring(nn.Module):
    """Subtract each channel's mean over the minibatch and add a learned offset m.

    Input and output: (N, C, ...) with channel_axis 1, or (..., C) with channel_axis -1. In training
    the mean is over all other axes of the batch and the gradient goes through it (equation 10); in
    eval it is the running mean, so that a sample's output does not depend on the others, and
    nothing is written. running_mean <- (1 - momentum) running_mean + momentum mean; momentum None
    averages all batches alike.

    offset: whether m is learned (the paper). gain: a learned factor per channel before m, as in the
    authors' released code but not in the paper; it gives up the bound on the Lipschitz constant.

    Raises ValueError in training where a channel has a single value: its output would be m,
    whatever the input.
    """

    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        channels: int,
        *,
        channel_axis: int = 1,
        momentum: float | None = 0.1,
        offset: bool = True,
        gain: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.channel_axis, self.momentum = channels, channel_axis, momentum
        self.track_running_stats = True
        self.bias = nn.Parameter(torch.zeros(channels)) if offset else None
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def extra_repr(self) -> str:
        return f"{self.channels}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        axis = self.channel_axis % x.dim()
        mean = self._batch_mean(x, axis) if self.training else self.running_mean
        shape = [1] * x.dim()
        shape[axis] = self.channels
        shift = -mean if self.weight is None else -mean * self.weight
        if self.bias is not None:
            shift = shift + self.bias
        scaled = x if self.weight is None else x * self.weight.view(shape)
        # A bfloat16 x is subtracted from in float32: a mean rounded first would leave an offset.
        return (scaled + shift.view(shape)).to(x.dtype)

    def _batch_mean(self, x: Tensor, axis: int) -> Tensor:
        if x.numel() <= self.channels:
            raise ValueError(
                f"centring needs more than one value per channel in training, got {tuple(x.shape)};"
                " use a larger batch or eval()"
            )
        others = [i for i in range(x.dim()) if i != axis]
        # In float32 at least: a bfloat16 mean of nearly equal values would have three digits.
        mean = x.mean(others, dtype=torch.promote_types(x.dtype, torch.float32))
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                count = self.num_batches_tracked.to(mean.dtype)
                rate: float | Tensor = 1 / count if self.momentum is None else self.momentum
                self.running_mean += rate * (mean - self.running_mean)
        return mean
