"""Norms without a singular value: batch, layer, instance, weight; and the statistics of batches.

Batch norm: Ioffe & Szegedy 2015, arXiv:1502.03167, and the paper's equation 1. Miyato et al. 2018,
arXiv:1802.05957, section 4, leave its gain out of critics, because a learned factor per channel
undoes any bound on the Lipschitz constant. Layer norm: Ba et al. 2016, arXiv:1607.06450; instance
norm: Ulyanov et al. 2016, arXiv:1607.08022. In the latter two no sample depends on another, so
training and eval are the same function and there are no running statistics.

Weight normalisation: Salimans & Kingma 2016, arXiv:1602.07868: W' = g v / |v| per output (equation
2), and mean-only batch norm of the output (section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from msngan.norms.mean_spectral import Centring, along, mean_only
from msngan.norms.parts import (
    Entries,
    MatrixPart,
    Norm,
    OutputPart,
    full_precision,
    outputs_of,
    widened,
)
from msngan.runs import distributed


class Shared(_BatchNorm):
    """torch's batch norm, whose statistics may be those of the batches of all processes.

    sync: whether they are, in training; torch's own SyncBatchNorm runs on GPUs only. Otherwise, and
    with one process, this is torch's batch norm. gain: without it, an offset alone is learned;
    torch's own switches drop either the offset or both.
    """

    sync = False

    def __init__(self, channels: int, *, gain: bool = True, **options: Any) -> None:
        super().__init__(channels, **options)
        if not gain:
            # Not None, for which torch's second derivative in the offset is zero, wrongly.
            del self.weight
            self.register_buffer("weight", torch.ones(channels), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        if not (self.sync and self.training) or distributed.count() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        return self._over_processes(input)

    @torch.compiler.disable
    def _over_processes(self, x: Tensor) -> Tensor:
        if not x.numel():
            raise ValueError(f"batch norm needs values in every process, got {tuple(x.shape)}")
        gain, offset = (None if v is None else widened(v) for v in (self.weight, self.bias))
        y, mean, unbiased = _OverProcesses.apply(x, gain, offset, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            self._move(mean, unbiased)
        made: Tensor = y
        return made

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            share: Tensor | float | None = self.momentum
            if share is None:
                share = 1 / self.num_batches_tracked.to(running.dtype)
            running.lerp_(value.to(running.dtype), share)


def _pooled(x: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean and variance (C,) over the batches of all processes, and the number of values in each.

    In one exchange; differentiable.
    """
    wide, axes = widened(x), [axis for axis in range(x.dim()) if axis != 1]
    if x.is_cuda:
        variance, mean = torch.var_mean(wide, axes, correction=0)
    else:  # there one call takes longer than these
        mean = wide.mean(axes)
        variance = (wide - along(mean, x, 1)).square().mean(axes)
    own, size = [mean, variance], x.numel() // x.shape[1]
    own += [] if distributed.are_even() else [torch.full_like(mean, size)]
    means, variances, *sizes = distributed.of_each(torch.stack(own)).unbind(1)
    number = sizes[0].sum(0) if sizes else size * distributed.count()
    shares = (sizes[0] if sizes else size) / number
    middle = (means * shares).sum(0)
    return middle, ((variances + (means - middle).square()) * shares).sum(0), number


