"""Put a norm on any network, and take it off again for inference."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import (
    parametrizations,
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
)
from torch.nn.utils.spectral_norm import SpectralNorm as HookedSpectralNorm
from torch.nn.utils.weight_norm import WeightNorm as HookedWeightNorm

from msngan.norms.base import BATCH_COUPLED, Norm, outputs_of
from msngan.norms.centring import Centring
from msngan.norms.layers import (
    MSN,
    NormLayer,
    drop_hook,
    has_output,
    join,
    norm_attention,
    norm_output,
    normalise,
    prepare,
    settle,
    stored,
    unwatch,
    watch,
    weights_of,
)
from msngan.norms.mean_spectral import Offset
from msngan.norms.parts import widened
from msngan.norms.sample import SampleNorm
from msngan.norms.select import configured, layers_of, listed, select

HOOKED = (HookedSpectralNorm, HookedWeightNorm)
PARAMETRIZED = (parametrizations._SpectralNorm, parametrizations._WeightNorm)
NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Report:
    """What `convert` did, by qualified names.

    normed: the layers that got the norm. left_out: weight matrices of the network that no call of
    `convert` can put this norm on. followed: normalisation layers that come after one of a
    batch-coupled norm, which they repeat, and whose scale undoes a bound. removed: those of them
    that were taken out.
    """

    normed: list[str]
    left_out: list[str]
    followed: list[str]
    removed: list[str]


@overload
def convert(
    module: nn.Module, norm: str, *, report: Literal[True], **rest: Any
) -> tuple[nn.Module, Report]: ...  # noqa: E501
@overload
def convert(module: nn.Module, norm: str, **rest: Any) -> nn.Module: ...
def convert(
    module: nn.Module,
    norm: str,
    *,
    head: str | None = None,
    conv_bias: bool = False,
    layers: Sequence[int | str] | None = None,
    replace: bool = False,
    replace_batch_norm: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Put `norm` on the layers of `module` that have weight matrices, in place, and return it.

    Those are torch's convolutions and transposed convolutions (1d to 3d), Linear, Bilinear,
    Embedding and EmbeddingBag, and their subclasses, and of MultiheadAttention and the recurrent
    layers and cells each weight. Whoever reads such a weight gets the normed one. The output part
    of a norm goes on what a convolution, a linear or a bilinear layer returns; an embedding and the
    projections inside an attention or a recurrent layer get the weight part alone.

    Parameters keep their identity, so an optimizer that holds them still works. Biases that the
    norm cancels are removed unless conv_bias; a norm may add parameters of its own.

    Args:
        head: the qualified name of the last layer of a critic, which gets the weight part alone.
        layers: which layers, None for all: a list of indices among them ([0, -1]), patterns of
            names (["body.*"], or ["!head"] for all but that) and kinds (["Conv2d"]). The others are
            left as they are, and may get another norm by another call.
        replace: take off spectral and weight norms of torch's that layers have.
        replace_batch_norm: replace a batch or instance norm that directly follows a layer with a
            batch-coupled norm by the identity.
        report: return (module, Report) instead of warning of what was left out.
        options: of the norm, by name, as gain=True.

    A lazy layer gets its norm with its weight, at its first input; make the optimizer after that.

    Raises ValueError, and changes nothing, for an unknown norm, option or layer, for complex or
    integer weights, and for a layer that has a norm already: ours, or without `replace` torch's.
    """
    entry = configured(norm, options)
    every, chosen = layers_of(module), select(module, layers)
    last = None if head is None else dict(module.named_modules(remove_duplicate=False)).get(head)
    if head is not None and not any(layer is last for layer in every.values()):
        raise ValueError(f"no layer {head!r} to be the head; layers are {listed(every)}")
    _check(chosen)
    theirs = _with_torch_norms(chosen)
    if theirs and not replace:
        raise ValueError(
            f"layers with a norm of torch's: {listed(theirs)}; take it off first, or give"
            " replace=True"
        )
    for layer in theirs.values():
        _take_off(layer)
    for name in [name for name, layer in chosen.items() if _is_lazy(layer)]:
        layer = chosen.pop(name)
        _later(layer, entry, head=layer is last, conv_bias=conv_bias)
    # A norm may refuse a layer while its part is made, so all are made before one is put on.
    parts = [_made(entry, layer, head=layer is last) for layer in chosen.values()]
    for layer, part in zip(chosen.values(), parts, strict=True):
        normalise(layer, part, head=layer is last, conv_bias=conv_bias)
    join(module)
    watch(module)
    told = _told(module, entry, chosen, last)
    if replace_batch_norm:
        told = _without_batch_norms(module, told)
    if report:
        return module, told
    _warn(norm, told)
    return module


