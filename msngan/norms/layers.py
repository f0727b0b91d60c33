"""Convolutions and linear layers with a norm inside, drop-in for torch's.

state_dict keys: weight, bias (where it is alive), weight_norm.u, weight_norm.v, output_norm.*.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms.base import Norm
from msngan.norms.centring import Centring
from msngan.norms.mean_spectral import MEAN_SPECTRAL, centring_of
from msngan.norms.parts import WeightPart


class NormLayer(nn.Module):
    """The part that all kinds share: normalise the weight, apply the layer, norm the output."""

    weight: Tensor
    bias: Tensor | None
    weight_norm: nn.Module | None
    output_norm: nn.Module | None

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        return self.weight if self.weight_norm is None else self.weight_norm(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._normed(x, self._weight_for(x))

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """LeakyReLU of the output, under a Centring that subtracts the batch's means."""
        assert isinstance(self.output_norm, Centring)
        return self.output_norm.activated(self.operate(x, self._weight_for(x), self.bias), slope)

    def _weight_for(self, x: Tensor) -> Tensor:
        """The weight to compute with on this input, which the layer must be able to take."""
        if isinstance(self.weight_norm, WeightPart):
            self.weight_norm.prepare(self, x)
        self._needs_batch(x)
        return self.effective_weight()

    def _normed(self, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        output = self.output_norm
        if output is None:
            return self.operate(x, weight, self.bias, **options)
        if isinstance(output, Centring) and self.bias is None and output.is_shift(x):
            # A constant per channel costs nothing as the bias of the layer.
            return self.operate(x, weight, output.shift(), **options)
        return output(self.operate(x, weight, self.bias, **options))

    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The plain layer with this weight and bias."""
        return self._conv_forward(x, weight, bias)  # type: ignore[operator]

    def _needs_batch(self, x: Tensor) -> None:
        # torch's convolutions take one image without a batch axis; a norm would then take the
        # image's rows for its channels.
        if self.output_norm is not None and x.dim() != self.weight.dim():
            raise ValueError(
                f"a normed convolution takes a batch (N, C, ...), not a tensor of {tuple(x.shape)}"
            )


class NormConv1d(NormLayer, nn.Conv1d):
    """torch.nn.Conv1d with a norm; see `normalise`."""


class NormConv2d(NormLayer, nn.Conv2d):
    """torch.nn.Conv2d with a norm; see `normalise`."""


class NormConv3d(NormLayer, nn.Conv3d):
    """torch.nn.Conv3d with a norm; see `normalise`."""


class NormLinear(NormLayer, nn.Linear):  # type: ignore[misc]  # torch types its bias as alive
    """torch.nn.Linear with a norm; see `normalise`. Leading axes are batch (or token) axes."""

    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _needs_batch(self, x: Tensor) -> None:
        pass


class NormConvTranspose2d(NormLayer, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d with a norm; see `normalise`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return self._normed(x, self._weight_for(x), output_size=output_size)

    def operate(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_size: list[int] | None = None,
    ) -> Tensor:
        stride, dilation = list(self.stride), list(self.dilation)
        padding = [int(each) for each in self.padding]
        extra = self._output_padding(
            x, output_size, stride, padding, list(self.kernel_size), 2, dilation
        )
        return F.conv_transpose2d(x, weight, bias, stride, padding, extra, self.groups, dilation)


KINDS: dict[type[nn.Module], type[NormLayer]] = {
    nn.Conv1d: NormConv1d,
    nn.Conv2d: NormConv2d,
    nn.Conv3d: NormConv3d,
    nn.ConvTranspose2d: NormConvTranspose2d,
    nn.Linear: NormLinear,
}


def normalise(
    layer: nn.Module, norm: Norm, *, head: bool = False, conv_bias: bool = False
) -> nn.Module:
    """Put a norm on one torch layer, in place, and return it; the plain layer for `none`.

    head: a critic's last layer. It gets the weight part alone: centring it would pin the mean score
        of every batch, and the Wasserstein gradient would be exactly zero.
    conv_bias: keep a bias that the norm cancels, as the published networks do; it is dead.
    """
    if norm.weight is None and (norm.output is None or head):
        return layer
    if type(layer) not in KINDS:
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise TypeError(f"cannot put a norm on {type(layer).__name__}; it goes on {names}")
    weight_norm = norm.weight(layer) if norm.weight else None
    output_norm = norm.output(layer) if norm.output and not head else None
    # The layer becomes its own subclass: parameters, hooks and references to it stay.
    layer.__class__ = KINDS[type(layer)]
    assert isinstance(layer, NormLayer)
    layer.weight_norm, layer.output_norm = weight_norm, output_norm
    if norm.cancels_bias and not head and not conv_bias:
        layer.register_parameter("bias", None)
    return _like(layer)


def _like(layer: nn.Module) -> nn.Module:
    """The norm's own state on the device and in the dtype of the layer's weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return layer.to(device=weight.device, dtype=weight.dtype).train(layer.training)


class _MSN(NormLayer):
    """What the three drop-in layers add: MSN from birth. `bias` says whether m is learned."""

    def __init__(self, *args: Any, gain: bool = False, **options: Any) -> None:
        # Bound to torch's signature, in which `bias` may be positional.
        arguments = signature(super().__init__).bind(*args, **options).arguments
        bias = arguments.pop("bias", True)
        super().__init__(**arguments, bias=False)
        assert MEAN_SPECTRAL.weight
        self.weight_norm = MEAN_SPECTRAL.weight(self)
        self.output_norm = centring_of(self, offset=bias, gain=gain)
        _like(self)


class MSNConv2d(_MSN, NormConv2d):
    """torch.nn.Conv2d under Mean Spectral Normalization (arXiv:1907.04003, equations 6 and 7).

    Arguments as torch's, and `bias`: whether the offset m is learned; `gain`: a learned factor per
    channel as in the authors' released code. The convolution itself has no bias, for centring
    would cancel it. Input (N, C, H, W).
    """


class MSNConvTranspose2d(_MSN, NormConvTranspose2d):
    """torch.nn.ConvTranspose2d under Mean Spectral Normalization; see MSNConv2d."""


class MSNLinear(_MSN, NormLinear):  # type: ignore[misc]  # as above
    """torch.nn.Linear under Mean Spectral Normalization; means are over all axes but the last."""
