"""The weight half of a norm: a module that maps the stored weight to the one to compute with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, TypeVar
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

LOW_PRECISION = (torch.float16, torch.bfloat16)

Part = TypeVar("Part", bound="WeightPart")
Matrix = TypeVar("Matrix", bound="MatrixPart")

_fused_steps = 0


def _count_fused(optimizer: Optimizer, *_: Any) -> None:
    global _fused_steps
    _fused_steps += any(group.get("fused") for group in optimizer.param_groups)


# Fused optimizers write parameters without a new version of the tensor.
register_optimizer_step_post_hook(_count_fused)


def stamp(weight: Tensor) -> tuple[float, ...]:
    """What changes when a tensor is replaced or written; through `.data`, on a CPU alone."""
    version = -1 if weight.is_inference() else weight._version
    made = (version, weight.data_ptr(), _fused_steps)
    return (*made, _sum_of_some(weight)) if weight.is_cpu and weight.numel() else made


def _sum_of_some(weight: Tensor) -> float:
    """A sum of about eight values of each row, each times a number of its own."""
    step = max(1, weight[0].numel() // 8) | 1
    values = weight.detach()
    if 0 in weight.stride():  # expanded
        values = values.reshape(-1)[::step]
    else:  # in any dense layout
        count = (weight.numel() - 1) // step + 1
        values = values.as_strided((count,), (step,), weight.storage_offset())
    numbers = (values.float() if values.dtype in LOW_PRECISION else values).numpy()
    return float(numbers @ _factors(len(numbers), numbers.dtype.name))


@lru_cache(maxsize=256)
def _factors(count: int, dtype: str) -> np.ndarray:
    return np.cos(np.arange(count)).astype(dtype)


def normal_mode(weight: Tensor) -> AbstractContextManager[Any]:
    """Outside inference mode, where what is made could not be written later; for a plain weight."""
    compiling = torch.compiler.is_compiling()
    if not compiling and torch.is_inference_mode_enabled() and not weight.is_inference():
        return torch.inference_mode(False)
    return nullcontext()


def widened(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x if x.dtype == torch.float32 else x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(weight: Tensor) -> torch.autocast:
    """Outside autocast, also for a weight on the meta device."""
    return torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False)


def traced() -> bool:
    """Whether plain operations without values are wanted: compile, export, trace, torch.func."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
    )


