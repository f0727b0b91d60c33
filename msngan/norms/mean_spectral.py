"""Mean Spectral Normalization: bound the weight, centre the output.

Subramanian & Chong, "Mean Spectral Normalization of Deep Neural Networks for Embedded Automation",
CASE 2019, arXiv:1907.04003, equations 6 and 7:

    MSN(W, x) = (W / sigma(W)) x - E[(W / sigma(W)) x] + m

and its two halves, each by itself, the ablation that the paper lacks: `spectral_bias` bounds the
weight and adds the offset m but does not centre; `mean_only` centres and adds m but does not bound
the weight.

What this says of the Lipschitz constant of a layer, with h = W' x, W' = W / sigma(W), and n values
of h per channel in the batch (tests/test_norm_lipschitz.py has each line in numbers):

- Eval: out = h + (m - running mean) is h but for a constant, so the constant is |A|, the norm of
  the linear map A that the layer is; sigma(W') = 1 is that of a linear layer. A convolution as a
  map can be larger: with zero padding and without dilation up to
  sqrt(ceil(k_h / s_h) ceil(k_w / s_w)), as an input value takes part in as many windows, and each
  window's output is bounded by sigma(W') = 1. Circular, reflected and replicated padding, dilation
  and transposed convolutions can exceed that.
- Training, the whole batch as one vector, Euclidean norm: out = P h + m with P = I - 1 1^T / n for
  each channel. P is an orthogonal projection, of norm 1, so centring does not raise the constant. A
  shift that all values of a channel have in common is not seen at all: P 1 = 0.
- Training, per sample: the derivative of a value by its own h is 1 - 1/n, and by each other -1/n.
  Measured by the largest change of any value, the norm of P is its largest row sum,
  1 - 1/n + (n - 1)/n = 2 (1 - 1/n), so the constant at most doubles: one sample's output can move
  by that much as the others move. It is no bound per image, as gradient penalties need it; see
  `msngan.norms.statistics`.
- With gain, out = g (P h) + m: the constant is multiplied by max |g|, which nothing bounds.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from msngan.norms.base import Norm, outputs_of
from msngan.norms.centre import along
from msngan.norms.centring import Centring
from msngan.norms.spectral import SpectralNorm


def centring_of(
    layer: nn.Module,
    *,
    offset: bool = True,
    gain: bool = False,
    sync: bool = False,
    momentum: float | None = 0.1,
) -> Centring:
    """Centring for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
    channels, axis = outputs_of(layer)
    # Nothing else reads what the layer puts out.
    return Centring(
        channels,
        channel_axis=axis,
        momentum=momentum,
        offset=offset,
        gain=gain,
        sync=sync,
        inplace=True,
    )


def mean_spectral(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """MSN. gain: a learned factor per channel, which the paper does not have; offset: whether m is
    learned, else it is 0; sync: one mean over all processes."""
    output = partial(centring_of, offset=offset, gain=gain, sync=sync, momentum=momentum)
    return Norm(SpectralNorm.of, output, cancels_bias=True, options=mean_spectral)


def mean_only(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """Centring without a bound on the weight; the options are those of `mean_spectral`."""
    output = partial(centring_of, offset=offset, gain=gain, sync=sync, momentum=momentum)
    return Norm(output=output, cancels_bias=True, options=mean_only)


class Offset(nn.Module):
    """Add a learned m per channel, at first zero, to (N, C, ...) or, channel_axis -1, (..., C)."""

    def __init__(self, channels: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.channels, self.channel_axis = channels, channel_axis
        self.bias = nn.Parameter(torch.zeros(channels))

    def extra_repr(self) -> str:
        return f"{self.channels}"

    def forward(self, x: Tensor) -> Tensor:
        return (x + along(self.bias, x, self.channel_axis % x.dim())).to(x.dtype)


def offset_of(layer: nn.Module) -> Offset:
    """The offset for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
    channels, axis = outputs_of(layer)
    return Offset(channels, channel_axis=axis)


MEAN_SPECTRAL, MEAN_ONLY = mean_spectral(), mean_only()
# A bias of the layer would do what m does a second time, and takes another part in weight decay.
SPECTRAL_BIAS = Norm(weight=SpectralNorm.of, output=offset_of, cancels_bias=True)
