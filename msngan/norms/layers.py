"""Layers under a norm: whoever reads `layer.weight` gets the weight that the layer computes with.

A layer under a norm has a subclass of its own class, with a property in place of each normed
weight, as with `torch.nn.utils.parametrize`. Unlike there, the parameter stays registered under its
own name. So plain state dicts fit, the order of parameters (and of an optimizer's state) is that of
the plain layer, the whole network can be pickled, and torch's pruning works. The output half of a
norm is a submodule that a forward hook runs; torch's transformers leave their fast path where a
layer has hooks.

state_dict keys of a layer: weight, bias (where the norm does not cancel it), weight_norm.*,
output_norm.*; a weight with another name, such as in_proj_weight, has in_proj_weight_norm.*.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize, prune

from msngan.norms.parts import Norm, WeightPart, normal_mode, traced

# The names that torch.nn.utils.spectral_norm and parametrizations.spectral_norm give to the weight
# and to our buffers.
TORCH_NAMES = (
    {"": "{0}_orig", "u": "{0}_u", "v": "{0}_v"},
    {
        "": "parametrizations.{0}.original",
        "u": "parametrizations.{0}.0._u",
        "v": "parametrizations.{0}.0._v",
    },
)
# Functions that take a weight over from its layer must get the parameter, not the normed weight.
TAKES_OVER = {
    parametrize.register_parametrization.__code__,
    prune.BasePruningMethod.apply.__func__.__code__,  # type: ignore[attr-defined]
    nn.Module.get_parameter.__code__,
}
# Modules that read the biases of the layers in them, and fail for None.
READS_BIAS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class _Class(type):
    """The metaclass of normed layers, which keeps the norm on top of torch's parametrizations.

    A property that parametrize sets for a normed weight, on a subclass, makes the weight that the
    norm starts from.
    """

    normed: tuple[str, ...]

    def __setattr__(cls, name: str, value: Any) -> None:
        if isinstance(value, property) and name in getattr(cls, "normed", ()):
            value = _property(name, value)
        super().__setattr__(name, value)


class NormLayer(nn.Module, metaclass=_Class):
    """The base class that a layer under a norm has in addition to its own class."""

    normed: tuple[str, ...]  # names of the normed weights
    plain: type[nn.Module]  # the class without the norm

    def apply(self, fn: Callable[[nn.Module], None]) -> NormLayer:
        """As in torch; `fn` reads the parameters themselves, so that it can initialise them."""
        with parameters_bare(self):
            super().apply(fn)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        for name in self.normed:
            stored(self, name)  # adopts what was written into the normed weight
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        _translate(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> Any:
        for name in self.normed:
            stored(self, name)
        kind = type(self)
        own_class = class_of(self.plain, self.normed)  # type: ignore[arg-type]
        if kind is not own_class:  # a further subclass, as from parametrize
            return super().__reduce_ex__(protocol)
        own = getattr(kind, "__getstate__", None) not in (None, getattr(object, "__getstate__", 0))
        state = dict(self.__getstate__() if own else self.__dict__)
        for name in self.normed:
            if isinstance(state.get(name), Tensor):  # made by a hook, with a graph
                state[name] = state[name].detach()
        if "_flat_weights" in state:  # of a recurrent layer, made anew in each pass
            state["_flat_weights"] = [self._parameters.get(n) for n in state["_flat_weights_names"]]
            state.pop("_flat_weight_refs", None)
        return _empty, (self.plain, self.normed), state

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            f"torch.jit.script cannot compile {type(self).__name__}: a norm depends on values; fold"
            " the network first, or use torch.compile, torch.export or torch.jit.trace"
        )


def _empty(plain: type[nn.Module], normed: tuple[str, ...]) -> nn.Module:
    kind = class_of(plain, normed)  # type: ignore[arg-type]
    return kind.__new__(kind)


@cache
def class_of(plain: type[nn.Module], normed: tuple[str, ...]) -> type[NormLayer]:
    """The subclass of a layer's class in which these weights go through a norm."""
    names: dict[str, Any] = {"normed": normed, "plain": plain, "__doc__": plain.__doc__}
    names["__module__"] = plain.__module__  # torch.fx recognises torch's layers by it
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
    """The property of a normed weight. inner: a property that makes the stored weight, if any."""
    part_name = name + "_norm"

    def read(layer: nn.Module) -> Tensor:
        if inner is not None:
            return inner.fget(layer)  # type: ignore[misc]
        found = layer._parameters.get(name)
        if found is None:
            found = layer.__dict__.get(name)
        if found is None:
            raise AttributeError(f"{type(layer).__name__} has no {name!r}")
        return found

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
        except AttributeError as problem:  # torch would take the weight for missing
            raise RuntimeError(f"the norm of {name} failed: {problem}") from problem
        if isinstance(part, WeightPart) and part._lent is not made:
            _remember(part, made, weight)
        return made

    def put(layer: nn.Module, value: Any) -> None:
        if inner is None:
            layer.__dict__[name] = value  # by pruning, hooks, replicas; torch registers parameters
        else:
            inner.fset(layer, value)  # type: ignore[misc]

    def delete(layer: nn.Module) -> None:
        if layer.__dict__.pop(name, None) is None:
            raise AttributeError(name)

    get.read = read  # type: ignore[attr-defined]
    return property(get, put, delete)


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
    """Keep what was handed out, since a caller may write into it as into a plain layer's weight."""
    if weight.is_leaf and not (made.is_inference() or weight.is_inference()):
        kept = made.detach()
        part.__dict__["_handed"] = (kept, kept._version, ref(weight), weight._version)