class _OverProcesses(torch.autograd.Function):
    """Batch norm with `_pooled` statistics.

    Its other outputs, constants, are the mean and the variance with divisor number - 1. Its
    backward pass is that of batch norm with constant statistics, less what of it lies along the
    statistics' own gradients, in one exchange. A gradient of the gradient is that of plain
    operations. gain, offset: at least float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor | None, offset: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, number = _pooled(x)
        ctx.save_for_backward(x, gain, offset, mean, variance)
        ctx.eps = eps
        unbiased = variance * (number / (number - 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return F.batch_norm(x, mean, variance, gain, offset, eps=eps), mean, unbiased

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, gain, offset, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph
            wanted = zip((x, gain, offset), ctx.needs_input_grad, strict=False)
            asked = [each for each, wants in wanted if wants]
            mean, variance = _pooled(x)[:2]
            y = (widened(x) - along(mean, x, 1)) * along((variance + ctx.eps).rsqrt(), x, 1)
            y = y if gain is None else y * along(gain, x, 1)
            y = y if offset is None else y + along(offset, x, 1)
            found = iter(torch.autograd.grad(y.to(x.dtype), asked, gradient, create_graph=True))
            return (*(next(found) if wants else None for wants in ctx.needs_input_grad[:3]), None)
        ones = torch.ones_like(mean) if gain is None else gain
        scale = (variance + ctx.eps).rsqrt()
        constants = ones, mean, variance, mean, scale, False, ctx.eps, [True, True, True]
        own, gains, offsets = torch.ops.aten.native_batch_norm_backward(gradient, x, *constants)
        # sums over the batch of gradient * (x - mean) / sd, and of the gradient
        sums, size = torch.stack([gains, offsets]), x.numel() // x.shape[1]
        along_x, along_one = distributed.mean_of(sums, size)
        slope = ones * scale.square() * along_x
        shift = torch.addcmul(ones * scale * along_one, slope, mean, value=-1)
        own = own - torch.addcmul(along(shift, x, 1), along(slope, x, 1), widened(x)).to(own.dtype)
        made = zip((own, gains, offsets), ctx.needs_input_grad, strict=False)
        return (*(each if wants else None for each, wants in made), None)


class BatchNorm1d(Shared, nn.BatchNorm1d):
    """Input (N, C) or (N, C, L)."""


class BatchNorm2d(Shared, nn.BatchNorm2d):
    """Input (N, C, H, W)."""


class BatchNorm3d(Shared, nn.BatchNorm3d):
    """Input (N, C, D, H, W)."""


class BatchNormLast(Shared, nn.BatchNorm1d):
    """Input (..., C); the statistics are over all axes but the last."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        return super().forward(rows).reshape(input.shape)


KINDS = {2: BatchNormLast, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}  # by axes of the output


def batch_norm_of(layer: nn.Module, *, gain: bool = True) -> nn.Module:
    """Batch norm for the outputs of a convolution or linear layer."""
    channels, axis = outputs_of(layer)
    return KINDS[2 if axis == -1 else len(layer.kernel_size) + 2](channels, gain=gain)  # type: ignore[arg-type]


class SampleNorm(OutputPart):
    """(x - mean) / sqrt(variance + eps) * gain + offset, with each sample's own statistics.

    Input and output: (N, C, ...) with channel_axis 1, or (..., C) with channel_axis -1. The
    statistics are over channels and space with over="layer" (torch's GroupNorm(1, C), or LayerNorm
    for the last axis), of each channel with over="space" (InstanceNorm; over the tokens of (N, T,
    C)). Gain and offset are per channel, and all is computed in float32 or above, outside autocast.

    Raises ValueError where a mean would be over one value: the output would be the offset.
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
            wide = widened(x)
            gain = None if self.weight is None else self.weight.to(wide)
            return self._normed(wide, gain, self.bias.to(wide)).to(x.dtype)

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
        if torch.compiler.is_compiling():  # torch 2.14 traces a layout other than the real one
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


def layer_norm(gain: bool = True) -> Norm:
    """Layer norm. The layer keeps its bias, which layer norm does not cancel."""
    return Norm(output=partial(SampleNorm.of, over="layer", gain=gain))


def instance_norm(gain: bool = True) -> Norm:
    """Instance norm of images or tokens. A linear layer raises ValueError for an input (N, C)."""
    output = partial(SampleNorm.of, over="space", gain=gain)
    return Norm(output=output, cancels_bias=True)


# Modules whose output for one sample depends on the rest of the batch, in training.
BATCH_COUPLED = (_BatchNorm, Centring)


def is_batch_coupled(module: nn.Module) -> bool:
    """Whether in training the output for one sample depends on the others."""
    return any(isinstance(part, BATCH_COUPLED) for part in module.modules())


@contextmanager
def statistics(module: nn.Module, mode: Literal["batch", "running", "last"]) -> Iterator[None]:
    """What the batch-coupled norms of a training module do inside the block.

    "batch": use the minibatch as always, but do not update the running statistics.
    "running": use the running statistics, as in eval, and do not update them. The critic is then a
        function of one image, which is what a gradient penalty assumes.
    "last": subtract the means of each layer's last training batch, as constants. For norms that
        centre only: raises ValueError for batch norm, which keeps no such statistics.
    """
    coupled = [part for part in module.modules() if isinstance(part, BATCH_COUPLED)]
    if mode == "last" and any(isinstance(part, _BatchNorm) for part in coupled):
        raise ValueError("batch norm keeps no statistics of its last batch; use those of this one")
    before = [(part.training, part.track_running_stats) for part in coupled]
    try:
        for part in coupled:
            if mode == "running":
                part.training = False
            else:
                part.track_running_stats = False
            if mode == "last":
                assert isinstance(part, Centring)
                part.fixed_mean = part.last_mean
        yield
    finally:
        for part, (training, track) in zip(coupled, before, strict=True):
            part.training, part.track_running_stats = training, track
            if mode == "last":
                part.fixed_mean = None


def synchronise(module: nn.Module) -> None:
    """Let every batch-coupled norm use the batches of all processes, in training.

    The result is that of one process on the same global batch; with one process nothing changes.
    Batch norms of torch's own classes stay as they are.
    """
    for part in module.modules():
        if hasattr(part, "sync"):
            part.sync = True  # type: ignore[assignment]


def own_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The running statistics that each process updates from its own batches only."""
    for part in module.modules():
        if isinstance(part, BATCH_COUPLED) and not getattr(part, "sync", False):
            yield from part.buffers(recurse=False)


