"""Select layers of any network, put a norm on them, and fold it into plain layers again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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

from msngan.norms.classic import BATCH_COUPLED, SampleNorm
from msngan.norms.layers import (
    NormLayer,
    drop_hook,
    join,
    norm_attention,
    norm_output,
    normalise,
    parts_for,
    prepare,
    put_parts,
    settle,
    stored,
    unwatch,
    watch,
    weights_of,
)
from msngan.norms.mean_spectral import MSN, Centring, Offset
from msngan.norms.parts import Norm, listed, outputs_of, widened
from msngan.norms.table import configured
from msngan.runs.folder import did_you_mean

HOOKED = (HookedSpectralNorm, HookedWeightNorm)
PARAMETRIZED = (parametrizations._SpectralNorm, parametrizations._WeightNorm)
NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """The layers with weight matrices, with or without a norm, by qualified name and in order.

    These are layers of torch and their subclasses; see `msngan.norms.layers.weights_of`. A layer
    with several names has its first.
    """
    return {name: part for name, part in module.named_modules() if weights_of(part)}


def select(module: nn.Module, layers: Sequence[int | str] | None = None) -> dict[str, nn.Module]:
    """The layers that any item selects, by name, in the order of `layers_of`; None selects all.

    An item is an index among the layers (negative from the end), a pattern that any of a layer's
    names matches ("body.*") or the name of a class ("Conv2d"). An item "!..." removes what the rest
    of it selects; if all items do, they remove from all layers. Raises ValueError for an item that
    selects nothing, and if nothing is left.
    """
    found = layers_of(module)
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no layer to put a norm on: none with a weight matrix"
        )
    if layers is None:
        return found
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers {layers!r}: give a list, as [0, 'body.*', 'Linear'], or None")
    # (name, the first name of its layer): all names of the layers, and the names of their classes.
    first = {id(layer): name for name, layer in found.items()}
    every = module.named_modules(remove_duplicate=False)
    names = [(name, first[id(part)]) for name, part in every if id(part) in first]
    kinds = [(kind, name) for name, layer in found.items() for kind in _kinds(layer)]
    chosen: list[set[str]] = []
    removed: set[str] = set()
    for item in layers:
        if isinstance(item, str):
            word = item.removeprefix("!")
            matched = {layer for name, layer in names if fnmatchcase(name, word)}
            matched |= {layer for kind, layer in kinds if kind == word}
            if not matched:
                raise ValueError(_nothing_matches(item, word, [name for name, _ in names], found))
            if item.startswith("!"):
                removed |= matched
                continue
        elif not isinstance(item, int) or isinstance(item, bool):
            raise ValueError(
                f"layers: {item!r} is not an index, a pattern of names or a class name"
            )
        elif not -len(found) <= item < len(found):
            raise ValueError(
                f"there is no layer {item}; the layers are 0 to {len(found) - 1}, or -{len(found)}"
                " to -1 from the end"
            )
        else:
            matched = {list(found)[item]}
        chosen.append(matched)
    kept = (set().union(*chosen) if chosen else set(found)) - removed
    if not kept:
        raise ValueError(f"layers {list(layers)} leave no layer")
    return {name: layer for name, layer in found.items() if name in kept}


def _kinds(layer: nn.Module) -> list[str]:
    """The names of the layer's class, without the norm, and of its base classes."""
    plain = layer.plain if isinstance(layer, NormLayer) else type(layer)
    return [kind.__name__ for kind in plain.__mro__ if issubclass(kind, nn.Module)][:-1]


def _nothing_matches(
    item: str, word: str, names: Sequence[str], found: Mapping[str, nn.Module]
) -> str:
    if any(each.startswith(f"{word}.") for each in names):
        near = f" (did you mean {word + '.*'!r}?)"
    else:
        near = did_you_mean(word, [*names, "Conv2d", "Linear"])
    kinds = dict.fromkeys(_kinds(layer)[0] for layer in found.values())
    return (
        f"no layer matches {item!r}{near}; the layers are {listed(found)};"
        f" their classes are {', '.join(kinds)}"
    )


@dataclass(frozen=True)
class Report:
    """What `convert` did, by qualified names.

    normed: the layers that got the norm. left_out: weight matrices that no call of `convert` can
    put this norm on. followed: normalisation layers directly after a batch-coupled norm: they
    normalise again, and their scale undoes a bound. removed: those of them that were removed.
    """

    normed: list[str]
    left_out: list[str]
    followed: list[str]
    removed: list[str]


