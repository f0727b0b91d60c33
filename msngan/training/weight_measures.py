"""Measures of a layer's weight: singular values and subspaces, operator norm, spectral complexity.

A weight's matrix is (outputs) x (inputs * kernel), as spectral normalisation takes it; with groups
the layer is block diagonal, and so is its matrix. Singular values and vectors come from the
eigenvalues of the smaller Gram matrix in float64: exact to 1e-8 of the largest.

arXiv:1907.04003 reads its Figure 6, of mean singular values, as saying which weights lie in one
subspace. A mean of singular values says nothing of that. Here subspaces are compared by their
principal angles (Bjorck & Golub 1973): those of the leading singular vectors of a layer now and at
the first measurement; and the leading directions of a layer's outputs with those in which the next
layer reads its inputs. Where singular values are nearly equal, which of them lead is chance.

The operator norm is that of the layer as a linear map at the size of its input; with stride and
padding it differs from the matrix's (see `msngan.norms.operator`). Golub & Kahan 1965: the largest
singular value of A from a Krylov space of A^T A, which needs far fewer products than a power
iteration for the same accuracy; each product is a forward and a backward pass of one image.

Spectral complexity: Bartlett, Foster & Telgarsky 2017, arXiv:1706.08498, equation 1.2; equation 4
of arXiv:1907.04003, which leaves out the power 2/3 inside the sum:

    R = prod_i(rho_i s_i) * (sum_i (b_i / s_i)^(2/3))^(3/2)

s_i is the operator norm of layer i; b_i the (2, 1) norm of its transpose minus a reference, which
is zero here: the sum over all outputs of the length of the weights that lead to each; rho_i the
Lipschitz constant of what follows. The formula is for a chain of layers. For a network with
shortcuts it is taken over all layers in order: a number to compare runs of that network, not a
bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from msngan.norms import Centring, NormLayer, SampleNorm, WeightPart, stored
from msngan.norms.operator import Operator
from msngan.norms.parts import full_float32
from msngan.runs.hardware import for_float64

Array = NDArray[Any]

TOLERANCE = 3e-3  # of the residual |A^T A v - sigma^2 v| / sigma^2
MOST = 60  # products, of A and its transpose
SUBSPACE = 4  # leading singular vectors of a layer


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer computes with, by its norm's present estimates; writes nothing.

    In training, reading `layer.weight` may update an estimate first. This never does.
    """
    weight = stored(layer)
    part = layer._modules.get("weight_norm") if isinstance(layer, NormLayer) else None
    if part is None:
        return weight
    if isinstance(part, WeightPart):
        return part.normalised(weight)
    training = part.training
    part.eval()
    try:
        return part(weight)
    finally:
        part.train(training)


def precise(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device has none."""
    return x.detach().to(for_float64(x.device)).double()


def matrix_of(layer: nn.Module, weight: Tensor) -> Tensor:
    """(groups, outputs / groups, inputs / groups * kernel), float64: see `precise`."""
    wide = precise(weight)
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs / groups, *kernel)
        return wide.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)
    return wide.reshape(groups, wide.shape[0] // groups, -1)


def leading(matrices: Tensor) -> tuple[Array, Array, Array]:
    """Singular values and the leading singular vectors of the matrix with these blocks (G, m, n).

    All values (r,), descending, float64, and in float32 orthonormal rows: k left vectors (k, G m)
    and k right ones (k, G n). k is SUBSPACE or, of a smaller matrix, half its rank, at least 1. NaN
    if an entry is not finite, and the vectors also if the k-th value is zero.
    """
    matrix = matrices[0] if len(matrices) == 1 else torch.block_diag(*matrices)
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    count = max(1, min(SUBSPACE, len(wide) // 2))
    if matrix.isfinite().all():
        squares, vectors = torch.linalg.eigh(wide @ wide.mT)
        values = squares.clamp_min(0).sqrt().flip(0)
        short = vectors[:, -count:].flip(1)
        long = torch.linalg.qr(wide.mT @ short).Q
        undefined = nan if values[count - 1] == 0 else 1.0
    else:
        values, undefined = wide.new_full((len(wide),), nan), nan
        short, long = (wide.new_ones(size, count) for size in wide.shape)
    sides = (long, short) if tall else (short, long)
    left, right = ((undefined * each).mT.float().cpu().numpy() for each in sides)
    return values.cpu().numpy(), left, right


def by_inputs(layer: nn.Module, matrices: Tensor) -> Tensor:
    """`matrix_of` with the inputs as rows: (groups, inputs / groups, outputs / groups * kernel)."""
    inputs = getattr(layer, "in_channels", None) or matrices.shape[2]
    rows = inputs // len(matrices)
    return matrices.unflatten(2, (rows, -1)).transpose(1, 2).flatten(2)


def mean_cosine(a: Array, b: Array) -> float:
    """Of the principal angles between the spans of orthonormal rows, (j, d) and (k, d).

    From 0, orthogonal, to 1: the smaller is within the larger one. NaN where d differs or one of
    them is the whole space.
    """
    if a.shape[1] != b.shape[1] or a.shape[1] in (len(a), len(b)):
        return nan
    products = np.asarray(a, np.float64) @ np.asarray(b, np.float64).T
    if not np.isfinite(products).all():
        return nan
    return float(np.linalg.svd(products, compute_uv=False).clip(max=1).mean())


def stable_rank(values: Array) -> float:
    """|W|_F^2 / |W|_2^2 from all singular values, descending; NaN for a zero weight."""
    return float(np.square(values / values[0]).sum()) if values[0] else nan


def kernel_singular(weight: Tensor) -> float:
    """The mean over all (output, input) pairs of the largest singular value of the pair's kernel.

    Figure 6 of arXiv:1907.04003 plots this as a layer's singular values (numpy's SVD of a 4-D
    weight, slice by slice). For 1x1 kernels and linear layers it is the mean of |w|. A kernel with
    one axis counts with its length; one with three axes is a matrix, split before the last axis.
    """
    wide = precise(weight)
    if wide.dim() == 2 or wide[0, 0].numel() == 1:
        return float(wide.abs().mean())
    slices = wide.flatten(0, 1).flatten(1, -2) if wide.dim() > 3 else wide.flatten(0, 1)[:, None]
    return float(_from_gram(slices)[:, -1].mean())


def _from_gram(matrices: Tensor) -> Tensor:
    """(G, min(m, n)) singular values of (G, m, n), ascending; NaN if an entry is not finite."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    if not matrices.isfinite().all():
        return matrices.new_full(matrices.shape[:2], nan)
    return torch.linalg.eigvalsh(matrices @ matrices.mT).clamp_min(0).sqrt()