class WeightNorm(MatrixPart):
    """Map a weight v to g v / |v|, where the length is over all weights of one output.

    gain: parameter (outputs,), g, initially |v|, so that the layer computes the same as before.
    Without a gain each output's weights have length 1, as in the comparison of Miyato et al. 2018.
    An output whose weights are all zero keeps them, with a finite gradient. All of this is computed
    in float32 or above.
    """

    gain: nn.Parameter | None

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, gain: bool = True
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        with torch.no_grad():
            lengths = self.lengths(weight).flatten().to(weight.dtype)
        self.gain = nn.Parameter(lengths) if gain else None

    def extra_repr(self) -> str:
        return "" if self.gain is not None else "gain=False"

    def normalised(self, weight: Tensor) -> Tensor:
        """g v / |v|, differentiable in v and g."""
        with full_precision(weight):
            lengths = self.lengths(weight)
            wanted = 1 if self.gain is None else self.gain.view(lengths.shape)
            made = self._grouped(weight) * (wanted / lengths)
            return made.reshape(weight.shape).to(weight.dtype)

    def state_of(self, weight: Tensor) -> dict[str, Any]:
        lengths = {} if self.gain is None else {"gain": self.lengths(weight).flatten()}
        return {**self.state_dict(), **lengths}

    def lengths(self, weight: Tensor) -> Tensor:
        """|v| of each output in float32 or above, 1 where v is zero.

        (groups, 1, outputs / groups, 1, ...) for a transposed convolution, else (outputs, 1, ...).
        """
        grouped = widened(self._grouped(weight))
        kept = (0, 2) if self.output_axis else (0,)
        others = [axis for axis in range(grouped.dim()) if axis not in kept]
        lengths = torch.linalg.vector_norm(grouped, dim=others, keepdim=True)
        return lengths.masked_fill(lengths == 0, 1)

    def _grouped(self, weight: Tensor) -> Tensor:
        """The weight; for a transposed convolution with an axis of groups in front."""
        return weight.unflatten(0, (self.groups, -1)) if self.output_axis else weight


def weight_norm(gain: bool = True) -> Norm:
    """Weight normalisation. gain: whether the lengths are learned, else they are 1."""
    return Norm(weight=partial(WeightNorm.of, gain=gain))


def weight_mean(gain: bool = True, sync: bool = False, momentum: float | None = 0.1) -> Norm:
    """Weight normalisation, then mean-only batch norm, whose offset replaces the layer's bias.

    gain: as in weight normalisation; sync, momentum: of the mean, as in `mean_spectral`.
    """
    return replace(
        mean_only(sync=sync, momentum=momentum), weight=partial(WeightNorm.of, gain=gain)
    )


ENTRIES: Entries = {
    "batch": Norm(output=batch_norm_of, cancels_bias=True),
    "batch_no_gain": Norm(output=partial(batch_norm_of, gain=False), cancels_bias=True),
    "weight": weight_norm,
    "weight_mean": weight_mean,
    "layer": layer_norm,
    "instance": instance_norm,
}
