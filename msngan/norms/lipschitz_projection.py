"""Lipschitz projection: after each step, scale a layer back to an operator norm of the bound.

Gouk, Frank, Pfahringer & Cree 2018, arXiv:1804.04368, algorithm 1: W <- W / max(1, sigma(W) /
bound), sigma the norm of the true convolution. The parameter itself is changed, no gradient goes
through sigma, and the layer computes with the weight as it is.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from msngan.norms.base import Norm
from msngan.norms.operator import OperatorNorm, checked_bound, checked_iterations


class LipschitzProjection(OperatorNorm):
    """Keep the operator's norm of a weight within `bound`, by scaling the parameter in place.

    It acts in `iterate` alone: under a SigmaBank after each optimizer step, or where the user calls
    it. Without a bank a training forward changes no weight, for an earlier pass may still be due
    its backward: make `SigmaBank(network, optimizer)`. Until the layer's first training input,
    whose size sigma needs, `iterate` does nothing.
    """

    may_iterate_in_passes = False

    def __init__(self, layer: nn.Module, *, bound: float = 1.0, iterations: int = 1) -> None:
        super().__init__(layer, iterations=iterations)
        self.bound = bound

    def extra_repr(self) -> str:
        return f"bound={self.bound}"

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def normalised(self, weight: Tensor) -> Tensor:
        """The weight as it is."""
        return weight.view_as(weight)  # a parameter that is lent would be registered

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """Improve the estimate, then W <- W / max(1, sigma / bound), in place."""
        super().iterate(weight, times)
        if self.known:
            weight.div_((self.sigma(weight) / self.bound).clamp_min(1).to(weight.dtype))


def lipschitz_projection(bound: float = 1.0, iterations: int = 1) -> Norm:
    """bound: the largest norm that a layer may have after an update, above 0.

    iterations: power iterations an update; more follow larger steps. Raises ValueError for others.
    """
    bound, iterations = checked_bound("bound", bound), checked_iterations(iterations)
    return Norm(
        weight=partial(LipschitzProjection, bound=bound, iterations=iterations),
        options=lipschitz_projection,
    )


LIPSCHITZ_PROJECTION = lipschitz_projection()
