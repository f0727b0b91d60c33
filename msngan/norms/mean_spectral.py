"""Mean Spectral Normalization: bound the weight, centre the output.

Subramanian & Chong, "Mean Spectral Normalization of Deep Neural Networks for Embedded Automation",
CASE 2019, arXiv:1907.04003, equations 6 and 7:

    MSN(W, x) = (W / sigma(W)) x - E[(W / sigma(W)) x] + m

and its two halves: `spectral_bias` bounds the weight and adds m but does not centre; `mean_only`
centres and adds m but does not bound the weight.

The Lipschitz constant of a layer under MSN, with n values per channel in the batch
(tests/test_norm_lipschitz.py has each line in numbers):

- Eval: centring is a shift, so the constant is that of the layer with the weight W / sigma(W): 1
  for a linear layer; for a convolution with zero padding and without dilation at most
  sqrt(ceil(k_h / s_h) ceil(k_w / s_w)), the number of windows that an input value takes part in.
- Training, the whole batch as one vector, Euclidean norm: centring is P = I - 1 1^T / n per
  channel, an orthogonal projection, so it does not raise the constant.
- Training, per sample: the largest change of any value at most doubles, by the largest row sum of
  P, 2 (1 - 1/n). It is not a bound per image, which gradient penalties need; see
  `msngan.norms.statistics`.
- A gain multiplies the constant by max |g|, which nothing bounds.

As centring is an orthogonal projection, its gradient, g - E[g] (equation 10), needs nothing of the
forward pass: the output may be written over the input, and no activation is kept for the backward
pass.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms.layers import NormLayer, called, norm_output, normalise
from msngan.norms.parts import (
    LOW_PRECISION,
    Entries,
    Norm,
    OutputPart,
    Precise,
    recomputing,
    traced,
)
from msngan.norms.spectral import SpectralNorm
from msngan.runs import distributed


class Centring(OutputPart, Precise):
    """Subtract each channel's mean over the minibatch and add a learned offset m.

    Input and output: (N, C, ...) with channel_axis 1, or (..., C) with channel_axis -1. In training
    the gradient goes through the mean (equation 10). In eval it is the running mean, and nothing is
    written. running_mean <- (1 - momentum) running_mean + momentum mean; momentum None weights all
    batches equally. Means and the subtraction are computed in float32 or above.

    offset: whether m is learned (the paper). gain: a learned factor per channel before m, as in the
    authors' released code; it gives up the bound on the Lipschitz constant. sync: take the mean
    over the batches of all processes. inplace: write the output over the input, where nothing else
    reads it.

    Raises ValueError in training where a channel has a single value: its output would be m.
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
        # The mean of the last batch, and a constant to subtract instead of the batch's mean.
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
        offset = self.bias if self.weight is None else None  # a gain comes before m
        if self.by_batch:
            y = self._by_batch(x, offset)
        else:
            mean = self.running_mean if self.fixed_mean is None else self.fixed_mean
            y = subtract(x, mean if offset is None else mean - offset, axis, inplace=self.inplace)
        if self.weight is None:
            return y
        y = y * along(self.weight, y, axis)
        return (y if self.bias is None else y + along(self.bias, y, axis)).to(x.dtype)

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """LeakyReLU (slope 0: ReLU) of the output, faster; where `by_batch` and without a gain."""
        return self._by_batch(x, self.bias, slope)

    @property
    def by_batch(self) -> bool:
        """Whether the mean that is subtracted is that of the current batch."""
        return self.training and self.fixed_mean is None

    def _by_batch(self, x: Tensor, offset: Tensor | None, slope: float | None = None) -> Tensor:
        if self.sync and distributed.count() > 1:
            return self._over_processes(x, offset, slope)
        return self._over_batch(x, offset, slope)

    @torch.compiler.disable
    def _over_processes(self, x: Tensor, offset: Tensor | None, slope: float | None) -> Tensor:
        """The same, outside compiled code, which cannot communicate between processes."""
        return self._over_batch(x, offset, slope)

    def _over_batch(self, x: Tensor, offset: Tensor | None, slope: float | None) -> Tensor:
        axis = self.channel_axis % x.dim()
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
        return centred(x, mean, offset, axis, self.sync, self.inplace, slope)

    @torch.no_grad()
    def _move(self, mean: Tensor) -> None:
        self.num_batches_tracked += 1
        average = mean.to(self.running_mean.dtype)
        if self.momentum is None:
            self.running_mean.lerp_(average, 1 / self.num_batches_tracked.to(average.dtype))
        else:
            self.running_mean.lerp_(average, self.momentum)


