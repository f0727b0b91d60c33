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
  by that much as the others move. It is not a bound per image, which gradient penalties need; see
  `msngan.norms.statistics`.
- With gain, out = g (P h) + m: the constant is multiplied by max |g|, which nothing bounds.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from msngan.norms.centring import Centring, along
from msngan.norms.layers import NormLayer, called, norm_output, normalise
from msngan.norms.parts import Norm, outputs_of
from msngan.norms.spectral import SpectralNorm


def mean_spectral(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """MSN. gain: a learned factor per channel, which the paper does not have; sync: one mean over
    all processes; momentum: of the running mean; offset: whether m is learned, else it is 0."""
    output = partial(Centring.of, offset=offset, gain=gain, sync=sync, momentum=momentum)
    return Norm(SpectralNorm.of, output, cancels_bias=True)


def mean_only(
    gain: bool = False, sync: bool = False, momentum: float | None = 0.1, offset: bool = True
) -> Norm:
    """Centring without a bound on the weight; the options are those of `mean_spectral`."""
    output = partial(Centring.of, offset=offset, gain=gain, sync=sync, momentum=momentum)
    return Norm(output=output, cancels_bias=True)


class Offset(nn.Module):
    """Add a learned m per channel, initially 0; (N, C, ...) or, with channel_axis -1, (..., C)."""

    def __init__(self, channels: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.channels, self.channel_axis = channels, channel_axis
        self.bias = nn.Parameter(torch.zeros(channels))

    @classmethod
    def of(cls, layer: nn.Module) -> Offset:
        """The offset for the outputs of a convolution or a linear layer."""
        channels, axis = outputs_of(layer)
        return cls(channels, channel_axis=axis)

    def extra_repr(self) -> str:
        return f"{self.channels}"

    def forward(self, x: Tensor) -> Tensor:
        return (x + along(self.bias, x, self.channel_axis % x.dim())).to(x.dtype)


# A bias of the layer would do the same as m.
SPECTRAL_BIAS = Norm(weight=SpectralNorm.of, output=Offset.of, cancels_bias=True)


class MSN(nn.Module):
    """The base class of the three layers below. bias: whether m is learned."""

    def __init__(self, *args: Any, gain: bool = False, **options: Any) -> None:
        # Bind to torch's signature, in which `bias` may be positional.
        arguments = signature(super().__init__).bind(*args, **options).arguments
        bias = arguments.pop("bias", True)
        super().__init__(**arguments, bias=False)
        normalise(self, mean_spectral(gain=gain, offset=bias))


class MSNConv2d(MSN, nn.Conv2d):
    """torch.nn.Conv2d under Mean Spectral Normalization (arXiv:1907.04003, equations 6 and 7).

    Takes torch's arguments, and `gain`: a learned factor per channel as in the authors' released
    code. `bias` says whether the offset m is learned; the convolution itself has no bias, because
    centring would cancel it. Input (N, C, H, W).
    """


class MSNConvTranspose2d(MSN, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d under Mean Spectral Normalization; see MSNConv2d."""


class MSNLinear(MSN, nn.Linear):
    """torch.nn.Linear under Mean Spectral Normalization; means are over all axes but the last."""


HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


class FusedSequential(nn.Sequential):
    """nn.Sequential that runs centring and the LeakyReLU after it as one operation.

    The results are equal. Nothing else holds the gradient between the two, so it is centred in
    place. Parts with hooks of others are called separately, so that the hooks see their input and
    output.
    """

    def forward(self, input: Tensor) -> Tensor:
        parts = iter([*self, None])
        part = next(parts)
        while part is not None:
            following = next(parts)
            if following is not None and _fuse(part, following):
                output = part.forward(input)  # without the norm's hook
                called(part)
                input = part.output_norm.activated(output, following.negative_slope)
                following = next(parts)
            else:
                input = part(input)
            part = following
        return input


def _fuse(layer: nn.Module, activation: nn.Module) -> bool:
    if not isinstance(layer, NormLayer) or not isinstance(activation, nn.LeakyReLU):
        return False
    norm = layer.output_norm
    centres = isinstance(norm, Centring) and norm.by_batch and norm.weight is None
    leaks = activation.inplace and activation.negative_slope > 0
    if not (centres and leaks):
        return False
    hooks = [getattr(part, f"_{kind}") for part in (layer, norm, activation) for kind in HOOKS]
    return [hook for each in hooks for hook in each.values()] == [norm_output]
