"""What a norm is, and the base classes of its first half, the part for weights.

A norm has two parts: what happens to a layer's weight and what happens to its output. MSN is then
(spectral norm, centring), SN is (spectral norm, nothing), BN is (nothing, batch norm), and no
network needs an `if`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

if TYPE_CHECKING:
    from typing_extensions import Self

LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Norm:
    """One entry of NORMS.

    weight: makes, for a layer and the name of one of its weights, the module that maps the stored
        weight to the one that the layer computes with: a WeightPart, or any module of one tensor.
    output: makes, for a layer, the module that its output goes through.
    cancels_bias: the output part removes or replaces any constant per channel, so that a bias of
        the layer would be dead (its gradient is rounding noise, which Adam turns into a random
        walk) or a duplicate.
    options: makes this norm with other options, its keyword arguments; None if it has no options.
    """

    weight: Callable[[nn.Module, str], nn.Module] | None = None
    output: Callable[[nn.Module], nn.Module] | None = None
    cancels_bias: bool = False
    options: Callable[..., Norm] | None = None

    def __post_init__(self) -> None:
        assert self.output or not self.cancels_bias


# Norms by name: each is a Norm, or a function that returns one, whose arguments are its options.
Entries = dict[str, Norm | Callable[..., Norm]]


def outputs_of(layer: nn.Module) -> tuple[int, int]:
    """The number of output channels of a layer, and the axis of its output that has them."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels, 1
    assert isinstance(layer, (nn.Linear, nn.Bilinear))
    return layer.out_features, -1


class OutputPart(nn.Module):
    """A norm's part for outputs (N, channels, ...) or, with channel_axis -1, (..., channels)."""

    @classmethod
    def of(cls, layer: nn.Module, **options: Any) -> Self:
        """The part for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
        channels, axis = outputs_of(layer)
        return cls(channels, channel_axis=axis, **options)


def listed(names: Iterable[str]) -> str:
    """Names of layers or parameters for a message: at most 12, and how many more there are."""
    shown = [name or "(the module itself)" for name in names]
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    return ", ".join(shown[:12]) + more


def _mark_fused(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group.get("fused"):
            increment_version(group["params"])


# Fused optimizers write parameters without a new version of the tensor.
register_optimizer_step_post_hook(_mark_fused)


def stamp(weight: Tensor) -> tuple[float, ...]:
    """A value that changes when a tensor is replaced or written.

    A write through `.data` changes it on a CPU only.
    """
    version = -1 if weight.is_inference() else weight._version
    made = (version, weight.data_ptr())
    return (*made, _sum_of_some(weight)) if weight.is_cpu and weight.numel() else made


def _sum_of_some(weight: Tensor) -> float:
    """A weighted sum of about eight values per row, with different weights."""
    step = max(1, weight[0].numel() // 8) | 1
    values = weight.detach()
    if 0 in weight.stride():  # expanded
        values = values.reshape(-1)[::step]
    else:  # any dense memory layout
        count = (weight.numel() - 1) // step + 1
        values = values.as_strided((count,), (step,), weight.storage_offset())
    numbers = (values.float() if values.dtype in LOW_PRECISION else values).numpy()
    return float(numbers @ _factors(len(numbers), numbers.dtype.name))


@lru_cache(maxsize=256)
def _factors(count: int, dtype: str) -> np.ndarray:
    return np.cos(np.arange(count)).astype(dtype)


def normal_mode(weight: Tensor) -> AbstractContextManager[Any]:
    """Leave inference mode for a normal weight: a tensor made in it cannot be written later."""
    compiling = torch.compiler.is_compiling()
    if not compiling and torch.is_inference_mode_enabled() and not weight.is_inference():
        return torch.inference_mode(False)
    return nullcontext()


def widened(x: Tensor) -> Tensor:
    """x in float32, or float64 if it already is."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(weight: Tensor) -> torch.autocast:
    """A context without autocast; also for a weight on the meta device."""
    return torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False)


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, convolutions and products of float32 are computed in float32.

    TensorFloat-32 or bfloat16, the default on a GPU or chosen for speed, are less precise.
    """
    backends: Any = torch.backends  # its modules are replaced when they are imported
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    places = [cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv]
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def traced() -> bool:
    """Whether only operations that read no values may run: compile, export, trace, torch.func."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
    )


