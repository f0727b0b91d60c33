"""Distances, inception score and nearest neighbours: float64, pure functions, no randomness.

Fréchet distance: Heusel et al. 2017, arXiv:1706.08500, equation 6. Kernel distance: Binkowski et
al. 2018, arXiv:1801.01401, section 4. Inception score: Salimans et al. 2016, arXiv:1606.03498.
Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 to 3. Density and
coverage: Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4. A ball includes its surface, up to
rounding, so a fake at exactly the place of a real row's neighbour is inside.
Whether a number may be called FID, KID or IS depends on the extractor, not on this file.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from msngan.runs.folder import counted
from msngan.runs.hardware import for_float64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

BLOCK = 512  # rows of a product computed at once: 512 x 512, 2 MB, stay in the cache


def finite_rows(what: str, values: ArrayLike | Tensor, least: int = 2) -> Tensor:
    """`values` as a finite float64 matrix with at least `least` rows; otherwise a ValueError.

    It stays on its device where that has float64.
    """
    matrix = values if isinstance(values, Tensor) else torch.tensor(values)
    matrix = matrix.detach().to(for_float64(matrix.device)).double()
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{what} must have shape (N, d), not {tuple(matrix.shape)}")
    if len(matrix) < least:
        raise ValueError(f"{what} has {counted(len(matrix), 'row')}; at least {least} are needed")
    if not matrix.isfinite().all():
        raise ValueError(f"{what} holds NaN or Inf")
    return matrix


def _pair(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    a = finite_rows("a", a)
    b = finite_rows("b", b).to(a)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a has {counted(a.shape[1], 'feature')} and b has {b.shape[1]}; they must agree"
        )
    return a, b


def lower_half(a: Tensor, b: Tensor) -> Tensor:
    """The lower half of the symmetric product a @ b (n, n), a (n, m) and b (m, n).

    Entries above the diagonal are not set. It costs little more than half of the whole product;
    torch has no product that makes use of its result's symmetry.
    """
    count = len(a)
    product = a.new_zeros(count, count)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        torch.mm(a[start:stop], b[:, :stop], out=product[start:stop, :stop])
    return product


def sum_of_roots(half: Tensor) -> float:
    """Sum of the square roots of the eigenvalues of a positive semidefinite matrix.

    half: (n, n), read on and below the diagonal. Eigenvalues made negative by rounding count as 0.
    """
    return float(torch.linalg.eigvalsh(half, UPLO="L").clamp(min=0).sqrt().sum())


def sum_of_squares(a: Tensor) -> float:
    """Sum of the squares of all elements; a.square().sum() would copy, which takes longer."""
    return float(torch.linalg.vector_norm(a)) ** 2


@dataclass(frozen=True)
class Moments:
    """count; mean (d,); scatter (d, d) = the sum of (x - mean)(x - mean)'; all float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """(d, d), with the divisor count - 1."""
        return self.scatter / (self.count - 1)


def moments(features: ArrayLike | Tensor) -> Moments:
    """The moments of (N, d); one row is enough."""
    x = finite_rows("features", features, least=1)
    mean = x.mean(0)
    centred = x - mean
    half = lower_half(centred.T, centred).tril_()
    return Moments(len(x), mean, half + half.tril(-1).T)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets together. Chan, Golub & LeVeque 1979: no sum of squares cancels."""
    count = a.count + b.count
    gap = b.mean - a.mean
    scatter = a.scatter + b.scatter + torch.outer(gap, gap) * (a.count * b.count / count)
    return Moments(count, a.mean + gap * (b.count / count), scatter)


def root(covariance: ArrayLike | Tensor) -> Tensor:
    """R (d, r) with R R' = covariance and orthogonal columns; r is its numerical rank.

    The squared lengths of the columns are the eigenvalues. A ValueError if it is not symmetric.
    """
    matrix = finite_rows("covariance", covariance, least=1)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"covariance must be square, not {tuple(matrix.shape)}")
    if not torch.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-8 * float(matrix.abs().max())):
        raise ValueError("covariance is not symmetric")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    noise = len(values) * torch.finfo(torch.float64).eps * float(values.abs().max())
    keep = values > noise
    return vectors[:, keep] * values[keep].sqrt()


def _thin_root(centred: Tensor) -> Tensor:
    """Y (N - 1, d) with Y'Y the covariance of N centred rows.

    A reflection that takes (1, ..., 1) to the first axis empties the first row. Without that, N
    centred rows have one dimension too many, whose eigenvalue, zero but for rounding, costs half of
    the digits when its square root is taken.
    """
    count = len(centred)
    axis = centred.new_full((count,), 1 / math.sqrt(count))
    axis[0] -= 1
    axis /= axis.norm()
    return (centred - 2 * torch.outer(axis, axis @ centred))[1:] / math.sqrt(count - 1)


def frechet_to_root(features: ArrayLike | Tensor, mean: Tensor, reference_root: Tensor) -> float:
    """Fréchet distance of features (N, d) to a reference of the given mean and root.

    With A = Y'Y the covariance of the features and B = R R' the reference's, the eigenvalues of AB
    that are not zero are those of (YR)(YR)', which is symmetric: no complex square root arises. It
    is smaller than N x N; where N >= d the other order, R'AR, is the smaller.
    """
    x, mean = _pair(features, torch.stack([mean, mean]))[0], mean.double()
    own = x.mean(0)
    if len(x) < x.shape[1]:
        y = _thin_root(x - own)
        trace = sum_of_squares(y)
        product = y @ reference_root
        short = product if product.shape[0] < product.shape[1] else product.T
        mixed = sum_of_roots(lower_half(short, short.T))
    else:
        covariance = moments(x).covariance
        trace = float(covariance.trace())
        mixed = sum_of_roots(lower_half(reference_root.T, covariance @ reference_root))
    return sum_of_squares(own - mean) + trace + sum_of_squares(reference_root) - 2 * mixed


def frechet_distance(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (AB)^(1/2)) of features (N, d) and (M, d).

    A, B: covariances with divisors N - 1 and M - 1. Rounding can make a distance of zero slightly
    negative. ValueError for other shapes, fewer than 2 rows, NaN or Inf.
    """
    a, b = _pair(a, b)
    mean = b.mean(0)
    of_b = _thin_root(b - mean).T if len(b) < b.shape[1] else root(moments(b).covariance)
    return frechet_to_root(a, mean, of_b)


