"""Which layer is the first to make a number that is none, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from msngan.norms import NormLayer

Found = Callable[[str], None]


class LayerWatch:
    """Looks at what each layer of some networks puts out, and at each gradient it makes.

    networks: by name; a layer is called by its dotted name below it, as critic.body.3. found: is
    called with a sentence at the first tensor that is not finite; it may raise. Nothing is looked
    at while `active` is False. The tensors are looked at and never changed, so training keeps its
    bits; each look makes a GPU wait.

    A gradient is looked at where it leaves a layer for the layer before it and where it reaches a
    parameter. The gradient of a gradient, as of a penalty, is looked at too. Where several layers
    share an input, as in a residual block, the first of them is named.
    """

    def __init__(self, networks: Mapping[str, nn.Module], found: Found) -> None:
        self.active = False
        self._found = found
        self._handles: list[Any] = []
        for name, network in networks.items():
            self._watch(name, network)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _watch(self, network_name: str, network: nn.Module) -> None:
        for name, module, leaf in layers(network, network_name):
            kind = type(module).__name__
            what = f"{name} ({kind})" if name != network_name else name
            self._handles.append(module.register_forward_hook(self._forward(what, module)))
            if leaf:
                self._handles.append(module.register_forward_pre_hook(self._inputs(what)))
            for own, parameter in module.named_parameters(recurse=leaf):
                self._handles.append(parameter.register_hook(self._parameter(what, own)))
        self._handles.append(network.register_forward_hook(self._end(network_name)))

    def _forward(self, what: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not self.active or (wrong := _wrong(output)) is None:
                return
            causes = [
                f"its {name} holds {held}"
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]
                if (held := _wrong(tensor)) is not None
            ]
            before = _wrong(inputs)
            causes += [] if before is None else [f"its input held {before}"]
            cause = f" ({causes[0]} already)" if causes else ""
            self._found(f"{what} put out {wrong} in the forward pass{cause}")

        return hook

    def _inputs(self, what: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any) -> None:
            for tensor in _tensors(inputs):
                if self.active and tensor.requires_grad:
                    tensor.register_hook(self._gradient(what))

        return hook

    def _end(self, network: str) -> Callable[..., None]:
        """A generator's output goes on into the critic; any other's goes into the loss."""

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            for tensor in _tensors(output) if network != "generator" else ():
                if self.active and tensor.requires_grad:
                    tensor.register_hook(self._gradient(f"the loss behind {network}"))

        return hook

    def _gradient(self, what: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not self.active:
                return
            if (wrong := _wrong(gradient)) is not None:
                self._found(f"{what} made a gradient of {wrong} in the backward pass")
            if gradient.requires_grad:  # it is part of a penalty, and has a gradient itself
                gradient.register_hook(self._again(what))

        return hook

    def _again(self, what: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self.active and (wrong := _wrong(gradient)) is not None:
                self._found(f"a penalty on the gradient of {what} made a gradient of {wrong}")

        return hook

    def _parameter(self, what: str, name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self.active and (wrong := _wrong(gradient)) is not None:
                self._found(
                    f"{what} made a gradient of {wrong} for its {name} in the backward pass"
                )

        return hook


def layers(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """(dotted name, module, whether it is a layer) of a network; a layer's own parts are left out.

    A layer is what has no parts, or one of ours with a norm.
    """
    leaf = isinstance(network, NormLayer) or not any(True for _ in network.children())
    yield name, network, leaf
    if not leaf:
        for own, child in network.named_children():
            yield from layers(child, f"{name}.{own}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _wrong(value: Any) -> str | None:
    """'nan' or 'inf' where a tensor in value holds one."""
    for tensor in _tensors(value):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return "nan" if tensor.isnan().any() else "inf"
    return None
