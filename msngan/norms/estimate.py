"""Estimates of the largest singular value of a matrix that each training step changes a little.

A single vector, as in Miyato et al. 2018 (arXiv:1802.05957, algorithm 1), follows too slowly: the
estimate was up to 36 % too small. Here a block of vectors is iterated (orthogonal iteration), and
the estimate is the best in its span (Rayleigh-Ritz; Golub & Van Loan, Matrix Computations, 8.2 and
8.3). A block costs little more than a vector, because most of the time is spent reading the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from msngan.norms.parts import WeightPart

BLOCK = 16  # vectors, or the number of rows or columns where that is smaller
GOLDEN_RATIO = (5**0.5 - 1) / 2
SQUARINGS, IN_A_ROW = 12, 4  # of a matrix, and without a division between them
SHIFT = 1e-3  # of A A^T, as a share of its largest product with a vector of a block
# An update ends when an iteration raises the estimate by a smaller share than ENOUGH, an estimate
# from the beginning when it is smaller than SETTLED; MOST: the largest number of iterations.
ENOUGH, SETTLED = 2e-4, 1e-5
MOST, MOST_SETTLING = 8, 100
UNSEEN = 2, 15  # iterations of either where no value is read
ROUNDING = 100  # units of rounding between two sigmas of one weight
ALLOWED = 1.015  # an estimate is kept while sigma is at most this factor above it


class Found(NamedTuple):
    """The result of an iteration of a block x (..., k, d) for A (..., d, n); y = x A, z = A y^T.

    The vectors of a block are its rows, which makes the products fastest. block: the next x,
    orthonormal. value: (...,), the estimate of sigma^2 that x gives. vector: (..., k, 1), a unit
    vector: y^T vector, of length sqrt(value), has the direction of the right singular vector, and
    left (..., d) = z @ vector that of the left one. sigma is |left| / sqrt(value), which is more
    accurate than sqrt(value).
    """

    block: Tensor
    value: Tensor
    vector: Tensor
    left: Tensor


def start(shape: Sequence[int], like: Tensor) -> Tensor:
    """An orthonormal block (groups, k, size) to start from, the same in every run and process."""
    # Fractions of k^2 times an irrational number serve as noise without a random generator.
    # On the CPU, because not every device has float64.
    steps = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device="cpu")
    block = (steps.square() * GOLDEN_RATIO).frac().sub(0.5).view(*shape)
    return orthonormal(block.to(like.dtype).mT).mT.contiguous().to(like.device)


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns, filled up where they are dependent or zero."""
    return torch.linalg.qr(columns)[0]


def following(x: Tensor, z: Tensor, decompose: bool | None = None) -> Tensor:
    """The next block: orthonormal rows (..., k, d) that span the columns of z = A A^T x^T.

    On a GPU a QR decomposition takes hundreds of launches. There it is Cholesky QR, twice (Yamamoto
    et al. 2015, Electronic Transactions on Numerical Analysis 44), of z + s x^T: A A^T + s I has
    the same singular vectors, and the shift s bounds the condition of its product with x by
    1 / SHIFT, also for a zero A. Rows of zeros stay zero. decompose: by QR; None: on a CPU.
    """
    if z.is_cpu if decompose is None else decompose:
        return orthonormal(z).mT
    tiny = torch.finfo(z.dtype).tiny
    length = torch.linalg.vector_norm(z, dim=-2, keepdim=True).amax(-1, keepdim=True)
    rows = torch.add(x, (z / length.clamp_min_(tiny)).mT, alpha=1 / SHIFT)
    for _ in range(2):
        gram = rows @ rows.mT
        gram.diagonal(dim1=-2, dim2=-1).add_(tiny**0.5)
        lower = torch.linalg.cholesky_ex(gram, check_errors=False)[0]
        rows = torch.linalg.solve_triangular(lower, rows, upper=False)
    return rows


def looks(x: Tensor) -> bool:
    """Whether values may be read without making a device wait or breaking a compiled graph."""
    return x.is_cpu and not torch.compiler.is_compiling()


def advance(x: Tensor, z: Tensor) -> Found:
    """One iteration of an orthonormal block x, given z = A A^T x^T."""
    value, vector = leading(x @ z)
    return Found(following(x, z), value, vector[..., None], (z @ vector[..., None])[..., 0])