def _check(chosen: Mapping[str, nn.Module]) -> None:
    normed = [name for name, layer in chosen.items() if isinstance(layer, NormLayer)]
    if normed:
        raise ValueError(
            f"layers with a norm already: {listed(normed)}; leave them out of `layers`, or take"
            " their norm off with `fold` first"
        )
    for name, layer in chosen.items():
        for weight in weights_of(layer):
            dtype = getattr(layer, weight).dtype
            if not dtype.is_floating_point:
                raise ValueError(
                    f"{name or 'the layer'} has {dtype} weights; norms take real floating-point"
                    " ones"
                )


def _is_lazy(layer: nn.Module) -> bool:
    return isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params()  # type: ignore[misc]


def _later(layer: nn.Module, norm: Norm, **how: bool) -> None:
    """Put the norm on a lazy layer at its first input, which gives it its weight."""

    def put(layer: nn.Module, args: Any) -> None:
        hook.remove()
        normalise(layer, norm, **how)
        if prepare in layer._forward_pre_hooks.values():  # too late for this pass
            prepare(layer, args, {})

    hook = layer.register_forward_pre_hook(put)


def _with_torch_norms(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: layer for name, layer in layers.items() if _torch_norms(layer)}


def _torch_norms(layer: nn.Module) -> list[tuple[str, bool]]:
    """(name of the weight, whether in the form with hooks) of torch's norms of weights."""
    hooks = [h for h in layer._forward_pre_hooks.values() if isinstance(h, HOOKED)]
    found = [(hook.name, True) for hook in hooks]
    if parametrize.is_parametrized(layer):
        for name, chain in layer.parametrizations.items():  # type: ignore[union-attr, operator]
            if any(isinstance(each, PARAMETRIZED) for each in chain):
                found.append((name, False))
    return found


def _take_off(layer: nn.Module) -> None:
    for name, hooked in _torch_norms(layer):
        if not hooked:
            parametrize.remove_parametrizations(layer, name)
        elif any(isinstance(h, HookedSpectralNorm) for h in layer._forward_pre_hooks.values()):
            remove_spectral_norm(layer, name)
        else:
            remove_weight_norm(layer, name)


def _made(norm: Norm, layer: nn.Module, *, head: bool) -> Norm:
    """The norm with the parts of this one layer made already."""
    weight, output = norm.weight, norm.output
    if weight is not None:
        parts = {name: weight(layer, name) for name in weights_of(layer)}
        weight = lambda _, name: parts[name]  # noqa: E731
    if output is not None and not head and has_output(layer):
        part = output(layer)
        output = lambda _: part  # noqa: E731
    return dataclasses.replace(norm, weight=weight, output=output)


def _told(module: nn.Module, entry: Norm, chosen: Mapping[str, nn.Module], last: Any) -> Report:
    if entry.weight is None and entry.output is None:
        return Report([], [], [], [])
    normed = [name for name, layer in chosen.items() if isinstance(layer, NormLayer)]
    without = {id(layer) for layer in chosen.values() if not isinstance(layer, NormLayer)}
    without -= {id(last)}
    left = []
    for name, part in module.named_modules():
        # Weights of layers are known, chosen or not, but for those that the norm has no part for.
        known = () if id(part) in without else weights_of(part)
        for weight, parameter in part.named_parameters(recurse=False):
            if not is_lazy(parameter) and parameter.dim() > 1 and weight not in known:
                left.append(f"{name}.{weight}" if name else weight)
    coupled = [layer for layer in chosen.values() if _coupled(layer)]
    followed = [name for name, before, _ in _neighbours(module) if before in coupled]
    return Report(normed, left, followed, [])


def _coupled(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "output_norm", None), BATCH_COUPLED)