def _cubes(a: Tensor, b: Tensor) -> float:
    """Sum of the polynomial kernel over all pairs of rows."""
    base = torch.addmm(a.new_ones(1), a, b.T, alpha=1 / a.shape[1]).flatten()
    return float(torch.dot(base * base, base))


def kernel_between(a: Tensor, b: Tensor) -> float:
    """Mean of the polynomial kernel over all pairs of rows of float64 a (N, d), b (M, d)."""
    total = sum(_cubes(x, y) for x in a.split(BLOCK) for y in b.split(BLOCK))
    return total / (len(a) * len(b))


def kernel_within(a: Tensor) -> float:
    """Mean of the polynomial kernel over all pairs of different rows of float64 a (N, d)."""
    parts = a.split(BLOCK)
    total = sum(_cubes(x, x) for x in parts)
    total += 2 * sum(_cubes(x, y) for i, x in enumerate(parts) for y in parts[:i])
    own = float(((a.square().sum(1) / a.shape[1] + 1) ** 3).sum())
    return (total - own) / (len(a) * (len(a) - 1))


def kernel_distance(a: ArrayLike | Tensor, b: ArrayLike | Tensor) -> float:
    """Squared maximum mean discrepancy of features (N, d), (M, d); kernel (x'y / d + 1)^3.

    The full unbiased U-statistic, every pair once: its expectation for equal distributions is 0,
    so about half of such values are negative.
    """
    a, b = _pair(a, b)
    return kernel_within(a) + kernel_within(b) - 2 * kernel_between(a, b)


def inception_score(logits: ArrayLike | Tensor, splits: int = 1) -> float:
    """exp of the mean KL(p(y|x) || p(y)) over logits (N, K); mean over `splits` parts in order.

    Between 1 and K. Computed from log-probabilities, so that logits a thousand apart stay finite.
    """
    logits = finite_rows("logits", logits, least=1)
    scores = []
    for part in in_splits(logits, splits):
        given = part.log_softmax(1)
        marginal = given.logsumexp(0) - math.log(len(part))
        scores.append(math.exp(float((given.exp() * (given - marginal)).sum(1).mean())))
    return sum(scores) / splits


def in_splits(logits: Tensor, splits: int) -> list[Tensor]:
    """The rows in so many parts of nearly equal size, in order."""
    if not 1 <= splits <= len(logits):
        raise ValueError(
            f"{counted(len(logits), 'row')} of logits cannot be put in {counted(splits, 'split')}"
        )
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    return [logits[start:stop] for start, stop in itertools.pairwise(bounds)]


def frechet_bias(eigenvalues: Tensor, n: float, m: float) -> float:
    """Expected Fréchet distance of n and m draws of one Gaussian, B (1/n + 1/m), to second order.

    B = 5/4 sum l_i + 1/2 sum_ij l_i l_j / (l_i + l_j) over the covariance's eigenvalues l; m may
    be infinite. Within 5 % where n and m are well above the number of features.
    """
    values = eigenvalues[eigenvalues > 0].double()
    pairs = values[:, None] * values / (values[:, None] + values)
    return float(1.25 * values.sum() + 0.5 * pairs.sum()) * (1 / n + 1 / m)