@full_float32()
def operator_norm(
    layer: nn.Module,
    weight: Tensor,
    size: tuple[int, ...],
    tolerance: float = TOLERANCE,
    most: int = MOST,
    known: float | None = None,
) -> float:
    """The largest singular value of the layer, with this weight, on inputs of this size.

    known: that of its matrix, which is returned for linear layers and 1x1 kernels.

    Never above the exact value, except for rounding; below it by less than tolerance / 2 if the
    iteration converges, and in practice by a hundredth of that. NaN for a weight that is not
    finite. The start is the same each time and uses no global generator.
    """
    if known is not None and (
        isinstance(layer, nn.Linear)
        or (isinstance(layer, _ConvNd) and {*layer.kernel_size} == {1} and {*layer.padding} == {0})
    ):
        return known
    map_, weight = Operator.of(layer), weight.detach()
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(1, map_.inputs, *size, generator=draw).to(weight)
    v = start / start.norm().clamp_min(torch.finfo(start.dtype).tiny)
    basis = v.new_empty(most, v.numel())
    products = torch.zeros(most, most, dtype=torch.float64)  # A^T A in the basis
    best = 0.0
    for count in range(1, most + 1):
        basis[count - 1] = v.flatten()
        span = basis[:count]
        with torch.enable_grad():
            point = v.detach().requires_grad_()
            y = map_(point, weight)
        w = torch.autograd.grad(y, point, y.detach())[0].flatten()  # A^T A v
        products[:count, count - 1] = products[count - 1, :count] = precise(span @ w).cpu()
        if not products.isfinite().all():
            return nan
        values, vectors = torch.linalg.eigh(products[:count, :count])
        best = float(values[-1])
        for _ in range(2):  # one pass leaves rounding errors that grow
            w = w - span.T @ (span @ w)
        rest = float(w.norm())
        if rest * abs(float(vectors[-1, -1])) <= tolerance * best or best <= 0:
            break
        v = (w / rest).view_as(start)
    return max(best, 0.0) ** 0.5


def spectral_complexity(
    norms: Sequence[float], lengths: Sequence[float], lipschitz: float = 1.0
) -> float:
    """R from s_i, b_i and the product of all rho_i; 0 if a layer is zero, NaN if one is NaN."""
    if any(map(isnan, norms)) or 0 in norms:
        return nan if any(map(isnan, norms)) else 0.0
    shares = sum((b / s) ** (2 / 3) for b, s in zip(lengths, norms, strict=True))
    return float(lipschitz * prod(norms) * shares**1.5)


def output_lengths(layer: nn.Module, weight: Tensor, size: tuple[int, ...]) -> float:
    """b of a layer with this weight on inputs of this size: the (2, 1) norm of its transpose.

    The layer with squared weights, applied to ones, sums the squares that lead to each output. With
    zero padding that is exact at the borders too, where fewer weights lead to an output.
    """
    map_ = Operator.of(layer)
    with torch.no_grad():
        squares = weight.detach().square()
        ones = torch.ones(1, map_.inputs, *size, dtype=squares.dtype, device=squares.device)
        return float(map_(ones, squares).clamp_min(0).sqrt().cpu().double().sum())


def lipschitz_of(network: nn.Module) -> float:
    """The product of the rho_i: the factors that norms multiply channels by in eval.

    A batch norm multiplies by gain / sd, centring by its gain if it has one; the largest of each
    counts. NaN with layer or instance norm, which have no such constant. Activations, pooling and
    tanh have 1, except a LeakyReLU with a larger slope.
    """
    product = 1.0
    for module in network.modules():
        if isinstance(module, (SampleNorm, nn.GroupNorm, nn.LayerNorm)):
            return nan
        if isinstance(module, nn.LeakyReLU):
            product *= max(1.0, abs(module.negative_slope))
        if isinstance(module, (_BatchNorm, Centring)):
            factor = torch.ones(()) if module.weight is None else module.weight.detach()
            if isinstance(module, _BatchNorm) and module.running_var is not None:
                factor = factor / (module.running_var + module.eps).sqrt()
            product *= float(factor.abs().max())
    return product
