"""The norm of a layer as the linear map that it is, at the size of its input.

Spectral normalisation bounds the matrix of a weight; the convolution itself, with its stride and
padding, has another norm (see `msngan.norms.operator`). Golub & Kahan 1965: the largest singular
value of A from a Krylov space of A^T A, which needs far fewer products than a power iteration to
come as near; each product is a pass forward and one back of a single image.
"""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from msngan.norms.operator import Operator

TOLERANCE = 3e-3  # of the residual |A^T A v - sigma^2 v| / sigma^2
MOST = 60  # products, of A and its transpose


def operator_norm(
    layer: nn.Module,
    weight: Tensor,
    size: tuple[int, ...],
    tolerance: float = TOLERANCE,
    most: int = MOST,
    known: float | None = None,
) -> float:
    """The largest singular value of the layer, with this weight, on inputs of this size.

    known: that of its matrix, which is the answer for linear layers and 1x1 kernels.

    Never above it but for rounding; below it by less than tolerance / 2 where the iteration ends by
    itself, and in practice by a hundredth of that. NaN for a weight that is not finite. The start
    is the same each time and draws on no global generator.
    """
    if known is not None and _is_pointwise(layer):
        return known
    map_ = Operator.of(layer)
    weight = weight.detach()
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(1, map_.inputs, *size, generator=draw).to(weight)
    return largest_singular(lambda x: map_(x, weight), start, tolerance, most)


def largest_singular(
    map_: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, most: int
) -> float:
    """That of a linear map, from products with it and, by its gradient, with its transpose."""
    v = start / start.norm().clamp_min(torch.finfo(start.dtype).tiny)
    basis = v.new_empty(most, v.numel())
    products = torch.zeros(most, most, dtype=torch.float64)  # A^T A in the basis
    best = 0.0
    for count in range(1, most + 1):
        basis[count - 1] = v.flatten()
        known = basis[:count]
        w = _there_and_back(map_, v).flatten()
        products[:count, count - 1] = products[count - 1, :count] = (known @ w).double().cpu()
        if not products.isfinite().all():
            return nan
        values, vectors = torch.linalg.eigh(products[:count, :count])
        best = float(values[-1])
        for _ in range(2):  # once leaves rounding errors that grow
            w = w - known.T @ (known @ w)
        rest = float(w.norm())
        if rest * abs(float(vectors[-1, -1])) <= tolerance * best or best <= 0:
            break
        v = (w / rest).view_as(start)
    return max(best, 0.0) ** 0.5


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether the layer is its matrix at each place, or at some of them, and 0 elsewhere."""
    if isinstance(layer, nn.Linear):
        return True
    assert isinstance(layer, _ConvNd)
    return {*layer.kernel_size} == {1} and {*layer.padding} == {0}


def _there_and_back(map_: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    with torch.enable_grad():
        point = v.detach().requires_grad_()
        y = map_(point)
    return torch.autograd.grad(y, point, y.detach())[0]
