"""Precision, recall, density and coverage from nearest neighbours: float64, pure functions.

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 to 3. Density and
coverage: Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4. A ball includes its surface, so a
fake at exactly the place of a real row's neighbour is inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from msngan.scores.distances import finite_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BLOCK = 256  # rows whose distances to all others are held at once: 20 MB to 10,000
PART = 1024  # rows of the other set that are centred at once


def radii(features: ArrayLike | Tensor, k: int) -> Tensor:
    """Distance (N,) from each row of features (N, d) to the k-th nearest other row.

    ValueError for k < 1, N < k + 1, other shapes, NaN or Inf.
    """
    return _radii(_enough("features", features, k), (k,))[0]


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
            f"real has {real.shape[1]} features and fake has {fake.shape[1]}; they must agree"
        )
    small, large = _radii(real, ks) if real_radii is None else _checked(real_radii, len(real))
    (of_fake,) = _radii(fake, (precision_neighbours,))
    held, recalled, covered, balls = torch.zeros(len(fake), dtype=torch.bool), 0, 0, 0
    for rows, distances in _distances(real, fake, small, large, of_fake):
        held |= (distances <= small[rows, None]).any(0)
        recalled += int((distances <= of_fake).any(1).sum())
        inside = distances <= large[rows, None]
        covered += int(inside.any(1).sum())
        balls += int(inside.sum())
    return {
        "precision": int(held.sum()) / len(fake),
        "recall": recalled / len(real),
        "density": balls / (coverage_neighbours * len(fake)),
        "coverage": covered / len(real),
    }


def _enough(what: str, values: ArrayLike | Tensor, *ks: int) -> Tensor:
    matrix = finite_rows(what, values, least=1)
    if min(ks) < 1:
        raise ValueError(f"{min(ks)} neighbours of {what}: use at least 1")
    if len(matrix) <= max(ks):
        raise ValueError(
            f"{what} has {len(matrix)} row(s), too few for {max(ks)} neighbour(s) of each; give at"
            f" least {max(ks) + 1} rows or ask for fewer neighbours"
        )
    return matrix


def _checked(real_radii: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    small, large = (each.detach().cpu().double() for each in real_radii)
    for each in (small, large):
        if each.shape != (count,) or not (each >= 0).all() or each.isinf().any():
            raise ValueError(
                f"real_radii of shape {tuple(each.shape)} are not the distances of {count} real"
                " rows to their neighbours; take them from radii() of the same rows"
            )
    return small, large


def _exact(a: Tensor, b: Tensor) -> Tensor:
    """Distances (..., N, M) of rows from their differences: the same bits for a pair everywhere.

    Products do not have this property: where two rows are close, |a|^2 + |b|^2 - 2 a'b cancels.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class _Products:
    """Squared distances to the rows of b by products, which is fast, and the bound of their error.

    b's mean is subtracted first: the terms that cancel are then no larger than the spread.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.b, self.centre = b, b.mean(0)
        self.norms = torch.cat([self._squared_norms(part) for part in b.split(BLOCK)])
        largest = max(float(self._squared_norms(part).max()) for part in a.split(BLOCK))
        rounding = 4 * (b.shape[1] + 8) * torch.finfo(torch.float64).eps
        self.error = rounding * (largest + float(self.norms.max()))

    def squares(self, a: Tensor) -> Tensor:
        """(N, M) of a few rows of a, within `error`."""
        a = a - self.centre
        found = a.new_empty(len(a), len(self.b))
        for start in range(0, len(self.b), PART):
            part = slice(start, start + PART)
            b = self.b[part] - self.centre
            torch.addmm(self.norms[None, part], a, b.T, alpha=-2, out=found[:, part])
        return found.add_(a.square().sum(1, keepdim=True))

    def _squared_norms(self, rows: Tensor) -> Tensor:
        return (rows - self.centre).square().sum(1)


def _radii(x: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """`radii` for each of ks.

    Products find the neighbour, the difference of the two rows gives the distance. If products
    cannot tell two candidates apart, as with equal rows, all distances of the row are exact.
    """
    products = _Products(x, x)
    count = len(x)
    found = [x.new_empty(count) for _ in ks]
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        squares = products.squares(x[rows])
        squares.diagonal(start).fill_(torch.inf)
        values, places = squares.topk(max(ks) + 1, largest=False)
        gaps = values.diff(dim=1, prepend=values.new_full((len(values), 1), -torch.inf))
        for k, target in zip(ks, found, strict=True):
            nearest = x[places[:, k - 1]]
            exact = _exact(x[rows][:, None], nearest[:, None])[:, 0, 0]
            unsure = (gaps[:, k - 1 : k + 1] <= 2 * products.error).any(1)
            if unsure.any():
                exact[unsure] = _kth(x, unsure.nonzero()[:, 0] + start, k)
            target[rows] = exact
    return found


def _kth(x: Tensor, rows: Tensor, k: int) -> Tensor:
    distances = _exact(x[rows], x)
    distances[torch.arange(len(rows)), rows] = torch.inf
    return distances.kthvalue(k).values


def _distances(
    real: Tensor, fake: Tensor, small: Tensor, large: Tensor, of_fake: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of real rows with their distances to all fakes, exact in every row where it matters:

    where products cannot decide whether a distance is above or below one of the radii.
    """
    products = _Products(real, fake)
    for start in range(0, len(real), BLOCK):
        rows = slice(start, min(start + BLOCK, len(real)))
        squares = products.squares(real[rows])
        unsure = torch.zeros(len(squares), dtype=torch.bool)
        for radius in (small[rows, None], large[rows, None], of_fake):
            bound = radius.square()
            below, above = squares < bound - products.error, squares > bound + products.error
            unsure |= (below == above).any(1)
        distances = squares.clamp_(min=0).sqrt_()
        if unsure.any():
            distances[unsure] = _exact(real[rows][unsure], fake)
        yield rows, distances
