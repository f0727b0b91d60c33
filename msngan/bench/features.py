"""Simulated features for `bench scores`: a network's are not needed to time arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHRUNK, SHIFT = 0.9, 0.1  # fakes are a little less varied than real features, and off their mean


@dataclass(frozen=True)
class Simulated:
    """Gaussian features of eigenvalues 1/k in a random basis, from a fixed seed; all float64.

    The real ones have mean zero, so that their moments are known and not estimated.
    """

    dimensions: int

    @cached_property
    def root(self) -> Tensor:
        """(d, d) with root @ root.T the real covariance."""
        draw = torch.Generator().manual_seed(0)
        shape = self.dimensions, self.dimensions
        basis = torch.linalg.qr(torch.randn(shape, generator=draw, dtype=torch.float64))[0]
        return basis / torch.arange(1, self.dimensions + 1).double().sqrt()

    @cached_property
    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    @cached_property
    def mean(self) -> Tensor:
        return torch.zeros(self.dimensions, dtype=torch.float64)

    def real(self, count: int) -> Tensor:
        return self._normal(count, 1) @ self.root.T

    def fake(self, count: int) -> Tensor:
        return SHRUNK * self._normal(count, 2) @ self.root.T + SHIFT * self.root[:, 0]

    def _normal(self, count: int, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.dimensions, generator=draw, dtype=torch.float64)
