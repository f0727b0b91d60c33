"""Layers under a norm: whoever reads `layer.weight` gets the weight that the layer computes with.

A layer under a norm is of a subclass of its own class that has a property in place of each normed
weight, as with `torch.nn.utils.parametrize`. Unlike there, the parameter stays registered under its
own name. So plain state dicts fit, the order of parameters (and with it an optimizer's state) is
the plain layer's, the whole network can be pickled, and torch's pruning works. The output half of a
norm is a submodule that a forward hook runs, which is how torch's transformers see that they must
not take their fast path around it.

state_dict keys of a layer: weight, bias (where it is alive), weight_norm.*, output_norm.*; of a
weight with another name, as in_proj_weight, in_proj_weight_norm.*.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize, prune

from msngan.norms.base import Norm
from msngan.norms.mean_spectral import MEAN_SPECTRAL, centring_of
from msngan.norms.parts import WeightPart, normal_mode, traced
from msngan.norms.states import translate

# What takes a weight over from its layer must get the parameter, not what is made of it.
TAKES_OVER = {
    parametrize.register_parametrization.__code__,
    prune.BasePruningMethod.apply.__func__.__code__,  # type: ignore[attr-defined]
    nn.Module.get_parameter.__code__,
}
# What reads the biases of the layers in it, and cannot do with None.
READS_BIAS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class _Class(type):
    """The class of a normed layer's class: a property that torch's parametrize sets for a normed
    weight, on a subclass, gives what the norm starts from, and the norm stays on top of it."""

    normed: tuple[str, ...]

    def __setattr__(cls, name: str, value: Any) -> None:
        if isinstance(value, property) and name in getattr(cls, "normed", ()):
            value = _property(name, value)
        super().__setattr__(name, value)


class NormLayer(nn.Module, metaclass=_Class):
    """What all layers under a norm share, mixed into their own class."""

    normed: tuple[str, ...]  # names of the weights that are read through their part
    plain: type[nn.Module]  # the class without the norm

    def apply(self, fn: Callable[[nn.Module], None]) -> NormLayer:
        """As torch's, with the parameters themselves for `fn` to initialise."""
        with parameters_bare(self):
            super().apply(fn)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        for name in self.normed:
            stored(self, name)  # keeps what was written into a weight that was read
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        translate(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        for name in self.normed:
            stored(self, name)
        kind = type(self)
        own_class = class_of(self.plain, self.normed)  # type: ignore[arg-type]
        if kind is not own_class:  # another class on top, as parametrize's
            return super().__reduce_ex__(protocol)
        own = getattr(kind, "__getstate__", None) not in (None, getattr(object, "__getstate__", 0))
        state = dict(self.__getstate__() if own else self.__dict__)
        for name in self.normed:
            if isinstance(state.get(name), Tensor):  # computed by a hook, with a graph
                state[name] = state[name].detach()
        if "_flat_weights" in state:  # of a recurrent layer: made anew in each pass
            state["_flat_weights"] = [self._parameters.get(n) for n in state["_flat_weights_names"]]
            state.pop("_flat_weight_refs", None)
        return _empty, (self.plain, self.normed), state

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            f"torch.jit.script cannot compile {type(self).__name__}: a norm chooses by values; fold"
            " the network first, or use torch.compile, torch.export or torch.jit.trace"
        )


def _empty(plain: type[nn.Module], normed: tuple[str, ...]) -> nn.Module:
    kind = class_of(plain, normed)  # type: ignore[arg-type]
    return kind.__new__(kind)


@cache
def class_of(plain: type[nn.Module], normed: tuple[str, ...]) -> type[NormLayer]:
    """The subclass of a layer's class in which these weights go through a norm."""
    names: dict[str, Any] = {"normed": normed, "plain": plain, "__doc__": plain.__doc__}
    names["__module__"] = plain.__module__  # by which torch.fx knows torch's layers
    if hasattr(plain, "reset_parameters"):
        names["reset_parameters"] = _reset_parameters
    for name in normed:
        inner = getattr(plain, name, None)
        names[name] = _property(name, inner if isinstance(inner, property) else None)
    kind = _Class if issubclass(_Class, type(plain)) else type("_Class", (_Class, type(plain)), {})
    return kind(f"Norm{plain.__name__}", (NormLayer, plain), names)


