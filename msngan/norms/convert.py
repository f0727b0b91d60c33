"""Put a norm on any network, and take it off again for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from msngan.norms.base import Norm
from msngan.norms.centring import Centring
from msngan.norms.layers import KINDS, NormConvTranspose2d, NormLayer, normalise
from msngan.norms.offset import Offset
from msngan.norms.precision import widened
from msngan.norms.sample import SampleNorm
from msngan.norms.select import configured, layers_of, listed, select


def convert(
    module: nn.Module,
    norm: str,
    *,
    head: str | None = None,
    conv_bias: bool = False,
    layers: Sequence[int | str] | None = None,
    **options: Any,
) -> nn.Module:
    """Put `norm` on convolution and linear layers of `module`, in place, and return it.

    Parameters keep their identity, so an optimizer that holds them still works, except the biases
    that the norm cancels, which are removed unless conv_bias.

    head: the qualified name of the last layer of a critic, which gets the weight part alone.
    layers: which layers, None for all: a list of indices among them ([0, -1]), patterns of names
        (["body.*"], or ["!head"] for all but that) and kinds (["Conv2d"]). The others are left as
        they are, and may get another norm by another call.
    options: of the norm, by name, as gain=True.

    Raises ValueError, and changes nothing, for an unknown norm, option or layer, and for a layer
    that has a norm already.
    """
    entry = configured(norm, options)
    every, chosen = layers_of(module), select(module, layers)
    last = None if head is None else dict(module.named_modules(remove_duplicate=False)).get(head)
    if head is not None and not any(layer is last for layer in every.values()):
        raise ValueError(f"no layer {head!r} to be the head; layers are {listed(every)}")
    normed = [name for name, layer in chosen.items() if isinstance(layer, NormLayer)]
    if normed:
        raise ValueError(
            f"layers with a norm already: {listed(normed)}; leave them out of `layers`, or take"
            " their norm off with `fold` first"
        )
    # A norm may refuse a layer while its part is made, so all are made before one is put on.
    parts = [_made(entry, layer, head=layer is last) for layer in chosen.values()]
    for layer, part in zip(chosen.values(), parts, strict=True):
        normalise(layer, part, head=layer is last, conv_bias=conv_bias)
    return module


def _made(norm: Norm, layer: nn.Module, *, head: bool) -> Norm:
    """The norm with the parts of this one layer made already."""
    weight, output = norm.weight, norm.output
    if weight is not None:
        weight = _keep(weight(layer))
    if output is not None and not head:
        output = _keep(output(layer))
    return replace(norm, weight=weight, output=output)


def _keep(part: nn.Module) -> Callable[[nn.Module], nn.Module]:
    return lambda _: part


def fold(module: nn.Module) -> nn.Module:
    """A copy of `module` with plain layers that compute what it computes in eval.

    The weight becomes the normalised weight; batch norm, centring and offsets go into weight and
    bias. The running statistics are taken as they are now. Layer and instance norm depend on the
    input: such a layer keeps its output norm, and its weight is folded. Each weight stays in the
    memory format (contiguous or channels_last) that it has. `module` is not changed.

    Raises TypeError for an output norm that it does not know.
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
    kept = layer.output_norm if isinstance(layer.output_norm, SampleNorm) else None
    if layer.output_norm is not None and kept is None:
        scale, shift = _affine(layer.output_norm)
        weight = _scale_outputs(layer, weight, scale)
        bias = shift if bias is None else bias * scale + shift
    # Rounded to a low precision once, and never memory that something else holds.
    layer.weight = nn.Parameter(torch.empty_like(layer.weight).copy_(weight))
    layer.bias = None if bias is None else nn.Parameter(bias.to(layer.weight.dtype).clone())
    layer.weight_norm = None
    if kept is None:
        # The layer becomes torch's again, the reverse of `normalise`: references to it stay.
        kind = next(kind for kind, normed in KINDS.items() if isinstance(layer, normed))
        layer.__class__ = kind  # type: ignore[assignment]
        del layer.weight_norm, layer.output_norm


def _scale_outputs(layer: NormLayer, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight with each output channel multiplied by its scale."""
    if isinstance(layer, NormConvTranspose2d):  # (inputs, outputs / groups, kernel)
        grouped = weight.unflatten(0, (layer.groups, -1))
        per_group = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        return (grouped * per_group).flatten(0, 1)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def _affine(output_norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The scale and shift per channel that the output norm applies in eval, float32 at least."""
    if isinstance(output_norm, Offset):
        offset = widened(output_norm.bias)
        return torch.ones_like(offset), offset
    if not isinstance(output_norm, (Centring, nn.modules.batchnorm._BatchNorm)):
        raise TypeError(f"{type(output_norm).__name__} cannot be folded into a layer")
    assert output_norm.running_mean is not None
    mean = widened(output_norm.running_mean)
    scale = torch.ones_like(mean)
    if isinstance(output_norm, nn.modules.batchnorm._BatchNorm):
        assert output_norm.running_var is not None
        scale = (widened(output_norm.running_var) + output_norm.eps).rsqrt()
    if output_norm.weight is not None:
        scale = scale * output_norm.weight
    shift = -scale * mean
    return scale, shift if output_norm.bias is None else shift + output_norm.bias
