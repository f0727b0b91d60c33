"""Centring: the output half of Mean Spectral Normalization.

Subramanian & Chong 2019, arXiv:1907.04003, equations 7 and 10: h - E[h] + m.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msngan.norms.centre import along, batch_mean, centred, subtract
from msngan.norms.parts import Precise, recomputing
from msngan.runs import distributed as processes


class Centring(Precise):
    """Subtract each channel's mean over the minibatch and add a learned offset m.

    Input and output: (N, C, ...) with channel_axis 1, or (..., C) with channel_axis -1. In training
    the mean is over all other axes of the batch and the gradient goes through it (equation 10); in
    eval it is the running mean, so that a sample's output does not depend on the others, and
    nothing is written. running_mean <- (1 - momentum) running_mean + momentum mean; momentum None
    averages all batches alike. Means and the subtraction are in float32 at least.

    offset: whether m is learned (the paper). gain: a learned factor per channel before m, as in the
    authors' released code but not in the paper; it gives up the bound on the Lipschitz constant.
    sync: take the mean over the batches of all processes of torch.distributed, weighted by their
    sizes: C + 1 numbers forward, C + 1 backward. inplace: write the output over the input, which
    saves a pass and its memory where nothing else reads the input.

    Raises ValueError in training where a channel has a single value: its output would be m,
    whatever the input.
    """

    precise = ("running_mean",)
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
        sync: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.channel_axis, self.momentum = channels, channel_axis, momentum
        self.sync, self.inplace = sync, inplace
        self.track_running_stats = True
        # The mean of the last batch, and the mean to subtract instead of the batch's own.
        self.last_mean: Tensor | None = None
        self.fixed_mean: Tensor | None = None
        self.bias = nn.Parameter(torch.zeros(channels)) if offset else None
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def extra_repr(self) -> str:
        return f"{self.channels}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        axis = self.channel_axis % x.dim()
        if self.by_batch:
            y = self._by_batch(x, axis)
        else:
            y = subtract(x, self._constant(), axis, inplace=self.inplace)
        if self.weight is None:
            return y
        y = y * along(self.weight, y, axis)
        return (y if self.bias is None else y + along(self.bias, y, axis)).to(x.dtype)

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """LeakyReLU of the output, for `by_batch` without a gain: the same numbers for less."""
        return self._by_batch(x, self.channel_axis % x.dim(), slope)

    @property
    def by_batch(self) -> bool:
        """Whether it is the mean of the batch at hand that is subtracted."""
        return self.training and self.fixed_mean is None

    def _constant(self) -> Tensor:
        """What is taken from each channel otherwise, (C,), before the gain: running_mean - m."""
        mean = self.running_mean if self.fixed_mean is None else self.fixed_mean
        offset = self._offset()
        return mean if offset is None else mean - offset

    def _offset(self) -> Tensor | None:
        """m, unless a gain comes before it."""
        return self.bias if self.weight is None else None

    def _by_batch(self, x: Tensor, axis: int, slope: float | None = None) -> Tensor:
        if self.sync and processes.count() > 1:
            return self._over_all(x, axis, slope)
        return self._over_batch(x, axis, slope)

    @torch.compiler.disable
    def _over_all(self, x: Tensor, axis: int, slope: float | None) -> Tensor:
        """Compiled code has no exchange between processes."""
        return self._over_batch(x, axis, slope)

    def _over_batch(self, x: Tensor, axis: int, slope: float | None) -> Tensor:
        mean, count = batch_mean(x, axis, self.sync)
        if count <= 1:
            raise ValueError(
                f"centring needs more than one value per channel in training, got {tuple(x.shape)};"
                " use a larger batch or eval()"
            )
        if self.track_running_stats and not recomputing():
            self.last_mean = mean
            try:
                self._move(mean.detach())
            except RuntimeError as problem:
                if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
                    raise
                raise RuntimeError(
                    "running means cannot be updated inside torch.func transforms; use eval(), or"
                    " msngan.norms.statistics(network, 'batch')"
                ) from problem
        return centred(x, mean, self._offset(), axis, self.sync, self.inplace, slope)

    @torch.no_grad()
    def _move(self, mean: Tensor) -> None:
        self.num_batches_tracked += 1
        average = mean.to(self.running_mean.dtype)
        if self.momentum is None:
            self.running_mean.lerp_(average, 1 / self.num_batches_tracked.to(average.dtype))
        else:
            self.running_mean.lerp_(average, self.momentum)