@overload
def convert(
    module: nn.Module, norm: str, *, report: Literal[True], **rest: Any
) -> tuple[nn.Module, Report]: ...
@overload
def convert(module: nn.Module, norm: str, **rest: Any) -> nn.Module: ...
def convert(
    module: nn.Module,
    norm: str,
    *,
    head: str | Sequence[str] | None = None,
    conv_bias: bool = False,
    layers: Sequence[int | str] | None = None,
    replace: bool = False,
    replace_batch_norm: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Put `norm` on the layers of `module` that have weight matrices, in place, and return it.

    These are torch's convolutions and transposed convolutions (1d to 3d), Linear, Bilinear,
    Embedding and EmbeddingBag, MultiheadAttention, the recurrent layers and cells, and subclasses.
    The output part of a norm goes on the output of a convolution, a linear or a bilinear layer; the
    others get the weight part only. Parameters keep their identity, so an optimizer that holds them
    still works; a norm may add parameters of its own, and a lazy layer gets its norm at its first
    input.

    Args:
        head: the qualified name of the last layer of a critic, which gets the weight part only;
            several for a network with several heads.
        conv_bias: keep biases that the norm cancels.
        layers: the layers to norm, None for all: a list of indices among them ([0, -1]), patterns
            of names (["body.*"], or ["!head"] for all others) and class names (["Conv2d"]). The
            others stay as they are, and may get another norm in another call.
        replace: remove torch's spectral and weight norms from the layers first.
        replace_batch_norm: replace a batch or instance norm that directly follows a layer with a
            batch-coupled norm by the identity.
        report: return (module, Report) instead of warning about what was left out.
        options: of the norm, by name, such as gain=True.

    Raises ValueError, and changes nothing, for an unknown norm, option or layer, for complex or
    integer weights, and for a layer that already has a norm: ours, or torch's without `replace`.
    """
    entry = configured(norm, options)
    every, chosen = layers_of(module), select(module, layers)
    names = [head] if isinstance(head, str) else head or ()
    known = dict(module.named_modules(remove_duplicate=False))
    heads = {id(known.get(name)) for name in names}
    for name in names:
        if not any(layer is known.get(name) for layer in every.values()):
            raise ValueError(f"no layer {name!r} to be the head; layers are {listed(every)}")
    _check(chosen)
    theirs = [name for name, layer in chosen.items() if _torch_norms(layer)]
    if theirs and not replace:
        raise ValueError(
            f"layers that already have a norm of torch: {listed(theirs)}; remove it first, or give"
            " replace=True"
        )
    for name in theirs:
        _remove_torch_norms(chosen[name])
    for name, layer in list(chosen.items()):
        if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():  # type: ignore[misc]
            del chosen[name]
            _later(layer, entry, head=id(layer) in heads, conv_bias=conv_bias)
    # A norm may refuse a layer while its part is made, so make all parts before any is put on.
    parts = [parts_for(layer, entry, head=id(layer) in heads) for layer in chosen.values()]
    for layer, made in zip(chosen.values(), parts, strict=True):
        put_parts(layer, made, cancels_bias=entry.cancels_bias and not conv_bias)
    join(module)
    watch(module)
    done = _report(module, entry, chosen, heads, replace_batch_norm)
    if report:
        return module, done
    if done.left_out:
        warnings.warn(
            f"convert: weights without norm {norm!r}: {listed(done.left_out)}", stacklevel=2
        )
    if done.followed:
        if any(isinstance(module.get_submodule(name), _NormBase) for name in done.followed):
            more = (
                "; give replace_batch_norm=True to replace batch and instance norms by the identity"
            )
        else:
            more = ", if they are called directly after it, as they are defined"
        warnings.warn(
            f"convert: {listed(done.followed)} normalise the output of {norm!r} again, and scale it"
            f"{more}",
            stacklevel=2,
        )
    return module


def _check(chosen: Mapping[str, nn.Module]) -> None:
    normed = [name for name, layer in chosen.items() if isinstance(layer, NormLayer)]
    if normed:
        raise ValueError(
            f"layers that already have a norm: {listed(normed)}; leave them out of `layers`, or"
            " remove their norm with `fold` first"
        )
    for name, layer in chosen.items():
        for weight in weights_of(layer):
            dtype = getattr(layer, weight).dtype
            if not dtype.is_floating_point:
                raise ValueError(
                    f"{name or 'the layer'} has {dtype} weights; norms need real floating-point"
                    " weights"
                )


def _later(layer: nn.Module, norm: Norm, **how: bool) -> None:
    """Put the norm on a lazy layer at its first input, which gives it its weight."""

    def put(layer: nn.Module, args: Any) -> None:
        hook.remove()
        normalise(layer, norm, **how)
        if prepare in layer._forward_pre_hooks.values():  # this pass does not call it
            prepare(layer, args, {})

    hook = layer.register_forward_pre_hook(put)


def _torch_norms(layer: nn.Module) -> list[tuple[str, bool]]:
    """torch's norms on a layer: (name of the weight, whether it is the form with a hook)."""
    hooks = [h for h in layer._forward_pre_hooks.values() if isinstance(h, HOOKED)]
    found = [(hook.name, True) for hook in hooks]
    if parametrize.is_parametrized(layer):
        for name, chain in layer.parametrizations.items():  # type: ignore[union-attr, operator]
            if any(isinstance(each, PARAMETRIZED) for each in chain):
                found.append((name, False))
    return found


def _remove_torch_norms(layer: nn.Module) -> None:
    for name, hooked in _torch_norms(layer):
        if not hooked:
            parametrize.remove_parametrizations(layer, name)
        elif any(isinstance(h, HookedSpectralNorm) for h in layer._forward_pre_hooks.values()):
            remove_spectral_norm(layer, name)
        else:
            remove_weight_norm(layer, name)


def _report(
    module: nn.Module, entry: Norm, chosen: Mapping[str, nn.Module], heads: set[int], replace: bool
) -> Report:
    """The report of `convert`, after replacing the batch norms that follow, if asked for."""
    if entry.weight is None and entry.output is None:
        return Report([], [], [], [])
    normed = [name for name, layer in chosen.items() if isinstance(layer, NormLayer)]
    # The layers that this norm has no part for; other layers' weights are not left out.
    without = {id(layer) for layer in chosen.values() if not isinstance(layer, NormLayer)}
    without -= heads
    left = []
    for name, part in module.named_modules():
        if getattr(part, "has_no_matrix", False):
            continue  # its parameters are gains and offsets, one for each class
        known = () if id(part) in without else weights_of(part)
        for weight, parameter in part.named_parameters(recurse=False):
            if not is_lazy(parameter) and parameter.dim() > 1 and weight not in known:
                left.append(f"{name}.{weight}" if name else weight)
    after = _following(module, chosen.values())
    removed = [name for name, norm in after.items() if replace and isinstance(norm, _NormBase)]
    for name in removed:
        module.set_submodule(name, nn.Identity())
    return Report(normed, left, [name for name in after if name not in removed], removed)


def _following(module: nn.Module, layers: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """The normalisation layers directly after one of `layers` with a batch-coupled norm, by name.

    Directly after: the next child of the same module, with the same number of channels.
    """
    coupled = [x for x in layers if isinstance(getattr(x, "output_norm", None), BATCH_COUPLED)]
    found: dict[str, nn.Module] = {}
    for name, parent in module.named_modules():
        if isinstance(parent, NormLayer):
            continue
        for (_, before), (own, after) in pairwise(parent.named_children()):
            if isinstance(after, NORMALISATIONS) and before in coupled:
                width = getattr(after, "num_features", getattr(after, "num_channels", None))
                if width in (None, outputs_of(before)[0]):
                    found[f"{name}.{own}" if name else own] = after
    return found


def fold(module: nn.Module) -> nn.Module:
    """A copy of `module` with plain layers, which computes the same as `module` in eval.

    The weight becomes the normalised weight; batch norm, centring and offsets go into weight and
    bias, with the current running statistics. Layer and instance norm depend on the input: such a
    layer keeps its output norm, and only its weight is folded. Each weight keeps its memory format
    (contiguous or channels_last). `module` is not changed.

    Raises TypeError for an output norm that cannot be folded.
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
        # A copy, so that no memory is shared; rounded to a low precision only once.
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
    # The class of torch again, the reverse of `normalise`.
    layer.__class__ = plain.__bases__[-1] if issubclass(plain, MSN) else plain


def _without_parametrizations(layer: NormLayer) -> type[nn.Module]:
    """Make parametrized weights parameters; return the class without torch's properties.

    torch's remove_parametrizations would change the class, which the original shares.
    """
    chains = layer._modules.pop("parametrizations")
    for name, chain in chains.items():  # type: ignore[union-attr, operator]
        if name not in layer._parameters:
            layer._parameters[name] = nn.Parameter(chain().detach().clone())
    classes = [kind for kind in layer.plain.__mro__ if not kind.__name__.startswith("Parametrized")]
    return classes[0]


def _stop_making(layer: nn.Module, name: str) -> None:
    """Remove what makes the stored weight in each pass: pruning and hooks."""
    if f"{name}_mask" in layer._buffers:
        prune.remove(layer, name)
    _remove_torch_norms(layer)


def _with_affine(
    layer: nn.Module, weight: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """The layer's weight and bias with each output channel scaled, then shifted."""
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
    """The scale and shift per channel of the output norm in eval, in float32 or above."""
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