def along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector (C,) in a shape that broadcasts along `axis` of x."""
    return vector.view([-1 if each == axis else 1 for each in range(x.dim())])


def batch_mean(x: Tensor, axis: int, sync: bool) -> tuple[Tensor, int]:
    """The mean of each channel, (C,), in float32 or above, and the number of values in each.

    With sync the number is an estimate: the process's own times the number of processes.
    """
    count = x.numel() // max(x.shape[axis], 1)
    processes = _processes(sync)
    with torch.no_grad():
        if x.is_cpu or processes > 1:
            return _mean_of(_sum(x, axis), count, sync), count * processes
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.mean([each for each in range(x.dim()) if each != axis], dtype=wide), count


def subtract(x: Tensor, shift: Tensor, axis: int, inplace: bool = False) -> Tensor:
    """x - shift per channel in the dtype of x, computed in float32 or above; differentiable.

    inplace: write it over x where that is possible.
    """
    if x.dtype not in LOW_PRECISION:
        if inplace and not traced() and not x._is_view():
            return x.sub_(along(shift, x, axis))
        return x - along(shift, x, axis)
    if axis != 1 or traced():
        return (x - along(shift, x, axis)).to(x.dtype)
    y: Tensor = _Subtract.apply(x, shift)  # type: ignore[no-untyped-call]
    return y


def centred(
    x: Tensor,
    mean: Tensor,
    offset: Tensor | None,
    axis: int,
    sync: bool,
    inplace: bool,
    slope: float | None = None,
) -> Tensor:
    """x - mean + offset, where `mean` is x's own `batch_mean`; differentiable through the mean.

    slope: also apply LeakyReLU with this slope >= 0, whose own gradient is then centred in place;
    with slope 0 by the operations of ReLU.
    """
    if traced():
        mean = x.mean([each for each in range(x.dim()) if each != axis], dtype=mean.dtype)
        y = (x - along(mean if offset is None else mean - offset, x, axis)).to(x.dtype)
        return y if slope is None else F.leaky_relu(y, slope) if slope else F.relu(y)
    made: Tensor = _Centre.apply(  # type: ignore[no-untyped-call]
        x, mean, offset, axis, sync, inplace, slope
    )
    return made


class _Subtract(torch.autograd.Function):
    """x - shift in low precision, along axis 1.

    A shift rounded to the dtype of x would leave an offset, and torch's subtraction of two dtypes
    takes ten times as long as batch_norm.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor) -> Tensor:
        one = torch.ones_like(shift)  # torch's, for F.batch_norm of PyTorch 2.10 refuses eps = 0
        return torch.batch_norm(x, None, None, shift, one, False, 0.0, 0.0, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        return gradient, -_sum(gradient, 1) if ctx.needs_input_grad[1] else None


class _Centre(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        offset: Tensor | None,
        axis: int,
        sync: bool,
        inplace: bool,
        slope: float | None,
    ) -> Tensor:
        ctx.axis, ctx.sync, ctx.slope = axis, sync, slope
        shift = mean if offset is None else mean - offset
        if not inplace or x.dtype in LOW_PRECISION or x._is_view():
            y = subtract(x, shift, axis)
        else:
            ctx.mark_dirty(x)
            y = x.sub_(along(shift, x, axis))
        if slope is not None:
            y = F.leaky_relu_(y, slope) if slope else F.relu_(y)
            ctx.save_for_backward(y)  # it has the sign of LeakyReLU's input
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        axis = ctx.axis
        if ctx.slope is not None:
            (y,) = ctx.saved_tensors
            aten, y = torch.ops.aten, y.detach()
            if ctx.slope:
                gradient = aten.leaky_relu_backward(gradient, y, ctx.slope, True)
            else:
                gradient = aten.threshold_backward(gradient, y, 0)
        total = _sum(gradient, axis)
        count = gradient.numel() // gradient.shape[axis]
        mean = _mean_of(total.detach(), count, ctx.sync)
        if torch.is_grad_enabled():  # with create_graph
            centre = centred(gradient, mean, None, axis, ctx.sync, inplace=False)
        elif ctx.slope is None or gradient.dtype in LOW_PRECISION:
            centre = subtract(gradient, mean, axis)
        else:
            centre = gradient.sub_(along(mean, gradient, axis))
        return centre, None, total if ctx.needs_input_grad[2] else None, None, None, None, None


def _sum(x: Tensor, axis: int) -> Tensor:
    """The sum of each channel, in float32 or above; differentiable where grad mode is on."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.dtype in LOW_PRECISION and x.is_cpu and axis == 1 and not torch.is_grad_enabled():
        # torch's sum would make a copy in float32 here.
        unused = torch.zeros(x.shape[1], dtype=wide)
        mean, _ = torch.batch_norm_update_stats(x, unused, unused, 0.0)
        return mean * (x.numel() // x.shape[1])
    return x.sum([each for each in range(x.dim()) if each != axis], dtype=wide)


def _mean_of(total: Tensor, count: int, sync: bool) -> Tensor:
    return total / max(count, 1) if _processes(sync) == 1 else distributed.mean_of(total, count)


def _processes(sync: bool) -> int:
    return distributed.count() if sync else 1


class Offset(OutputPart):
    """Add a learned m per channel, initially 0; (N, C, ...) or, with channel_axis -1, (..., C)."""

    def __init__(self, channels: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.channels, self.channel_axis = channels, channel_axis
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{self.channels}"

    def forward(self, x: Tensor) -> Tensor:
        return (x + along(self.bias, x, self.channel_axis % x.dim())).to(x.dtype)


def mean_only(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """Centring without a bound on the weight; the options are those of `mean_spectral`."""
    # In place: nothing else reads what a layer returns.
    centring = partial(Centring.of, inplace=True, offset=offset, gain=gain, sync=sync)
    return Norm(output=partial(centring, momentum=momentum), cancels_bias=True)


def mean_spectral(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """MSN. gain: a learned factor per channel, which the paper does not have; sync: one mean over
    all processes; momentum: of the running mean; offset: whether m is learned, else it is 0."""
    return replace(mean_only(gain, sync, momentum, offset), weight=SpectralNorm.of)


ENTRIES: Entries = {
    "mean_spectral": mean_spectral,
    "mean_only": mean_only,
    # A bias of the layer would do the same as m.
    "spectral_bias": Norm(weight=SpectralNorm.of, output=Offset.of, cancels_bias=True),
}


class MSN(nn.Module):
    """The base class of the three layers below. bias: whether m is learned."""

    def __init__(self, *args: Any, gain: bool = False, **options: Any) -> None:
        # Bind to torch's signature, in which `bias` may be positional.
        arguments = signature(super().__init__).bind(*args, **options).arguments
        bias = arguments.pop("bias", True)
        super().__init__(**arguments, bias=False)
        normalise(self, mean_spectral(gain=gain, offset=bias))


class MSNConv2d(MSN, nn.Conv2d):
    """torch.nn.Conv2d under Mean Spectral Normalization (arXiv:1907.04003, equations 6 and 7).

    Takes torch's arguments, and `gain`: a learned factor per channel as in the authors' released
    code. `bias` says whether the offset m is learned; the convolution itself has no bias, because
    centring would cancel it. Input (N, C, H, W).
    """


class MSNConvTranspose2d(MSN, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d under Mean Spectral Normalization; see MSNConv2d."""


class MSNLinear(MSN, nn.Linear):
    """torch.nn.Linear under Mean Spectral Normalization; means are over all axes but the last."""


HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


class FusedSequential(nn.Sequential):
    """nn.Sequential that runs centring and the ReLU or LeakyReLU after it as one operation.

    The results are equal. Nothing else holds the gradient between the two, so it is centred in
    place. Parts with hooks of others are called separately, so that the hooks see their input and
    output.
    """

    def forward(self, input: Tensor) -> Tensor:
        parts = iter([*self, None])
        part = next(parts)
        while part is not None:
            following = next(parts)
            if following is not None and _fuse(part, following):
                output = part.forward(input)  # without the norm's hook
                called(part)
                slope = getattr(following, "negative_slope", 0.0)
                input = part.output_norm.activated(output, slope)
                following = next(parts)
            else:
                input = part(input)
            part = following
        return input


def _fuse(layer: nn.Module, activation: nn.Module) -> bool:
    rectifies = isinstance(activation, nn.ReLU) or (
        isinstance(activation, nn.LeakyReLU) and activation.negative_slope > 0
    )
    if not isinstance(layer, NormLayer) or not rectifies or not activation.inplace:
        return False
    norm = layer.output_norm
    if not (isinstance(norm, Centring) and norm.by_batch and norm.weight is None):
        return False
    hooks = [getattr(part, f"_{kind}") for part in (layer, norm, activation) for kind in HOOKS]
    return [hook for each in hooks for hook in each.values()] == [norm_output]
