"""Put a norm on any network, and take it off again for inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from msngan.norms.centring import Centring
from msngan.norms.layers import KINDS, NormConvTranspose2d, NormLayer, normalise
from msngan.norms.table import NORMS


def convert(
    module: nn.Module, norm: str, *, head: str | None = None, conv_bias: bool = False
) -> nn.Module:
    """Put `norm` on every convolution and linear layer of `module`, in place, and return it.

    Parameters keep their identity, so an optimizer that holds them still works, except the biases
    that the norm cancels, which are removed unless conv_bias.
    head: the qualified name of the last layer of a critic, which gets the weight part alone.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose one of {', '.join(sorted(NORMS))}")
    layers = {name: part for name, part in module.named_modules() if type(part) in KINDS}
    if any(isinstance(part, NormLayer) for part in module.modules()):
        raise ValueError("the network has a norm already; take it off with `fold` first")
    if head is not None and head not in layers:
        raise ValueError(f"no layer {head!r} to be the head; layers are {', '.join(layers)}")
    for name, layer in layers.items():
        normalise(layer, NORMS[norm], head=name == head, conv_bias=conv_bias)
    return module


def fold(module: nn.Module) -> nn.Module:
    """A copy of `module` with plain layers that compute what it computes in eval.

    The weight becomes the normalised weight; batch norm and centring go into weight and bias. The
    running statistics are taken as they are now. `module` is not changed.
    """
    folded = copy.deepcopy(module).eval()
    for part in list(folded.modules()):
        if isinstance(part, NormLayer):
            _fold_layer(part)
    return folded


@torch.no_grad()
def _fold_layer(layer: NormLayer) -> None:
    weight: Tensor = layer.effective_weight()
    bias: Tensor | None = layer.bias
    if layer.output_norm is not None:
        scale, shift = _affine(layer.output_norm)
        weight = _scale_outputs(layer, weight, scale)
        bias = shift if bias is None else bias * scale + shift
    # The layer becomes torch's again, the reverse of `normalise`: references to it stay.
    kind = next(kind for kind, normed in KINDS.items() if isinstance(layer, normed))
    layer.__class__ = kind  # type: ignore[assignment]
    del layer.weight_norm, layer.output_norm
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)


def _scale_outputs(layer: NormLayer, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel multiplied by its scale."""
    if isinstance(layer, NormConvTranspose2d):  # (inputs, outputs / groups, kernel)
        grouped = weight.unflatten(0, (layer.groups, -1))
        per_group = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        return (grouped * per_group).flatten(0, 1)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def _affine(output_norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The scale and shift per channel that the output norm applies in eval."""
    if isinstance(output_norm, Centring):
        scale = torch.ones_like(output_norm.running_mean)
    elif isinstance(output_norm, nn.modules.batchnorm._BatchNorm):
        assert output_norm.running_var is not None
        scale = (output_norm.running_var + output_norm.eps).rsqrt()
    else:
        raise TypeError(f"{type(output_norm).__name__} cannot be folded into a layer")
    gain, offset, mean = output_norm.weight, output_norm.bias, output_norm.running_mean
    assert mean is not None
    if gain is not None:
        scale = scale * gain
    shift = -scale * mean
    return scale, shift if offset is None else shift + offset