def radii(features: ArrayLike | Tensor, k: int) -> Tensor:
    """Distance (N,) from each row of features (N, d) to the k-th nearest other row.

    ValueError for N < k + 1, other shapes, NaN or Inf.
    """
    x = _enough("features", features, k)
    centred = x - x.mean(0)
    found = []
    for start in range(0, len(x), BLOCK):
        squares = _squares(centred[start : start + BLOCK], centred)
        squares.diagonal(start).fill_(torch.inf)
        found.append(squares.topk(k, largest=False).indices[:, -1])
    return torch.linalg.vector_norm(x - x[torch.cat(found)], dim=1)


def neighbours(
    real: ArrayLike | Tensor,
    fake: ArrayLike | Tensor,
    *,
    precision_neighbours: int = 3,
    coverage_neighbours: int = 5,
    real_radii: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """precision, recall, density and coverage of fake (M, d) against real (N, d) features.

    Each row has a ball as far as its k-th nearest other row of the same set. precision: share of
    fakes in a real ball; recall: share of real rows in a fake ball; density: real balls that a fake
    lies in, over k, which may exceed 1; coverage: share of real balls that hold a fake. k is
    precision_neighbours for the first two and coverage_neighbours for the others.
    real_radii: if known, `radii` of the same real rows for both k, in this order.
    ValueError for fewer rows than neighbours and one, other shapes, NaN or Inf.
    """
    ks = precision_neighbours, coverage_neighbours
    real, fake = _enough("real", real, *ks), _enough("fake", fake, precision_neighbours)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has {counted(real.shape[1], 'feature')} and fake has {fake.shape[1]}; they"
            " must agree"
        )
    known = real_radii or (radii(real, k) for k in ks)
    small, large = (each.to(real).square()[:, None] for each in known)
    of_fake = radii(fake, precision_neighbours).square()
    centre = fake.mean(0)
    real, fake = real - centre, fake - centre
    held, recalled, covered, balls = fake.new_zeros(len(fake), dtype=torch.bool), 0, 0, 0
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = _squares(real[rows], fake)
        held |= (squares <= small[rows]).any(0)
        recalled += int((squares <= of_fake).any(1).sum())
        inside = squares <= large[rows]
        covered += int(inside.any(1).sum())
        balls += int(inside.sum())
    return {
        "precision": int(held.sum()) / len(fake),
        "recall": recalled / len(real),
        "density": balls / (coverage_neighbours * len(fake)),
        "coverage": covered / len(real),
    }


def nearest(rows: Tensor, parts: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Distances (N, k) and places (N, k), nearest first, of the k nearest of other rows.

    rows: (N, d). parts: the others, (M_1, d), (M_2, d), ..., k or more in all; a place counts
    through them. Memory is for one part. ValueError for NaN, Inf, or too few.
    """
    rows, seen = finite_rows("rows", rows, least=1), 0
    squares = rows.new_empty(len(rows), 0)
    places = squares.long()
    for part in parts:
        part = finite_rows("parts", part, least=1)
        near = _squares(rows, part).topk(min(k, len(part)), largest=False).indices.sort(1).values
        pairs = zip(rows, near, strict=True)
        exact = torch.stack([(part[at] - row).square().sum(1) for row, at in pairs])
        squares = torch.cat([squares, exact], 1)
        order = squares.argsort(dim=1, stable=True)[:, :k]
        squares = squares.gather(1, order)
        places = torch.cat([places, near + seen], 1).gather(1, order)
        seen += len(part)
    if seen < k:
        raise ValueError(
            f"there are {counted(seen, 'other row')}, too few for {counted(k, 'neighbour')}"
        )
    return squares.sqrt(), places


def _enough(what: str, values: ArrayLike | Tensor, *ks: int) -> Tensor:
    matrix = finite_rows(what, values, least=1)
    if len(matrix) <= max(ks):
        raise ValueError(
            f"{what} has {counted(len(matrix), 'row')}, too few for"
            f" {counted(max(ks), 'neighbour')} of each; give at"
            f" least {max(ks) + 1} rows or ask for fewer neighbours"
        )
    return matrix


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (N, M) between rows, by products, less the bound of their error.

    The bound is relative to the norms, which centred rows keep as small as their spread.
    """
    rounding = 4 * (a.shape[1] + 8) * torch.finfo(torch.float64).eps
    norms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return torch.addmm(norms.mul_(1 - rounding), a, b.T, alpha=-2)