def recomputing() -> bool:
    """Whether this runs within a backward pass, as activation checkpointing makes forwards do."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class Precise(nn.Module):
    """A module of which some buffers stay in float32 at least, whatever the module is cast to."""

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
        """After a load that assigned what it read."""
        for part in self.modules():
            for name in part.precise if isinstance(part, Precise) else ():
                setattr(part, name, widened(getattr(part, name)))


class WeightPart(Precise):
    """forward(weight) is the weight that the layer computes with, of the same shape and dtype.

    A part that estimates something of the weight overrides `iterate`, `fits` and `settle`, or has
    parts that do. Without a SigmaBank each training pass calls `iterate` if the weight has changed
    since the last one; with one, the bank does after each optimizer step. In other passes a weight
    that has changed since is looked at: where the estimate does not fit, it is made anew. In eval
    nothing is written but for that, and going back to training restores what was written then.
    """

    unit = True  # a zero weight is divided by 1
    # Whether training without a bank iterates.
    may_iterate_in_passes = True
    # Python state that belongs to one network and one moment: no copy or pickle has it.
    transient: dict[str, Any] = dict.fromkeys(
        ("_lent", "_past", "_seen", "_looked", "_handed", "_weight")
    )
    transient["managed"] = False

    def __init__(self) -> None:
        super().__init__()
        self.managed = False  # a SigmaBank iterates, once per update
        self._lent: Tensor | None = None
        self._past: Tensor | None = None  # lent before, for what is computed again in backward
        self._seen: object = None  # stamp of the weight that training's estimate is of
        self._looked: object = None  # and of the one that eval has looked at
        self._weight: Callable[[], Tensor | None] | None = None  # a reference to it
        self._copied = False  # from a part whose estimate was of its weight
        # Buffers that eval has replaced: of which module, its name, the buffer.
        self._in_training: list[tuple[nn.Module, str, Tensor]] = []
        self._zero = True  # the weight may be zero: then it is divided by 1

    def forward(self, weight: Tensor) -> Tensor:
        again = recomputing()
        lent = self._past if again and self._lent is None else self._lent
        if lent is not None and (lent.requires_grad or not _needs_graph(weight)):
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
        """Bring the estimate up to date with a weight that may have changed."""
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
        """The estimate is of this weight, in training and in eval."""
        self._in_training, self._zero = [], True
        self.mark(weight)

    def mark(self, weight: Tensor) -> object:
        """The estimate is of this weight; its stamp."""
        made = stamp(weight)
        self._seen = self._looked = None if weight.is_meta else made
        self._weight = ref(weight)
        return made

    def consistent(self, weight: Tensor) -> bool:
        """Whether what is kept of the estimate is the same, computed of this weight."""
        return all(part.consistent(weight) for part in self.estimates())

    def _iterates(self) -> bool:
        return self.training and not self.managed and self.may_iterate_in_passes

    def train(self: Part, mode: bool = True) -> Part:
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
        # Past torch's registration: a part may lend the very parameter.
        object.__setattr__(self, "_lent", weight)
        if weight is not None:
            object.__setattr__(self, "_past", weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """The weight to compute with by plain operations, differentiable twice; writes nothing."""
        raise NotImplementedError

    def quotient(self, weight: Tensor) -> Tensor:
        """The same as fast as it can be in eager mode."""
        return self.normalised(weight)

    def estimates(self) -> list[WeightPart]:
        """The parts that this one estimates by."""
        return [part for part in self.children() if isinstance(part, WeightPart)]

    def iterate(self, weight: Tensor) -> None:
        """Improve in place what is estimated about the weight."""
        for part in self.estimates():
            part.iterate(weight)

    def fits(self, weight: Tensor) -> bool:
        """Whether the estimate is of this weight."""
        return all(part.fits(weight) for part in self.estimates())

    def settle(self, weight: Tensor) -> None:
        """Estimate from the start, until it is right."""
        for part in self.estimates():
            part.settle(weight)

    def loaded(self, weight: Tensor) -> None:
        """A state dict has been read, of this weight or of this part or of both."""
        parts = self.estimates()
        for part in parts:
            part.loaded(weight)
        if not parts and not weight.is_meta and not self.fits(weight):
            self.settle(weight)
        self.known_in_eval(weight)

    def known_in_eval(self, weight: Tensor) -> None:
        """After a load: eval computes with the estimate that was read; training improves it."""
        self.known_in_both(weight)
        self._seen = None

    def state_of(self, weight: Tensor) -> dict[str, Any]:
        """The state that a state dict lacks which is that of a plain layer with this weight."""
        return self.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        # A lent weight belongs to the bank's graph, and the bank knows the original only.
        weight = self._weight() if self._weight else None
        known = weight is not None and stamp(weight) in (self._seen, self._looked)
        return {**self.__dict__, **self.transient, "_copied": known or self._copied}

    def __deepcopy__(self: Part, memo: dict[int, object]) -> Part:
        duplicate = self.__class__.__new__(self.__class__)
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return duplicate


def _needs_graph(weight: Tensor) -> bool:
    return torch.is_grad_enabled() and weight.requires_grad


class MatrixPart(WeightPart):
    """One that takes the weight for a matrix, (outputs) x (inputs * kernel), in `groups` blocks.

    output_axis: that of the weight along which its outputs lie, 0, or 1 where inputs come first.
    """

    def __init__(self, weight: Tensor, *, output_axis: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.output_axis, self.groups = output_axis, groups

    @classmethod
    def of(cls: type[Matrix], layer: nn.Module, name: str = "weight", **options: Any) -> Matrix:
        """The part of the weight `name` of a torch layer."""
        # Transposed convolutions store the inputs first.
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        return cls(getattr(layer, name), output_axis=axis, groups=groups, **options)
