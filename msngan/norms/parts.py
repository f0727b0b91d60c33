"""What happens to a layer's weight: the module that maps the weight to the one computed with."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from msngan.norms.precision import Precise

Part = TypeVar("Part", bound="WeightPart")
Matrix = TypeVar("Matrix", bound="MatrixPart")


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


class MatrixPart(WeightPart):
    """One that takes the weight for a matrix, (outputs) x (inputs * kernel), in `groups` blocks.

    output_axis: that of the weight along which its outputs lie, 0, or 1 where inputs come first.
    """

    def __init__(self, weight: Tensor, *, output_axis: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.output_axis, self.groups = output_axis, groups

    @classmethod
    def of(cls: type[Matrix], layer: nn.Module, **options: Any) -> Matrix:
        """The part of a torch convolution, transposed convolution or linear layer."""
        assert isinstance(layer.weight, Tensor)
        # Transposed convolutions store the inputs first.
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        groups = getattr(layer, "groups", 1)
        return cls(layer.weight, output_axis=axis, groups=groups, **options)


def outputs_of(layer: nn.Module) -> tuple[int, int]:
    """How many channels a convolution or linear layer puts out, and along which axis."""
    linear = isinstance(layer, nn.Linear)
    channels = layer.out_features if linear else layer.out_channels
    assert isinstance(channels, int)
    return channels, -1 if linear else 1