@torch.no_grad()
def _adopt(part: nn.Module) -> None:
    """Copy into the parameter what a caller wrote in place into the normed weight.

    Unless the parameter itself was written since.
    """
    handed = part.__dict__.get("_handed")
    if handed is None:
        return
    part.__dict__["_handed"] = None
    if handed[0]._version == handed[1]:
        return
    weight = handed[2]()
    alike = weight is not None and handed[0].data_ptr() == weight.data_ptr()
    if weight is not None and weight._version == handed[3] and not alike:
        weight.copy_(handed[0])


def _translate(layer: Any, state: dict[str, Any], prefix: str) -> None:
    """Rename torch's names in `state`, in place, and fill in what the state of a plain layer lacks.

    The state of a plain layer leaves the norm's parameters and running statistics as they are, and
    sigma is estimated anew. A bias that the norm cancels is dropped.
    """
    for name in layer.normed:
        if prefix + name in state or f"{name}_orig" in layer._parameters:
            continue
        for form in TORCH_NAMES:
            names = {ours: prefix + theirs.format(name) for ours, theirs in form.items()}
            if names[""] in state:
                state[prefix + name] = state.pop(names.pop(""))
                for ours, theirs in names.items():
                    own: Any = getattr(layer._modules.get(name + "_norm"), ours, None)
                    value: Any = state.pop(theirs, None)
                    both = isinstance(own, Tensor) and isinstance(value, Tensor)
                    if both and own.numel() == value.numel():
                        state[f"{prefix}{name}_norm.{ours}"] = value.reshape(own.shape)
    if not any(prefix + name in state for name in layer.normed):
        return
    for part, own in layer.named_children():
        if not any(key.startswith(f"{prefix}{part}.") for key in state):
            weight = state.get(prefix + part.removesuffix("_norm"))
            known = isinstance(own, WeightPart) and isinstance(weight, Tensor)
            kept = own.state_of(weight) if known else own.state_dict()
            state |= {f"{prefix}{part}.{key}": x for key, x in kept.items()}
    if "bias" not in layer.state_dict(keep_vars=True):
        state.pop(prefix + "bias", None)


def settle(layer: nn.Module, *_: Any) -> None:
    """The hook after load_state_dict: make the estimates fit the weights."""
    for name in layer.normed:  # type: ignore[union-attr]
        part = layer._modules.get(name + "_norm")
        if isinstance(part, WeightPart):
            with normal_mode(stored(layer, name)):
                part.widen()
                part.loaded(stored(layer, name))


@contextmanager
def parameters_bare(layer: nn.Module) -> Iterator[None]:
    """Inside, reading the layer's weights gives the parameters themselves."""
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
    """The names of the weight matrices of a layer of torch, or of a subclass of one."""
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
        # max_norm writes into the weight in each pass; sparse gradients cannot go through sigma.
        names = () if layer.sparse or layer.max_norm is not None else ("weight",)
    elif isinstance(layer, (_ConvNd, nn.Linear, nn.Bilinear)):
        names = ("weight",)
    return tuple(name for name in names if getattr(layer, name, None) is not None)


def normalise(
    layer: nn.Module, norm: Norm, *, head: bool = False, conv_bias: bool = False
) -> nn.Module:
    """Put a norm on one torch layer, in place, and return the layer.

    head: the layer is a critic's last one and gets the weight part only: centring would fix the
        mean score of every batch, and the Wasserstein gradient would be exactly zero.
    conv_bias: keep a bias that the norm cancels, as the published networks do; it has no effect.
    """
    parts = parts_for(layer, norm, head=head)
    put_parts(layer, parts, cancels_bias=norm.cancels_bias and not conv_bias)
    return layer


