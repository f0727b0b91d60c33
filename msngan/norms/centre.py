"""x - E[x] + m as one operation, forward and backward.

Centring is a projection, x -> x - E[x] per channel, which is its own transpose: its gradient is
g - E[g] (equation 10 of arXiv:1907.04003) and needs nothing of what went forward. So the output can
be written over the input, and no activation is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from msngan.norms.parts import LOW_PRECISION, traced
from msngan.runs import distributed as processes


def along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector (C,) in a shape that meets axis `axis` of x."""
    return vector.view([-1 if each == axis else 1 for each in range(x.dim())])


def batch_mean(x: Tensor, axis: int, sync: bool) -> tuple[Tensor, int]:
    """The mean of each channel, (C,), in float32 at least, and of how many values, about."""
    count = x.numel() // max(x.shape[axis], 1)
    with torch.no_grad():
        return _mean_of(_sum(x, axis), count, sync), count * _processes(sync)


def subtract(x: Tensor, shift: Tensor, axis: int, inplace: bool = False) -> Tensor:
    """x - shift per channel in the dtype of x, computed in float32 at least; differentiable.

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
    """x - mean + offset where `mean` is x's own `batch_mean`, differentiable through it.

    slope: LeakyReLU of this slope > 0 comes after. Its own gradient is then centred in place.
    """
    if traced():
        mean = x.mean([each for each in range(x.dim()) if each != axis], dtype=mean.dtype)
        y = (x - along(mean if offset is None else mean - offset, x, axis)).to(x.dtype)
        return y if slope is None else F.leaky_relu(y, slope)
    made: Tensor = _Centre.apply(  # type: ignore[no-untyped-call]
        x, mean, offset, axis, sync, inplace, slope
    )
    return made


class _Subtract(torch.autograd.Function):
    """In low precision, along axis 1. A shift rounded to the dtype of x would leave an offset, and
    torch's subtraction of two dtypes takes ten times as long as this."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor) -> Tensor:
        return F.batch_norm(x, shift, torch.ones_like(shift), eps=0.0)

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
            y = F.leaky_relu_(y, slope)
            ctx.save_for_backward(y)  # which has the sign of what went in
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        axis = ctx.axis
        if ctx.slope is not None:
            (y,) = ctx.saved_tensors
            backward = torch.ops.aten.leaky_relu_backward
            gradient = backward(gradient, y.detach(), ctx.slope, True)
        total = _sum(gradient, axis)
        count = gradient.numel() // gradient.shape[axis]
        mean = _mean_of(total.detach(), count, ctx.sync)
        if torch.is_grad_enabled():  # this gradient is to be differentiated again
            centre = centred(gradient, mean, None, axis, ctx.sync, inplace=False)
        elif ctx.slope is None or gradient.dtype in LOW_PRECISION:
            centre = subtract(gradient, mean, axis)
        else:
            centre = gradient.sub_(along(mean, gradient, axis))
        return centre, None, total if ctx.needs_input_grad[2] else None, None, None, None, None


def _sum(x: Tensor, axis: int) -> Tensor:
    """Of each channel, in float32 at least; differentiable where grad mode is on."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.dtype in LOW_PRECISION and x.is_cpu and axis == 1 and not torch.is_grad_enabled():
        # Without the copy in float32 that torch's sum makes here.
        unused = torch.zeros(x.shape[1], dtype=wide)
        mean, _ = torch.batch_norm_update_stats(x, unused, unused, 0.0)
        return mean * (x.numel() // x.shape[1])
    return x.sum([each for each in range(x.dim()) if each != axis], dtype=wide)


def _mean_of(total: Tensor, count: int, sync: bool) -> Tensor:
    if _processes(sync) == 1:
        return total / max(count, 1)
    both = torch.cat([total, total.new_tensor([count])])
    dist.all_reduce(both)
    return both[:-1] / both[-1]


def _processes(sync: bool) -> int:
    return processes.count() if sync else 1
