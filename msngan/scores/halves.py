"""Symmetric products of float64 matrices, of which one half is the whole."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512  # rows of a product made at once: what is above the diagonal is left out block by block


def lower(a: Tensor, b: Tensor) -> Tensor:
    """The lower half (n, n) of a @ b, a (n, m) and b (m, n), where that is symmetric.

    What is above the diagonal is not set. Little more than half of a product's work: torch has no
    product that knows of its result's symmetry.
    """
    count = len(a)
    product = a.new_zeros(count, count)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        torch.mm(a[start:stop], b[:, :stop], out=product[start:stop, :stop])
    return product


def sum_of_roots(half: Tensor) -> float:
    """Sum of the square roots of the eigenvalues of a positive semidefinite matrix.

    half: (n, n), read on and below the diagonal. Eigenvalues that rounding has made negative are 0.
    """
    return float(torch.linalg.eigvalsh(half, UPLO="L").clamp(min=0).sqrt().sum())


def sum_of_singular_values(a: Tensor) -> float:
    """Of a (n, m), by the eigenvalues of the smaller of a a' and a' a."""
    short = a if a.shape[0] < a.shape[1] else a.T
    return sum_of_roots(lower(short, short.T))


def sum_of_squares(a: Tensor) -> float:
    """Of all elements. a.square().sum() would make a copy, which takes longer than the sum."""
    return float(torch.linalg.vector_norm(a)) ** 2