def parts_for(layer: nn.Module, norm: Norm, *, head: bool = False) -> dict[str, nn.Module]:
    """The parts of a norm for one layer, by their names in the layer; none for `none`."""
    names = weights_of(layer)
    if norm.weight is None and norm.output is None:
        return {}
    if isinstance(layer, NormLayer) or not names:
        why = "already has one" if names else "has no weight matrix"
        raise TypeError(f"cannot put a norm on {type(layer).__name__}, which {why}")
    parts = {name + "_norm": norm.weight(layer, name) for name in names} if norm.weight else {}
    if norm.output and isinstance(layer, (_ConvNd, nn.Linear, nn.Bilinear)) and not head:
        parts["output_norm"] = norm.output(layer)
    return parts


def put_parts(layer: nn.Module, parts: Mapping[str, nn.Module], *, cancels_bias: bool) -> None:
    """Put parts from `parts_for` on their layer, in place."""
    if not parts:
        return
    names = weights_of(layer)
    like = getattr(layer, names[0])
    # Only the class of the layer changes: parameters, hooks and references to it stay.
    layer.__class__ = class_of(type(layer), names)  # type: ignore[arg-type]
    for each in ("output_norm", *(name + "_norm" for name in names)):
        layer.register_module(each, None)
    for name, part in parts.items():
        part.to(device=like.device, dtype=like.dtype).train(layer.training)
        layer.register_module(name, part)
    if any(hasattr(part, "prepare") for part in parts.values()):
        layer.register_forward_pre_hook(prepare, with_kwargs=True)
    layer.register_load_state_dict_post_hook(settle)
    if "output_norm" in parts:
        layer.register_forward_hook(norm_output, prepend=True)
        if cancels_bias and getattr(layer, "bias", None) is not None:
            layer.register_parameter("bias", None)


def prepare(layer: nn.Module, args: Any, kwargs: Any) -> None:
    """The forward pre-hook that shows the layer's input to its weight parts."""
    x = args[0] if args else next(iter(kwargs.values()))
    for name in layer.normed:  # type: ignore[union-attr]
        weight = stored(layer, name)
        with normal_mode(weight):
            layer._modules[name + "_norm"].prepare(weight, x)  # type: ignore[operator, union-attr]


def watch(module: nn.Module) -> None:
    """Warn after the first pass if it read weights of layers that it did not call."""
    some = any(_has_output_part(part) for part in module.modules())
    if some and _count_reads not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_count_reads)
        module.register_forward_hook(_warn_of_reads)


def _has_output_part(layer: nn.Module) -> bool:
    return isinstance(layer, NormLayer) and layer._modules.get("output_norm") is not None


def unwatch(module: nn.Module) -> None:
    """Remove the hooks of `watch`."""
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
            f"{', '.join(missed)}: the network reads the weight but never calls the layer, so only"
            " the weight part of the norm acts there, and a bias that the norm replaces is missing;"
            " leave these out of `layers`, or choose a norm that has a weight part only",
            stacklevel=2,
        )


def called(layer: nn.Module) -> None:
    """Note that the output part of the layer runs."""
    if not torch.compiler.is_compiling():
        layer.__dict__.pop("_reads", None)


def drop_hook(hooks: dict[int, Any], hook: Callable[..., Any]) -> None:
    for key in [key for key, each in hooks.items() if each is hook]:
        del hooks[key]


def norm_output(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook that runs a layer's output part."""
    called(layer)
    # torch's convolutions also take one image without a batch axis, whose axis 1 has no channels.
    if isinstance(layer, _ConvNd) and output.dim() != len(layer.kernel_size) + 2:
        raise ValueError(
            f"a normed convolution takes a batch (N, C, ...), got the shape {tuple(args[0].shape)}"
        )
    return layer.output_norm(output)  # type: ignore[operator]


def norm_attention(attention: nn.Module, args: Any, output: tuple[Tensor, Any]) -> Any:
    """The forward hook that runs the output part of out_proj, which attention does not call."""
    called(attention.out_proj)  # type: ignore[arg-type]
    return attention.out_proj.output_norm(output[0]), *output[1:]  # type: ignore[operator, union-attr]


def join(module: nn.Module) -> None:
    """Make normed layers work in modules of torch that read their weights and biases."""
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
            parent.use_nested_tensor = False  # its fast path skips output parts
