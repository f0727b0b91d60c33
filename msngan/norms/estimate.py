"""The largest singular value of a matrix that changes a little with each training step.

A single vector, as in Miyato et al. 2018 (arXiv:1802.05957, algorithm 1), follows too slowly: while
a network is young, singular values lie close together and overtake each other, and the estimate was
up to 36 % too small. Here a block of vectors is iterated (orthogonal iteration) and the estimate is
the best that its span has (Rayleigh-Ritz; Golub & Van Loan, Matrix Computations, chapter 8.2 and
8.3). Reading the matrix costs most of a product, so that a block costs little more than a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 16  # vectors; as many as there are rows or columns, where these are fewer
GOLDEN_RATIO = (5**0.5 - 1) / 2
SQUARINGS = 12
# An iteration that raises the estimate by less than this share ends an update, or a settling.
ENOUGH, SETTLED = 2e-4, 1e-5
MOST, MOST_SETTLING = 8, 100


class Found(NamedTuple):
    """What an iteration of a block x (..., d, k) finds of A (..., d, n), by y = A^T x and z = A y.

    block: the next x, orthonormal. value: (...,), the estimate of sigma^2 by x itself, and sigma
    (...,), the better one by y. weights: (..., k, 1), so that y @ weights is a unit vector, the
    right singular vector, and left (..., d) = z @ weights is sigma times the left one.
    """

    block: Tensor
    value: Tensor
    weights: Tensor
    left: Tensor
    sigma: Tensor

    def growth(self) -> Tensor:
        """By which share the iteration raised the estimate, (...,)."""
        least = torch.finfo(self.value.dtype).tiny
        return self.sigma / self.value.clamp_min(least).sqrt() - 1


def start(shape: Sequence[int], like: Tensor) -> Tensor:
    """An orthonormal block (groups, size, k), the same in every run and process."""
    # Fractions of k^2 times an irrational: as good as noise, without a random stream.
    steps = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device=like.device)
    block = (steps.square() * GOLDEN_RATIO).frac().sub(0.5).view(*shape)
    return orthonormal(block.to(like.dtype))


def looks(x: Tensor) -> bool:
    """Whether values may be read: no device waits for it, and no compiler has to follow."""
    return x.is_cpu and not torch.compiler.is_compiling()


def orthonormal(block: Tensor) -> Tensor:
    """An orthonormal basis of the columns, and of more where they are dependent."""
    return torch.linalg.qr(block)[0]


def advance(x: Tensor, z: Tensor) -> Found:
    """One iteration of an orthonormal block x, given z = A A^T x."""
    value, vector, smallest = leading(x.mT @ z)
    least = torch.finfo(value.dtype).tiny
    weights = (vector * value.clamp_min(least).rsqrt()[..., None])[..., None]
    left = (z @ weights)[..., 0]
    # Half the smallest value of the span taken away, what is outside it fades sooner.
    if x.shape[-1] > 1:  # of a single vector it is the largest
        z = torch.addcmul(z, x, smallest[..., None, None], value=-0.5)
    block = orthonormal(z)
    return Found(block, value, weights, left, torch.linalg.vector_norm(left, dim=-1))


def leading(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a symmetric (..., k, k) the largest eigenvalue (...,) and its unit eigenvector (..., k), and
    about the smallest eigenvalue."""
    if looks(gram):
        try:
            values, vectors = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError:  # it does not take a NaN
            vector = torch.full_like(gram[..., 0], math.nan)
            return vector[..., 0], vector, vector[..., 0]
        return values[..., -1], vectors[..., -1], values[..., 0]
    # eigh would make a GPU wait. A high power of the matrix has the vector in every column.
    power = gram
    for _ in range(SQUARINGS):
        size = power.abs().amax((-2, -1), keepdim=True)
        power = power / size.masked_fill(size == 0, 1)
        power = power @ power
    size, column = torch.linalg.vector_norm(power, dim=-2).max(-1)
    vector = torch.take_along_dim(power, column[..., None, None], -1)[..., 0]
    vector = vector / size.masked_fill(size == 0, 1)[..., None]
    value = (vector[..., None, :] @ gram @ vector[..., None])[..., 0, 0]
    return value, vector, gram.diagonal(dim1=-2, dim2=-1).amin(-1)


def iterated(
    x: Tensor, products: Callable[[Tensor], tuple[Tensor, Tensor]], enough: float, most: int
) -> tuple[Found, Tensor]:
    """Iterations until one raises the estimate by less than `enough`, `most` of them at most.

    products: gives y and z of x. A single iteration where a look at the values would make a device
    wait or a compiler has to follow. Returns what the last one found, and its y.
    """
    while True:
        y, z = products(x)
        found = advance(x, z)
        most -= 1
        # A NaN ends it, too.
        if not looks(x) or most <= 0 or not bool((found.growth() > enough).any()):
            return found, y
        x = found.block