def leading(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (...,) of a symmetric (..., k, k), and its eigenvector (..., k)."""
    if looks(gram):
        try:
            values, vectors = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError:  # for a NaN
            vector = torch.full_like(gram[..., 0], math.nan)
            return vector[..., 0], vector
        return values[..., -1], vectors[..., -1]
    # eigh would make a GPU wait. Every column of a high power of the matrix is near the vector.
    power, tiny = gram, torch.finfo(gram.dtype).tiny
    for done in range(SQUARINGS):
        # The largest eigenvalue is at most BLOCK times the largest number, one of the diagonal.
        if done % IN_A_ROW == 0:
            size = power.diagonal(dim1=-2, dim2=-1).amax(-1)
            power = power / size.clamp_min(tiny)[..., None, None]
        power = power @ power
    size, column = torch.linalg.vector_norm(power, dim=-2).max(-1)
    vector = torch.take_along_dim(power, column[..., None, None], -1)[..., 0]
    vector = vector / size.clamp_min(tiny)[..., None]
    return (vector[..., None, :] @ gram @ vector[..., None])[..., 0, 0], vector


def moves(value: float, length: float, enough: float) -> bool:
    """Whether an iteration with this value and |left| raised sigma by a share above `enough`."""
    return length > (1 + enough) * value > 0


def iterated(
    x: Tensor, products: Callable[[Tensor], tuple[Tensor, Tensor]], enough: float, most: int
) -> tuple[Found, Tensor]:
    """Iterate until an iteration raises the estimate by less than `enough`, at most `most` times.

    products: returns y and z of x. Where reading the values would make a device wait in each
    update, or break a compiled graph, UNSEEN says how many iterations there are. Returns the result
    of the last one, and its y.
    """
    settles = enough < ENOUGH
    values = looks(x) or (settles and not torch.compiler.is_compiling())
    most = most if values else min(most, UNSEEN[int(settles)])
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


def krylov(product: Callable[[Tensor], Tensor], x: Tensor, products: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of x, M x, ..., with `products` terms or full rank, and M times it.

    x: (length, k), orthonormal. The Ritz values of this basis converge far faster than those of x
    alone (Golub & Van Loan, Matrix Computations, chapter 10.3).
    """
    basis, images = x, product(x)
    new = x.shape[1]
    for _ in range(products - 1):
        room = min(new, len(x) - basis.shape[1])
        if room == 0:
            break
        more = orthonormal(torch.cat([basis, images[:, -new:]], 1))[:, basis.shape[1] :][:, :room]
        basis, images = torch.cat([basis, more], 1), torch.cat([images, product(more)], 1)
        new = room
    return basis, images


def leading_several(gram: Tensor, count: int) -> Tensor:
    """A basis, (size, count), of the leading eigenvectors of a small symmetric matrix."""
    vectors = gram[:, :count]
    for _ in range(SQUARINGS):
        vectors = gram @ orthonormal(vectors)
    return orthonormal(vectors)


class Estimated(WeightPart):
    """A part that keeps an estimate of a largest singular value, by a block of vectors.

    v: buffer, a unit vector. last_sigma: buffer (), the estimate that v gave when it was found.
    """

    v: Tensor
    last_sigma: Tensor
    most = MOST  # iterations per update; `bench sigma` also measures 1, with one vector

    @property
    def known(self) -> bool:
        """Whether there is an estimate."""
        return self.v.numel() > 0

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate, a scalar, differentiable in the weight."""
        raise NotImplementedError

    def anew(self, weight: Tensor) -> Tensor:
        """A new estimate from the beginning; writes nothing."""
        raise NotImplementedError

    def improve(self, weight: Tensor) -> None:
        """The iterations of one update."""
        raise NotImplementedError

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Iterate the block, in place; on a CPU again while that still raises sigma."""
        if self.known:
            self.improve(weight)
            # The estimate is that of an earlier weight with NaN.
            lost = looks(weight) and bool(self.last_sigma.isnan())
            if lost and bool(weight.isfinite().all()):
                self.settle(weight)

    @torch.no_grad()
    def fits(self, weight: Tensor) -> bool:
        """Whether last_sigma is what v gives, and close to a new estimate from the beginning."""
        if not self.known:
            return True
        # `anew` is NaN for a zero weight, whose last_sigma is 1: that fits.
        return self.consistent(weight) and not (
            float(self.anew(weight)) > ALLOWED * float(self.last_sigma)
        )

    @torch.no_grad()
    def consistent(self, weight: Tensor) -> bool:
        if not self.known:
            return True
        sigma, last = float(self.sigma(weight)), float(self.last_sigma)
        return abs(sigma - last) <= ROUNDING * torch.finfo(self.v.dtype).eps * last


def checked_iterations(value: int) -> int:
    """The option `iterations`; ValueError unless it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"iterations must be a whole number of at least 1, got {value!r}")
    return value


def checked_positive(name: str, value: float) -> float:
    """An option of a norm, as a float; ValueError unless it is above 0 and finite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        raise ValueError(f"{name} must be a number above 0, got {value!r}; 1.0 is usual")
    return float(value)
