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
UNSEEN = 2, 15  # iterations of an update, and of a settling, where no value is looked at


class Found(NamedTuple):
    """What an iteration of a block x (..., k, d) finds of A (..., d, n), by y = x A and z = A y^T.

    The vectors of a block are its rows, for which the products take least time.
    block: the next x, orthonormal. value: (...,), the estimate of sigma^2 by x itself. vector:
    (..., k, 1), a unit vector: y^T vector, of length sqrt(value), is in the direction of the right
    singular vector, and left (..., d) = z @ vector of the left one. |left| / sqrt(value) is sigma,
    better than sqrt(value).
    """

    block: Tensor
    value: Tensor
    vector: Tensor
    left: Tensor


def start(shape: Sequence[int], like: Tensor) -> Tensor:
    """An orthonormal block (groups, k, size), the same in every run and process."""
    # Fractions of k^2 times an irrational: as good as noise, without a random stream.
    steps = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device=like.device)
    block = (steps.square() * GOLDEN_RATIO).frac().sub(0.5).view(*shape)
    return orthonormal(block.to(like.dtype).mT).mT.contiguous()


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns, and of more where they are dependent or zero."""
    return torch.linalg.qr(columns)[0]


def looks(x: Tensor) -> bool:
    """Whether values may be read: no device waits for it, and no compiler has to follow."""
    return x.is_cpu and not torch.compiler.is_compiling()


def advance(x: Tensor, z: Tensor) -> Found:
    """One iteration of an orthonormal block x, given z = A A^T x^T."""
    value, vector = leading(x @ z)
    return Found(orthonormal(z).mT, value, vector[..., None], (z @ vector[..., None])[..., 0])


def leading(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (...,) of a symmetric (..., k, k), and its eigenvector (..., k)."""
    if looks(gram):
        try:
            values, vectors = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError:  # it does not take a NaN
            vector = torch.full_like(gram[..., 0], math.nan)
            return vector[..., 0], vector
        return values[..., -1], vectors[..., -1]
    # eigh would make a GPU wait. A high power of the matrix has the vector in every column.
    power = gram
    for _ in range(SQUARINGS):
        size = power.abs().amax((-2, -1), keepdim=True)
        power = power / size.masked_fill(size == 0, 1)
        power = power @ power
    size, column = torch.linalg.vector_norm(power, dim=-2).max(-1)
    vector = torch.take_along_dim(power, column[..., None, None], -1)[..., 0]
    vector = vector / size.masked_fill(size == 0, 1)[..., None]
    return (vector[..., None, :] @ gram @ vector[..., None])[..., 0, 0], vector


def moves(value: float, length: float, enough: float) -> bool:
    """Whether an iteration with this value and |left| raised sigma by more than a share."""
    return length > (1 + enough) * value > 0


def iterated(
    x: Tensor, products: Callable[[Tensor], tuple[Tensor, Tensor]], enough: float, most: int
) -> tuple[Found, Tensor]:
    """Iterations until one raises the estimate by less than `enough`, `most` of them at most.

    products: gives y and z of x. Where a look at the values would make a device wait in each
    update, or a compiler has to follow, as many iterations as UNSEEN says. Returns what the last
    one found, and its y.
    """
    settles = enough < ENOUGH
    values = looks(x) or (settles and not torch.compiler.is_compiling())
    most = most if values else min(most, UNSEEN[settles])
    while True:
        y, z = products(x)
        found = advance(x, z)
        most -= 1
        if most <= 0:
            return found, y
        if values:
            lengths = torch.linalg.vector_norm(found.left, dim=-1).flatten().tolist()
            pairs = zip(found.value.flatten().tolist(), lengths, strict=True)
            if not any(moves(value, length, enough) for value, length in pairs):  # or is NaN
                return found, y
        x = found.block