def _neighbours(module: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """(name, layer before, it) of each normalisation that directly follows a layer of its width.

    Directly: as the next child of the same module, where definitions stand in the order of use.
    """
    found: list[tuple[str, nn.Module, nn.Module]] = []
    for name, parent in module.named_modules():
        if isinstance(parent, NormLayer):
            continue
        for (_, before), (own, after) in pairwise(parent.named_children()):
            if isinstance(after, NORMALISATIONS) and has_output(before):
                width = getattr(after, "num_features", getattr(after, "num_channels", None))
                if width in (None, outputs_of(before)[0]):
                    found.append((f"{name}.{own}" if name else own, before, after))
    return found


def _without_batch_norms(module: nn.Module, told: Report) -> Report:
    removed = [
        name
        for name, _, after in _neighbours(module)
        if name in told.followed and isinstance(after, _NormBase)
    ]
    for name in removed:
        module.set_submodule(name, nn.Identity())
    kept = [name for name in told.followed if name not in removed]
    return Report(told.normed, told.left_out, kept, removed)


def _warn(norm: str, told: Report) -> None:
    if told.left_out:
        warnings.warn(
            f"convert: weights without norm {norm!r}: {listed(told.left_out)}", stacklevel=3
        )
    if told.followed:
        warnings.warn(
            f"convert: {listed(told.followed)} normalise again what {norm!r} has, and scale it;"
            " give replace_batch_norm=True to replace batch and instance norms by the identity",
            stacklevel=3,
        )


def fold(module: nn.Module) -> nn.Module:
    """A copy of `module` with plain layers that compute what it computes in eval.

    The weight becomes the normalised weight; batch norm, centring and offsets go into weight and
    bias. The running statistics are taken as they are now. Layer and instance norm depend on the
    input: such a layer keeps its output norm, and its weight is folded. Each weight stays in the
    memory format (contiguous or channels_last) that it has. `module` is not changed.

    Raises TypeError for an output norm that it does not know.
    """
    folded = copy.deepcopy(module).eval()
    for part in folded.modules():
        unwatch(part)
    for part in list(folded.modules()):
        if isinstance(part, NormLayer):
            _fold_layer(part)
    for part in folded.modules():
        if isinstance(part, nn.MultiheadAttention) and "output_norm" not in part.out_proj._modules:
            drop_hook(part._forward_hooks, norm_attention)
    return folded


@torch.no_grad()
def _fold_layer(layer: NormLayer) -> None:
    weights = {}
    for name in layer.normed:
        made, like = getattr(layer, name), stored(layer, name)
        # Rounded to a low precision once, and never memory that something else holds.
        weights[name] = torch.empty_like(like).copy_(made)
    output = layer._modules.get("output_norm")
    folds = output is not None and not isinstance(output, SampleNorm)
    if output is not None and folds:
        weights["weight"], bias = _with_affine(layer, weights["weight"], *_affine(output))
    plain = layer.plain
    if parametrize.is_parametrized(layer):
        plain = _without_parametrizations(layer)
    for name, weight in weights.items():
        _stop_making(layer, name)
        layer.__dict__.pop(name, None)
        layer._parameters[name] = nn.Parameter(weight)
        layer._modules.pop(name + "_norm", None)
    if folds:
        layer._buffers.pop("bias", None)
        if bias is not None:
            layer.register_parameter("bias", nn.Parameter(bias.to(weights["weight"].dtype)))
        drop_hook(layer._forward_hooks, norm_output)
    if folds or output is None:
        layer._modules.pop("output_norm", None)
    drop_hook(layer._forward_pre_hooks, prepare)
    drop_hook(layer._load_state_dict_post_hooks, settle)
    # The layer becomes torch's again, the reverse of `normalise`: references to it stay.
    layer.__class__ = plain.__bases__[-1] if issubclass(plain, MSN) else plain


def _without_parametrizations(layer: NormLayer) -> type[nn.Module]:
    """Make parameters of what is parametrized, and give the class that has no property for it.

    Not by torch's remove_parametrizations, which changes the class that a copy shares.
    """
    chains = layer._modules.pop("parametrizations")
    for name, chain in chains.items():  # type: ignore[union-attr, operator]
        if name not in layer._parameters:
            layer._parameters[name] = nn.Parameter(chain().detach().clone())
    classes = [kind for kind in layer.plain.__mro__ if not kind.__name__.startswith("Parametrized")]
    return classes[0]


def _stop_making(layer: nn.Module, name: str) -> None:
    """End what makes the stored weight anew in each pass: pruning and hooks."""
    if f"{name}_mask" in layer._buffers:
        prune.remove(layer, name)
    _take_off(layer)


def _with_affine(
    layer: nn.Module, weight: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with each output channel scaled, then shifted."""
    bias = getattr(layer, "bias", None)
    shift = shift if bias is None else bias * scale + shift
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs / groups, kernel)
        grouped = weight.unflatten(0, (layer.groups, -1))
        per_group = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        made = (grouped * per_group).flatten(0, 1)
    else:
        made = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    return torch.empty_like(weight).copy_(made), shift


def _affine(output_norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The scale and shift per channel that the output norm applies in eval, float32 at least."""
    if isinstance(output_norm, Offset):
        offset = widened(output_norm.bias)
        return torch.ones_like(offset), offset
    if not isinstance(output_norm, (Centring, _BatchNorm)):
        raise TypeError(f"{type(output_norm).__name__} cannot be folded into a layer")
    assert output_norm.running_mean is not None
    mean = widened(output_norm.running_mean)
    scale = torch.ones_like(mean)
    if isinstance(output_norm, _BatchNorm):
        assert output_norm.running_var is not None
        scale = (widened(output_norm.running_var) + output_norm.eps).rsqrt()
    if output_norm.weight is not None:
        scale = scale * output_norm.weight
    shift = -scale * mean
    return scale, shift if output_norm.bias is None else shift + output_norm.bias
