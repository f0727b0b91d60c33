"""sigma of the weights that a critic computes with, by decompositions in float64, and the paper's
estimator in the place of a norm's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msngan.norms import estimate, stored
from msngan.norms.layers import parts_of
from msngan.norms.operator import LipschitzProjection, OperatorNorm, SpectralClip
from msngan.norms.spectral import BidirectionalSpectralNorm, SpectralNorm
from msngan.training.dynamics.operator import largest_singular

# Of the residual, and products: sigma of a convolution is then right to a few parts in 10,000.
TOLERANCE, MOST_PRODUCTS = 1e-3, 100

Part = SpectralNorm | BidirectionalSpectralNorm | SpectralClip | LipschitzProjection


def one_vector(critic: nn.Module) -> None:
    """The paper's estimator: one vector and one iteration an update, from a settled start."""
    for weight, part in estimated(critic):
        for each in estimators(part):
            each.most = 1
            if isinstance(each, OperatorNorm):
                each.count = 1
            else:
                each.block = each.block[:, :1].clone()
        part.settle(weight)


def estimators(part: Part) -> list[Any]:
    return part.estimates() or [part]


def vectors(part: Part) -> int:
    """As many as its block would hold for a large weight."""
    each = estimators(part)[0]
    if isinstance(each, OperatorNorm):
        return each.count
    return estimate.BLOCK if each.most > 1 else 1


def estimated(critic: nn.Module) -> list[tuple[Tensor, Part]]:
    """The stored weight and the part of every layer whose sigma is estimated."""
    return [
        (stored(layer, name), part)
        for layer, name, part in parts_of(critic)
        if isinstance(part, Part)
    ]


@torch.no_grad()
def excess(part: Part, weight: Tensor) -> float:
    """sigma of the weight W' that the layer computes with, over what the norm promises of it."""
    made = part.quotient(weight).double()
    if isinstance(part, OperatorNorm):
        bound = part.beta if isinstance(part, SpectralClip) else part.bound
        return _operator_sigma(part, made) / bound
    sigmas = [_matrix_sigma(each.matrix(made)) for each in estimators(part)]
    return sum(sigmas) / len(sigmas) / part.scale


def _matrix_sigma(matrix: Tensor) -> float:
    """Of (groups, rows, columns), the largest of all groups."""
    wide = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
    return float(torch.linalg.eigvalsh(wide @ wide.mT)[:, -1].max().sqrt())


def _operator_sigma(part: OperatorNorm, weight: Tensor) -> float:
    """Of the convolution with its stride and padding, from below."""
    if not part.known:
        return 0.0
    v = part.v.to(weight)
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(v.shape, generator=draw, dtype=v.dtype).to(v.device)
    found = largest_singular(lambda x: part.operator(x, weight), start, TOLERANCE, MOST_PRODUCTS)
    return max(found, float(part.operator(v, weight).norm()))
