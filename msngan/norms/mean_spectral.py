"""Mean Spectral Normalization: bound the weight, centre the output.

Subramanian & Chong, "Mean Spectral Normalization of Deep Neural Networks for Embedded Automation",
CASE 2019, arXiv:1907.04003, equations 6 and 7:

    MSN(W, x) = (W / sigma(W)) x - E[(W / sigma(W)) x] + m

There is no gain: the authors' released code multiplies by one, which the paper does not, and with
it the layer's Lipschitz constant is no longer that of W / sigma(W).
"""

from torch import nn

from msngan.norms.base import Norm
from msngan.norms.centring import Centring
from msngan.norms.spectral import SpectralNorm


def centring_of(layer: nn.Module, *, offset: bool = True, gain: bool = False) -> Centring:
    """Centring for the outputs of a convolution (axis 1) or a linear layer (the last axis)."""
    if isinstance(layer, nn.Linear):
        return Centring(layer.out_features, channel_axis=-1, offset=offset, gain=gain)
    channels = layer.out_channels
    assert isinstance(channels, int)
    return Centring(channels, offset=offset, gain=gain)


MEAN_SPECTRAL = Norm(weight=SpectralNorm.of, output=centring_of, cancels_bias=True)
