"""--detect-anomaly: the layer in which the first NaN or infinity of a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from msngan.gan import GAN
from msngan.networks.finite import diverged
from msngan.norms import NormLayer
from msngan.runs.folder import UserError


class Anomaly(Callback):
    """Ends the run at the first layer whose output or gradient is not finite, with its name.

    Must come first, so that what other callbacks do with the networks after a step is not checked.
    The bits of training are unchanged; the cost is a check of every tensor.
    """

    def __init__(self, compiled: bool) -> None:
        if compiled:
            raise UserError(
                "--detect-anomaly with --model.compile: a compiled network has no layers to look"
                " at; add --model.compile false"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module = cast(GAN, pl_module)

        def found(text: str) -> NoReturn:
            problem = diverged(trainer.global_step + 1, text, module.remedy)
            problem.together = False  # the other processes may have found nothing
            raise problem

        self._watch = LayerWatch({name: getattr(module, name) for name in module.trained}, found)

    def on_train_batch_end(self, *step: Any) -> None:
        self._watch.remove()


class LayerWatch:
    """Checks the output of each layer of some networks, and each gradient, until `remove`.

    networks: by name; a layer is named by its dotted name below it, as critic.body.3. found: called
    with a sentence at the first tensor that is not finite; it may raise. Tensors are never changed,
    so training keeps its bits; each check makes a GPU wait.

    A gradient is checked where it leaves a layer for the layer before it and where it reaches a
    parameter; the gradient of a gradient, as of a penalty, is checked too. If several layers share
    an input, as in a residual block, the first of them is named.
    """

    def __init__(self, networks: Mapping[str, nn.Module], found: Callable[[str], None]) -> None:
        self._found = found
        self._handles: list[Any] = []
        for name, network in networks.items():
            self._watch(name, network)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _watch(self, network_name: str, network: nn.Module) -> None:
        for name, module, leaf in _layers(network, network_name):
            kind = type(module).__name__
            what = f"{name} ({kind})" if name != network_name else name
            self._handles.append(module.register_forward_hook(partial(self._output, what)))
            if leaf:
                self._handles.append(module.register_forward_pre_hook(partial(self._follow, what)))
            for own, parameter in module.named_parameters(recurse=leaf):
                hook = self._gradient(what, f" for its {own}")
                self._handles.append(parameter.register_hook(hook))
        if network_name != "generator":  # whose output goes on into the critic, not into the loss
            hook = partial(self._follow, f"the loss behind {network_name}")
            self._handles.append(network.register_forward_hook(hook))

    def _output(self, what: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if (wrong := _wrong(output)) is None:
            return
        held: list[tuple[str, Any]]
        held = [(f"its {name} holds", each) for name, each in module.named_parameters()]
        held += [(f"its {name} holds", each) for name, each in module.named_buffers()]
        held += [("its input held", inputs)]
        causes = [f" ({where} {bad} already)" for where, value in held if (bad := _wrong(value))]
        self._found(f"{what} produced {wrong} in the forward pass{''.join(causes[:1])}")

    def _follow(self, what: str, module: nn.Module, *values: Any) -> None:
        """Check the gradients that reach the last of the values from `what`."""
        for tensor in _tensors(values[-1]):
            if tensor.requires_grad:
                tensor.register_hook(self._gradient(what))

    def _gradient(self, what: str, receiver: str = "") -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if (wrong := _wrong(gradient)) is not None:
                self._found(f"{what} produced a gradient of {wrong}{receiver} in the backward pass")
            if gradient.requires_grad and not receiver:  # part of a penalty: it has a gradient too
                gradient.register_hook(again)

        def again(gradient: Tensor) -> None:
            if (wrong := _wrong(gradient)) is not None:
                self._found(f"a penalty on the gradient of {what} produced a gradient of {wrong}")

        return hook


def _layers(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """(dotted name, module, whether it is a layer) of a network, without the parts of a layer.

    A layer is a module without parts, or one of ours with a norm.
    """
    leaf = isinstance(network, NormLayer) or not any(True for _ in network.children())
    yield name, network, leaf
    if not leaf:
        for own, child in network.named_children():
            yield from _layers(child, f"{name}.{own}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _wrong(value: Any) -> str | None:
    """'nan' or 'inf' if a tensor in value holds one."""
    for tensor in _tensors(value):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return "nan" if tensor.isnan().any() else "inf"
    return None