def _reset_parameters(layer: NormLayer) -> None:
    with parameters_bare(layer):
        layer.plain.reset_parameters(layer)  # type: ignore[attr-defined]


def _property(name: str, inner: property | None) -> property:
    """What a normed weight is read and written by. inner: what the stored weight itself is."""
    part_name = name + "_norm"

    def read(layer: nn.Module) -> Tensor:
        return _registered(layer, name) if inner is None else inner.fget(layer)  # type: ignore[misc]

    def get(layer: nn.Module) -> Tensor:
        part, weight = layer._modules.get(part_name), read(layer)
        if torch.compiler.is_compiling():
            return weight if part is None else part(weight)
        if "_bare" in layer.__dict__ or sys._getframe(1).f_code in TAKES_OVER:
            return weight
        if "_reads" in layer.__dict__:
            layer.__dict__["_reads"] += 1
        if part is None:
            return weight
        _adopt(part)
        try:
            made = part(weight)
        except AttributeError as problem:  # else torch takes the weight for missing, and gives W
            raise RuntimeError(f"the norm of {name} failed: {problem}") from problem
        if isinstance(part, WeightPart) and part._lent is not made:
            _remember(part, made, weight)
        return made

    def put(layer: nn.Module, value: Any) -> None:
        if inner is None:
            layer.__dict__[name] = value  # of pruning, hooks, replicas; parameters are registered
        else:
            inner.fset(layer, value)  # type: ignore[misc]

    def delete(layer: nn.Module) -> None:
        if layer.__dict__.pop(name, None) is None:
            raise AttributeError(name)

    get.read = read  # type: ignore[attr-defined]
    return property(get, put, delete)


def _registered(layer: nn.Module, name: str) -> Tensor:
    found = layer._parameters.get(name)
    if found is None:
        found = layer.__dict__.get(name)
    if found is None:
        raise AttributeError(f"{type(layer).__name__} has no {name!r}")
    return found


def stored(layer: nn.Module, name: str = "weight") -> Tensor:
    """The weight that an optimizer moves: the parameter, or what pruning makes of it."""
    if not isinstance(layer, NormLayer) or name not in layer.normed:
        return getattr(layer, name)
    part = layer._modules.get(name + "_norm")
    if part is not None:
        _adopt(part)
    weight: Tensor = getattr(type(layer), name).fget.read(layer)
    return weight


def _remember(part: WeightPart, made: Tensor, weight: Tensor) -> None:
    """What was handed out, as others may write into it: on a plain layer it is the parameter."""
    if weight.is_leaf and not (made.is_inference() or weight.is_inference()):
        kept = made.detach()
        part.__dict__["_handed"] = (kept, kept._version, ref(weight), weight._version)


@torch.no_grad()
def _adopt(part: nn.Module) -> None:
    """Write into the parameter what was written in place into the weight that was read of it.

    Not where the parameter itself was written since.
    """
    handed = part.__dict__.pop("_handed", None)
    if handed is None or handed[0]._version == handed[1]:
        return
    weight = handed[2]()
    alike = weight is not None and handed[0].data_ptr() == weight.data_ptr()
    if weight is not None and weight._version == handed[3] and not alike:
        weight.copy_(handed[0])


def settle(layer: nn.Module, *_: Any) -> None:
    """The hook after a load: what is estimated of the weights fits them."""
    for name in layer.normed:  # type: ignore[union-attr]
        part = layer._modules.get(name + "_norm")
        if isinstance(part, WeightPart):
            with normal_mode(stored(layer, name)):
                part.widen()
                part.loaded(stored(layer, name))


@contextmanager
def parameters_bare(layer: nn.Module) -> Iterator[None]:
    """Inside, the layer's weights are the parameters themselves."""
    stored_before = layer.__dict__.get("_bare")
    layer.__dict__["_bare"] = True
    try:
        yield
    finally:
        if stored_before is None:
            del layer.__dict__["_bare"]


