"""What happens to a layer's weight: the module that maps the weight to the one computed with."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Part = TypeVar("Part", bound="WeightPart")


class Precise(nn.Module):
    """A module of which some buffers stay in float32 at least, whatever the module is cast to."""

    precise: tuple[str, ...] = ()

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        before = {name: getattr(self, name) for name in self.precise}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, buffer.to(moved.device, torch.float32))
        return self


class WeightPart(Precise):
    """forward(weight) is the weight that the layer computes with, of the same shape and dtype.

    In training each call of a part that keeps an estimate improves it first (`iterate`), unless a
    SigmaBank has taken over, which does so once per update. In eval nothing is written.
    """

    # Whether training without a bank is the same but for the number of iterations.
    may_iterate_in_passes = True

    def __init__(self) -> None:
        super().__init__()
        self.managed = False  # a SigmaBank iterates, once per update
        self._shared: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self._shared is not None:
            return self._shared
        if self.training and not self.managed:
            self.iterate(weight)
        return self.normalised(weight)

    def lend(self, weight: Tensor | None) -> None:
        """Compute with this weight until another is lent, or, with None, with its own."""
        # Past torch's registration: a part may lend the very parameter.
        object.__setattr__(self, "_shared", weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """The weight to compute with, differentiable twice in `weight`; writes nothing."""
        raise NotImplementedError

    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """Improve what is estimated about the weight, in place; called after each update."""

    def prepare(self, layer: nn.Module, x: Tensor) -> None:
        """See the layer and its input before it asks for a weight."""

    def __deepcopy__(self: Part, memo: dict[int, object]) -> Part:
        # A lent weight belongs to the bank's graph, and the bank knows the original only.
        duplicate = self.__class__.__new__(self.__class__)
        memo[id(self)] = duplicate
        state = {**self.__dict__, "_shared": None, "managed": False}
        duplicate.__dict__.update(copy.deepcopy(state, memo))
        return duplicate
