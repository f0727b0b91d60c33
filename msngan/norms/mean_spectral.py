"""Mean Spectral Normalization: bound the weight, centre the output.

Subramanian & Chong, "Mean Spectral Normalization of Deep Neural Networks for Embedded Automation",
CASE 2019, arXiv:1907.04003, equations 6 and 7:

    MSN(W, x) = (W / sigma(W)) x - E[(W / sigma(W)) x] + m

There is no gain: the authors' released code multiplies by one, which the paper does not, and with
it the layer's Lipschitz constant is no longer that of W / sigma(W).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from msngan.norms.base import Norm
from msngan.norms.centring import Centring
from msngan.norms.parts import outputs_of
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


def mean_spectral(gain: bool = False, sync: bool = False, momentum: float | None = 0.1) -> Norm:
    """MSN. gain: the released code's factor per channel; sync: one mean over all processes."""
    output = partial(centring_of, gain=gain, sync=sync, momentum=momentum)
    return Norm(SpectralNorm.of, output, cancels_bias=True, options=mean_spectral)


MEAN_SPECTRAL = mean_spectral()