def parts_of(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(layer, name of its weight, part) of every normed weight in a network."""
    for layer in module.modules():
        if isinstance(layer, NormLayer):
            for name in layer.normed:
                part = layer._modules.get(name + "_norm")
                if part is not None:
                    yield layer, name, part


def weights_of(layer: nn.Module) -> tuple[str, ...]:
    """The names of the matrices that a layer of torch's, or a subclass of one, multiplies by."""
    names: tuple[str, ...] = ()
    if isinstance(layer, NormLayer):
        return layer.normed
    if isinstance(layer, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    elif isinstance(layer, nn.RNNBase):
        names = tuple(n for n in layer._flat_weights_names if n.startswith("weight"))
    elif isinstance(layer, nn.RNNCellBase):
        names = ("weight_ih", "weight_hh")
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        # max_norm writes into the weight in each pass; sparse gradients do not go through sigma.
        names = () if layer.sparse or layer.max_norm is not None else ("weight",)
    elif isinstance(layer, (_ConvNd, nn.Linear, nn.Bilinear)):
        names = ("weight",)
    return tuple(name for name in names if getattr(layer, name, None) is not None)


def has_output(layer: nn.Module) -> bool:
    """Whether an output part can follow the layer."""
    return isinstance(layer, (_ConvNd, nn.Linear, nn.Bilinear))


def normalise(
    layer: nn.Module, norm: Norm, *, head: bool = False, conv_bias: bool = False
) -> nn.Module:
    """Put a norm on one torch layer, in place, and return it; the plain layer for `none`.

    head: a critic's last layer. It gets the weight part alone: centring it would pin the mean score
        of every batch, and the Wasserstein gradient would be exactly zero.
    conv_bias: keep a bias that the norm cancels, as the published networks do; it is dead.
    """
    names = weights_of(layer)
    output = norm.output if has_output(layer) and not head else None
    if norm.weight is None and norm.output is None:
        return layer
    if isinstance(layer, NormLayer) or not names:
        has = "has one already" if names else "has no weight matrix"
        raise TypeError(f"cannot put a norm on {type(layer).__name__}, which {has}")
    if norm.weight is None and output is None:
        return layer
    like = getattr(layer, names[0])
    parts = {name + "_norm": norm.weight(layer, name) for name in names} if norm.weight else {}
    if output:
        parts["output_norm"] = output(layer)
    # The layer becomes its own subclass: parameters, hooks and references to it stay.
    layer.__class__ = class_of(type(layer), names)  # type: ignore[arg-type]
    for each in ("output_norm", *(name + "_norm" for name in names)):
        layer.register_module(each, None)
    for name, part in parts.items():
        part.to(device=like.device, dtype=like.dtype).train(layer.training)
        layer.register_module(name, part)
    if any(hasattr(part, "prepare") for part in parts.values()):
        layer.register_forward_pre_hook(prepare, with_kwargs=True)
    layer.register_load_state_dict_post_hook(settle)
    if output:
        layer.register_forward_hook(norm_output, prepend=True)
        if norm.cancels_bias and not conv_bias and getattr(layer, "bias", None) is not None:
            layer.register_parameter("bias", None)
    return layer


def prepare(layer: nn.Module, args: Any, kwargs: Any) -> None:
    """The forward pre-hook that shows a layer's input to its parts."""
    x = args[0] if args else next(iter(kwargs.values()))
    for name in layer.normed:  # type: ignore[union-attr]
        weight = stored(layer, name)
        with normal_mode(weight):
            layer._modules[name + "_norm"].prepare(weight, x)  # type: ignore[operator, union-attr]


def watch(module: nn.Module) -> None:
    """Warn after the first pass of layers that it read but did not call, past their output part."""
    some = any(_has_output_part(part) for part in module.modules())
    if some and _count_reads not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_count_reads)
        module.register_forward_hook(_warn_of_reads)


def _has_output_part(layer: nn.Module) -> bool:
    return isinstance(layer, NormLayer) and layer._modules.get("output_norm") is not None


def unwatch(module: nn.Module) -> None:
    """End what `watch` began."""
    drop_hook(module._forward_pre_hooks, _count_reads)
    drop_hook(module._forward_hooks, _warn_of_reads)


def _count_reads(module: nn.Module, _: Any) -> None:
    if not traced():
        for part in module.modules():
            if _has_output_part(part):
                part.__dict__["_reads"] = 0


def _warn_of_reads(module: nn.Module, *_: Any) -> None:
    if traced():
        return
    unwatch(module)
    reads = {name: part.__dict__.pop("_reads", 0) for name, part in module.named_modules()}
    if missed := [name for name, count in reads.items() if count]:
        warnings.warn(
            f"{', '.join(missed)}: the network reads the weight and never calls the layer, so only"
            " the norm's part for weights acts there, and a bias that the norm replaces is gone;"
            " leave them out of `layers`, or choose a norm of the weight alone",
            stacklevel=2,
        )


def called(layer: nn.Module) -> None:
    """The output part of the layer has its input."""
    if not torch.compiler.is_compiling():
        layer.__dict__.pop("_reads", None)


def drop_hook(hooks: dict[int, Any], hook: Callable[..., Any]) -> None:
    for key in [key for key, each in hooks.items() if each is hook]:
        del hooks[key]


def norm_output(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook that runs a layer's output part."""
    called(layer)
    # torch's convolutions take one image without a batch axis; a norm would then take the image's
    # rows for its channels.
    if isinstance(layer, _ConvNd) and output.dim() != len(layer.kernel_size) + 2:
        raise ValueError(
            f"a normed convolution takes a batch (N, C, ...), not a tensor of"
            f" {tuple(args[0].shape)}"
        )
    return layer.output_norm(output)  # type: ignore[operator]


def norm_attention(attention: nn.Module, args: Any, output: tuple[Tensor, Any]) -> Any:
    """The forward hook for the output part of an attention's out_proj, which is not called."""
    called(attention.out_proj)  # type: ignore[arg-type]
    return attention.out_proj.output_norm(output[0]), *output[1:]  # type: ignore[operator, union-attr]


def join(module: nn.Module) -> None:
    """Fit normed layers to those of torch's modules that read them instead of calling them."""
    for parent in module.modules():
        if isinstance(parent, READS_BIAS):
            for child in parent.children():
                if isinstance(child, NormLayer) and child._parameters.get("bias", 0) is None:
                    zeros = torch.zeros_like(stored(child)[:, 0])
                    del child._parameters["bias"]
                    child.register_buffer("bias", zeros, persistent=False)
        if isinstance(parent, nn.MultiheadAttention):
            hooked = norm_attention in parent._forward_hooks.values()
            if getattr(parent.out_proj, "output_norm", None) is not None and not hooked:
                parent.register_forward_hook(norm_attention, prepend=True)
        if isinstance(parent, nn.TransformerEncoder) and any(
            getattr(part, "output_norm", None) is not None for part in parent.modules()
        ):
            parent.use_nested_tensor = False  # its layers do not take their fast path


class MSN(nn.Module):
    """What the three drop-in layers add: MSN from birth. `bias` says whether m is learned."""

    def __init__(self, *args: Any, gain: bool = False, **options: Any) -> None:
        # Bound to torch's signature, in which `bias` may be positional.
        arguments = signature(super().__init__).bind(*args, **options).arguments
        bias = arguments.pop("bias", True)
        super().__init__(**arguments, bias=False)
        output = lambda layer: centring_of(layer, offset=bias, gain=gain)  # noqa: E731
        normalise(self, Norm(MEAN_SPECTRAL.weight, output, cancels_bias=True))


class MSNConv2d(MSN, nn.Conv2d):
    """torch.nn.Conv2d under Mean Spectral Normalization (arXiv:1907.04003, equations 6 and 7).

    Arguments as torch's, and `bias`: whether the offset m is learned; `gain`: a learned factor per
    channel as in the authors' released code. The convolution itself has no bias, for centring
    would cancel it. Input (N, C, H, W).
    """


class MSNConvTranspose2d(MSN, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d under Mean Spectral Normalization; see MSNConv2d."""


class MSNLinear(MSN, nn.Linear):
    """torch.nn.Linear under Mean Spectral Normalization; means are over all axes but the last."""
