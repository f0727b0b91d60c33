"""Spectral clipping: scale a weight down where the layer as an operator has a norm above beta.

Farnia, Zhang & Tse 2019, arXiv:1811.07457, section 4: W / max(1, sigma(W) / beta), sigma the norm
of the true convolution with its stride and padding. A weight within the bound is left as it is.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from msngan.norms.base import Norm
from msngan.norms.operator import OperatorNorm, checked_bound, checked_iterations


class SpectralClip(OperatorNorm):
    """Map a weight W to W / max(1, sigma / beta), sigma the operator's norm.

    Where sigma > beta the gradient goes through sigma, so that <dL/dW, W> = 0; elsewhere the map is
    the identity. Until the layer's first training input, whose size sigma needs, the weight is used
    as it is, also in eval and in a fold.
    """

    def __init__(self, layer: nn.Module, *, beta: float = 1.0, iterations: int = 1) -> None:
        super().__init__(layer, iterations=iterations)
        self.beta = beta

    def extra_repr(self) -> str:
        return f"beta={self.beta}"

    def normalised(self, weight: Tensor) -> Tensor:
        """W / max(1, sigma / beta), differentiable in W; v as it is."""
        if not self.known:
            return weight.view_as(weight)  # a parameter that is lent would be registered
        return weight / (self.sigma(weight) / self.beta).clamp_min(1).to(weight.dtype)


def spectral_clip(beta: float = 1.0, iterations: int = 1) -> Norm:
    """beta: the largest norm that a layer may have, above 0.

    iterations: power iterations an update; more follow larger steps. Raises ValueError for others.
    """
    beta, iterations = checked_bound("beta", beta), checked_iterations(iterations)
    return Norm(
        weight=partial(SpectralClip, beta=beta, iterations=iterations), options=spectral_clip
    )


SPECTRAL_CLIP = spectral_clip()