def recomputing() -> bool:
    """Whether this runs inside a backward pass, as under activation checkpointing."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class Precise(nn.Module):
    """A module with buffers (`precise`) that stay in float32 or above when the module is cast."""

    precise: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Precise:
        before = {name: getattr(self, name) for name in self.precise}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in LOW_PRECISION:
                setattr(self, name, buffer.to(moved.device, torch.float32))
        return self

    def widen(self) -> None:
        """Widen the precise buffers again, after load_state_dict(assign=True)."""
        for part in self.modules():
            for name in part.precise if isinstance(part, Precise) else ():
                setattr(part, name, widened(getattr(part, name)))


class WeightPart(Precise):
    """forward(weight) is the weight that the layer computes with, of the same shape and dtype.

    A part that needs no estimate overrides `normalised` only. A part that estimates something about
    the weight also overrides `iterate`, `fits` and `settle`, or has child parts that do. Without a
    SigmaBank, each training pass calls `iterate` if the weight has changed since the last call;
    with a bank, the bank calls it after each optimizer step. Other passes check a weight that has
    changed: where the estimate does not fit, it is made anew. Eval writes nothing else, and going
    back to training restores what eval wrote.
    """

    unit = True  # whether the part leaves a zero weight as it is
    may_iterate_in_passes = True  # whether training without a bank iterates
    # Python state that belongs to one network at one time: copies and pickles do not get it.
    transient: dict[str, Any] = dict.fromkeys(
        ("_lent", "_past", "_seen", "_looked", "_handed", "_weight")
    )
    transient["managed"] = False

    def __init__(self) -> None:
        super().__init__()
        self.managed = False  # a SigmaBank iterates it, once per update
        self._lent: Tensor | None = None
        self._past: Tensor | None = None  # lent last, for recomputation in a backward pass
        self._seen: object = None  # stamp of the weight that training's estimate belongs to
        self._looked: object = None  # stamp of the weight that eval has checked
        self._weight: Callable[[], Tensor | None] | None = None  # a weak reference to that weight
        self._copied = False  # from a part whose estimate fitted its weight
        # Buffers that eval has replaced: module, name, and training's buffer.
        self._in_training: list[tuple[nn.Module, str, Tensor]] = []
        self._zero = True  # whether the weight may be zero; a zero weight stays as it is

    def forward(self, weight: Tensor) -> Tensor:
        again = recomputing()
        lent = self._past if again and self._lent is None else self._lent
        if lent is not None and (lent.requires_grad or not needs_graph(weight)):
            return lent
        if self._zero and self.unit and not (traced() or weight.is_meta):
            self._zero = not bool(weight.any())
            if self._zero:
                return weight
        if traced() or weight.is_meta:
            if torch.compiler.is_compiling() and self._iterates():
                self.iterate(weight)
            return self.normalised(weight)
        if not again:
            self.follow(weight)
        return self.quotient(weight)

    def follow(self, weight: Tensor) -> None:
        """Bring the estimate up to date if the weight has changed."""
        if (self._seen if self.training else self._looked) != stamp(weight):
            with normal_mode(weight):
                self._follow(weight)

    def _follow(self, weight: Tensor) -> None:
        copied, self._copied = self._copied, False
        if copied and self.consistent(weight):
            self.known_in_both(weight)
            return
        if self._iterates():
            self.iterate(weight)
        elif not self.fits(weight):
            if not self.training and not self._in_training:
                self._replace_buffers()
            self.settle(weight)
        self._weight = ref(weight)
        if self.training:
            self._seen = stamp(weight)
        else:
            self._looked = stamp(weight)

    def known_in_both(self, weight: Tensor) -> None:
        """Record that the estimate belongs to this weight, in training and in eval."""
        self._in_training, self._zero = [], True
        self.mark(weight)

    def mark(self, weight: Tensor) -> object:
        """Record the same, but keep the buffers of training; return the stamp of the weight."""
        made = stamp(weight)
        self._seen = self._looked = None if weight.is_meta else made
        self._weight = ref(weight)
        return made

    def consistent(self, weight: Tensor) -> bool:
        """Whether the stored estimate is what its own vectors give for this weight."""
        return all(part.consistent(weight) for part in self.estimates())

    def _iterates(self) -> bool:
        return self.training and not self.managed and self.may_iterate_in_passes

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self._in_training:
            for module, name, buffer in self._in_training:
                module._buffers[name] = buffer.to(module._buffers[name])
            self._in_training, self._looked = [], None
        return self

    def _replace_buffers(self) -> None:
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self._in_training.append((module, name, buffer))
                    module._buffers[name] = buffer.clone()

    def lend(self, weight: Tensor | None) -> None:
        """Use this weight in place of the layer's own; None restores the layer's own."""
        # Not by torch's __setattr__, which would register a parameter that is lent as it is.
        object.__setattr__(self, "_lent", weight)
        if weight is not None:
            object.__setattr__(self, "_past", weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """The weight to compute with, by plain operations, twice differentiable; writes nothing."""
        raise NotImplementedError

    def quotient(self, weight: Tensor) -> Tensor:
        """The same, by the fastest way in eager mode."""
        return self.normalised(weight)

    def estimates(self) -> list[WeightPart]:
        """The child parts that hold the estimates."""
        return [part for part in self.children() if isinstance(part, WeightPart)]

    def iterate(self, weight: Tensor) -> None:
        """Improve the estimates of the weight, in place."""
        for part in self.estimates():
            part.iterate(weight)

    def fits(self, weight: Tensor) -> bool:
        """Whether the estimates are right for this weight."""
        return all(part.fits(weight) for part in self.estimates())

    def settle(self, weight: Tensor) -> None:
        """Estimate anew from the beginning, until the estimates are right."""
        for part in self.estimates():
            part.settle(weight)

    def loaded(self, weight: Tensor) -> None:
        """Called after load_state_dict, which may have changed the weight, this part, or both."""
        parts = self.estimates()
        for part in parts:
            part.loaded(weight)
        lags = not parts and not weight.is_meta and not self.fits(weight)
        if lags and not self.consistent(weight):
            self.settle(weight)
            lags = False
        # Where the estimate is of this weight, training goes on as if it had not been interrupted,
        # also with one that lags behind large steps; eval then looks at it.
        self.known_in_both(weight)
        if any(part._seen is None for part in parts):
            self._seen = None
        if lags or any(part._looked is None for part in parts):
            self._looked = None

    def known_in_eval(self, weight: Tensor) -> None:
        """Record that eval may use the estimate of another program; training improves it first."""
        self.known_in_both(weight)
        self._seen = None

    def state_of(self, weight: Tensor) -> dict[str, Any]:
        """The state of this part for a state dict of a plain layer with this weight."""
        return self.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        # A lent weight belongs to the graph of the bank, which does not know the copy.
        weight = self._weight() if self._weight else None
        known = weight is not None and stamp(weight) in (self._seen, self._looked)
        return {**self.__dict__, **self.transient, "_copied": known or self._copied}

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        duplicate = self.__class__.__new__(self.__class__)
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return duplicate


def needs_graph(weight: Tensor) -> bool:
    """Whether what is made of the weight must carry a gradient to it."""
    return torch.is_grad_enabled() and weight.requires_grad


class MatrixPart(WeightPart):
    """A part that views the weight as a matrix, (outputs) x (inputs * kernel), in `groups` blocks.

    output_axis: the axis of the weight that has the outputs: 0, or 1 for a transposed convolution.
    """

    def __init__(self, weight: Tensor, *, output_axis: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.output_axis, self.groups = output_axis, groups

    @classmethod
    def of(cls, layer: nn.Module, name: str = "weight", **options: Any) -> Self:
        """The part for the weight `name` of a torch layer."""
        # Transposed convolutions store the inputs first.
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        return cls(getattr(layer, name), output_axis=axis, groups=groups, **options)
