"""Spectral normalisation as the authors' released code does it. For comparison only.

github.com/AntixK/mean-spectral-norm, commit 9772d81: the stored weight is overwritten with
W / sigma, sigma by 100 power iterations, and no gradient goes through sigma. So this is a
projection after each step, not the reparametrisation of equations 2, 8 and 9: the gradient is that
of a plain layer, and a step along it can raise the loss. The norm `spectral` follows the equations.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from msngan.norms.base import Norm
from msngan.norms.estimate import start
from msngan.norms.operator import checked_iterations
from msngan.norms.parts import MatrixPart, full_precision, recomputing, widened

TINY = 1e-12  # keeps a zero weight zero, and its u as it is


class ReleasedSpectralNorm(MatrixPart):
    """Overwrite the weight with W / sigma(W) in training; the layer computes with what is stored.

    u: buffer (groups, outputs / groups, 1), unit vectors in float32 at least; zeros until the first
    projection. sigma is that of the weight as a matrix, the largest over groups.

    The first training pass overwrites the weight; after it each update of a SigmaBank does, or
    without one each training pass. Evaluation writes nothing; before the first it divides by sigma.
    """

    precise = ("u",)
    u: Tensor

    def __init__(self, weight: Tensor, *, iterations: int = 100, **layout: int) -> None:
        super().__init__(weight, **layout)
        self.iterations, self.known = iterations, False
        rows = weight.shape[self.output_axis] // (1 if self.output_axis else self.groups)
        self.register_buffer("u", widened(weight.detach()).new_zeros(self.groups, rows, 1))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and not (self.managed and self.known) and not recomputing():
            self.iterate(weight)
        return self.normalised(weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """A view of the weight; before the first projection W / sigma. Sigma is a constant."""
        if self.known:
            return weight.view_as(weight)
        return weight / self._estimate(weight, self.iterations)[1].to(weight.dtype)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Improve u, then W <- W / sigma, in place."""
        u, sigma = self._estimate(weight, self.iterations)
        self.u.copy_(u)
        # .data, as in the released code, so that a pass that is still due its backward may have it.
        weight.data.div_(sigma.to(weight.dtype))
        self.known = True

    @torch.no_grad()
    def _estimate(self, weight: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """u and sigma, a scalar > 0, after so many power iterations from the stored u."""
        with full_precision(weight):
            blocks = widened(weight.detach()).unflatten(0, (self.groups, -1))
            if self.output_axis:  # (groups, inputs / groups, outputs / groups, *kernel)
                blocks = blocks.transpose(1, 2)
            matrix = blocks.flatten(2)
            length = matrix.norm().clamp_min(TINY)
            square = (matrix / length) @ (matrix / length).mT  # small, for u <- W (W^T u)
            square.diagonal(dim1=1, dim2=2).add_(TINY)
            u = self.u if self.known else start(self.u.mT.shape, self.u).mT
            for _ in range(times):
                u = square @ u
                u = u / u.norm(dim=1, keepdim=True)
            return u, (matrix.mT @ u).norm(dim=1).max().clamp_min(TINY)

    def loaded(self, weight: Tensor) -> None:
        self.known = not self.u.is_meta and bool(self.u.any())


def released_spectral(iterations: int = 100) -> Norm:
    """iterations: power iterations of each projection. Raises ValueError unless at least 1."""
    weight = partial(ReleasedSpectralNorm.of, iterations=checked_iterations(iterations))
    return Norm(weight=weight, options=released_spectral)


RELEASED_SPECTRAL = released_spectral()
