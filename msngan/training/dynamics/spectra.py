"""Singular values of a layer's weight, as the matrix that spectral normalisation takes it for.

The matrix is (outputs) x (inputs * kernel); with groups a layer is block diagonal, and its singular
values are those of all blocks. They come from the eigenvalues of the smaller Gram matrix in
float64, on the CPU: to 1e-8 of the largest, which float32 cannot tell from exact.
"""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd


def matrix_of(layer: nn.Module, weight: Tensor) -> Tensor:
    """(groups, outputs / groups, inputs / groups * kernel), float64, on the CPU."""
    wide = weight.detach().double().cpu()
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs / groups, *kernel)
        return wide.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)
    return wide.reshape(groups, wide.shape[0] // groups, -1)


def singular_values(matrices: Tensor) -> Tensor:
    """Those of all (G, m, n) matrices together: (G * min(m, n),), descending."""
    return _from_gram(matrices).flatten().sort(descending=True).values


def stable_rank(values: Tensor) -> float:
    """|W|_F^2 / |W|_2^2 from all singular values, descending; NaN for a zero weight."""
    return float((values / values[0]).square().sum())


def kernel_singular(weight: Tensor) -> float:
    """The mean over all (output, input) pairs of the largest singular value of the pair's kernel.

    What the released Figure 6 of arXiv:1907.04003 plots as a layer's singular values: numpy's SVD
    of a 4-D weight, slice by slice. For 1x1 kernels and linear layers it is the mean of |w|. A
    kernel of one axis has its length, one of three axes is taken as a matrix by its last one.
    """
    wide = weight.detach().double().cpu()
    if wide.dim() == 2 or wide[0, 0].numel() == 1:
        return float(wide.abs().mean())
    slices = wide.flatten(0, 1).flatten(1, -2) if wide.dim() > 3 else wide.flatten(0, 1)[:, None]
    return float(_from_gram(slices)[:, -1].mean())


def _from_gram(matrices: Tensor) -> Tensor:
    """(G, min(m, n)) singular values of (G, m, n), ascending; NaN where the entries have some."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    if not matrices.isfinite().all():
        return matrices.new_full(matrices.shape[:2], nan)
    return torch.linalg.eigvalsh(matrices @ matrices.mT).clamp_min(0).sqrt()
