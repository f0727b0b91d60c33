"""Spectral complexity of a network.

Bartlett, Foster & Telgarsky 2017, arXiv:1706.08498, equation 1.2; equation 4 of arXiv:1907.04003,
which leaves out the power 2/3 inside the sum:

    R = prod_i(rho_i s_i) * (sum_i (b_i / s_i)^(2/3))^(3/2)

s_i is the spectral norm of layer i as the linear map that it is, a convolution at the size of its
input; b_i the (2, 1) norm of its transpose minus a reference, which is zero here: the sum over all
outputs of the length of the weights that lead to it; rho_i the Lipschitz constant of what follows.
The formula is that of a chain of layers. For a network with shortcuts it is taken over all layers
in order: a number to compare runs of that network by, no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan, prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msngan.norms import Centring, SampleNorm
from msngan.norms.operator import Operator


def spectral_complexity(
    norms: Sequence[float], lengths: Sequence[float], lipschitz: float = 1.0
) -> float:
    """R from s_i, b_i and the product of all rho_i; 0 where a layer is zero, NaN where one is."""
    if any(map(isnan, norms)) or 0 in norms:
        return nan if any(map(isnan, norms)) else 0.0
    shares = sum((b / s) ** (2 / 3) for b, s in zip(lengths, norms, strict=True))
    return float(lipschitz * prod(norms) * shares**1.5)


def output_lengths(layer: nn.Module, weight: Tensor, size: tuple[int, ...]) -> float:
    """b of a layer with this weight on inputs of this size: the (2, 1) norm of its transpose.

    The squares of the weights that lead to an output add up as the layer adds up ones; with zero
    padding that is exact, also at the borders, where fewer weights lead to an output.
    """
    map_ = Operator.of(layer)
    with torch.no_grad():
        squares = weight.detach().square()
        ones = torch.ones(1, map_.inputs, *size, dtype=squares.dtype, device=squares.device)
        return float(map_(ones, squares).clamp_min(0).sqrt().double().sum())


def lipschitz_of(network: nn.Module) -> float:
    """The product of the rho_i: what the norms multiply channels by in eval.

    A batch norm multiplies by gain / sd, centring by its gain if it has one; of each the largest
    counts. NaN under layer and instance norm, which have no such constant. Activations, pooling and
    tanh have 1, but for a LeakyReLU of a slope above it.
    """
    product = 1.0
    for module in network.modules():
        if isinstance(module, (SampleNorm, nn.GroupNorm, nn.LayerNorm)):
            return nan
        if isinstance(module, nn.LeakyReLU):
            product *= max(1.0, abs(module.negative_slope))
        if isinstance(module, (_BatchNorm, Centring)):
            product *= _largest_factor(module)
    return product


@torch.no_grad()
def _largest_factor(norm: _BatchNorm | Centring) -> float:
    factor = torch.ones(()) if norm.weight is None else norm.weight
    if isinstance(norm, _BatchNorm) and norm.running_var is not None:
        factor = factor / (norm.running_var + norm.eps).sqrt()
    return float(factor.abs().max())
