"""Bidirectional and scaled spectral normalisation (BSN, SSN, BSSN).

Lin, Sekar & Fanti 2021, arXiv:2009.02773. A convolution's weight is a matrix in two ways, (outputs)
x (inputs * kernel), which bounds the forward pass, and (inputs) x (outputs * kernel), which bounds
the backward pass: BSN divides by the mean of the two largest singular values. The scaled forms
multiply every normalised weight, the head's too, by one factor for the whole run.
"""

from __future__ import annotations

from functools import partial
from math import inf

import torch
from torch import Tensor

from msngan.norms.base import Norm
from msngan.norms.spectral import SigmaPart, SpectralNorm

# In all of the authors' grids: 0.7 to 4.0 on CIFAR-10, 0.7 to 1.6 on STL-10 and CelebA. They search
# it for each data set; 1 is spectral normalisation as it was.
SCALE = 1.4


class BidirectionalSpectralNorm(SigmaPart):
    """Map a weight W to scale * W / sigma(W), sigma the mean over two directions.

    by_outputs, by_inputs: a SpectralNorm each, with its own persistent u and v. Of a linear layer's
    weight one matrix is the other's transpose, so by_inputs is None and this is SpectralNorm. With
    groups the convolution is block diagonal both ways: each direction takes its largest group.
    """

    by_inputs: SpectralNorm | None

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        self.scale = scale
        self.by_outputs = SpectralNorm(weight, output_axis=output_axis, groups=groups)
        # Transposed convolutions store the inputs first: each direction is the other's plain one.
        other = partial(SpectralNorm, output_axis=1 - output_axis, groups=groups)
        self.by_inputs = other(weight) if weight.dim() > 2 else None

    def sigma(self, weight: Tensor) -> Tensor:
        """The mean of the two estimates u^T W v, a scalar > 0, differentiable in W."""
        forwards = self.by_outputs.sigma(weight)
        if self.by_inputs is None:
            return forwards
        return (forwards + self.by_inputs.sigma(weight)) / 2

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """One power iteration in each direction, in place, `times` over."""
        for direction in (self.by_outputs, self.by_inputs):
            if direction is not None:
                direction.iterate(weight, times)


def _checked(scale: float) -> float:
    if not isinstance(scale, (int, float)) or not 0 < scale < inf:
        raise ValueError(f"scale {scale!r} is not a number above 0; choose 0.7 to 4.0, say")
    return scale


def scaled(scale: float = SCALE) -> Norm:
    """Spectral normalisation times `scale`, which is above 0 and the same for every layer."""
    return Norm(weight=partial(SpectralNorm.of, scale=_checked(scale)), options=scaled)


def bidirectional_scaled(scale: float = SCALE) -> Norm:
    """Bidirectional spectral normalisation times `scale`, above 0, the same for every layer."""
    weight = partial(BidirectionalSpectralNorm.of, scale=_checked(scale))
    return Norm(weight=weight, options=bidirectional_scaled)


BIDIRECTIONAL = Norm(weight=BidirectionalSpectralNorm.of)
SCALED, BIDIRECTIONAL_SCALED = scaled(), bidirectional_scaled()
