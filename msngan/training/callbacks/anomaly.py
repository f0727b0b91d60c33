"""Divergence: the dump of the step that failed, and --detect-anomaly, which names the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from msngan import __version__
from msngan.gan import GAN
from msngan.networks.updates import diverged
from msngan.norms import NormLayer
from msngan.runs.atomic import replacing
from msngan.runs.folder import Diverged, UserError
from msngan.training.callbacks.run_callback import RunCallback

DUMP_FORMAT = 1


class Dump(RunCallback):
    """Writes diverged-XXXXXXXX.ckpt: the networks, optimizers and batch of a step that diverged.

    The file holds plain tensors and values, to look at. It is not an msngan checkpoint: nothing
    resumes from it. A run keeps the newest one. If it cannot be written, the error says so.
    """

    def __init__(self) -> None:
        self._batch: Any = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, Diverged):
            return
        if exception.together and not trainer.is_global_zero:  # the first process writes for all
            return
        step = exception.step or trainer.global_step + 1
        path = self.run.folder / f"diverged-{step:08d}.ckpt"
        about = {
            "format": DUMP_FORMAT,
            "version": __version__,
            "run": self.run.name,
            "step": step,
            "seed": pl_module.hparams["seed"],
            "rank": trainer.global_rank,
            "figures": dict(exception.figures),
            "message": str(exception),
        }
        content = {
            "diverged": about,
            "hyper_parameters": dict(pl_module.hparams),
            "state_dict": pl_module.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "batch": self._batch,
        }
        try:
            _write(path, content)
            said = f"{path} holds the networks and the batch of that step"
        except (OSError, RuntimeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem).partition("\n")[0]
            said = f"{path.name} could not be written: {reason}"
        exception.args = (f"{exception}; {said}",)


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(content, temporary)
    for older in path.parent.glob("diverged-*.ckpt"):
        if older != path:
            older.unlink()


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
        self._watch: LayerWatch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(GAN, pl_module)
        networks = {name: getattr(module, name) for name in module.trained}

        def found(text: str) -> NoReturn:
            problem = diverged(trainer.global_step + 1, text, module.remedy)
            problem.together = False  # the other processes may have found nothing
            raise problem

        self._watch = LayerWatch(networks, found)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self._watch is not None
        self._watch.active = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._watch is not None
        self._watch.active = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._watch is not None:
            self._watch.remove()


class LayerWatch:
    """Checks the output of each layer of some networks, and each gradient that it makes.

    networks: by name; a layer is named by its dotted name below it, as critic.body.3. found: called
    with a sentence at the first tensor that is not finite; it may raise. Nothing is checked while
    `active` is False. Tensors are never changed, so training keeps its bits; each check makes a GPU
    wait.

    A gradient is checked where it leaves a layer for the layer before it and where it reaches a
    parameter; the gradient of a gradient, as of a penalty, is checked too. If several layers share
    an input, as in a residual block, the first of them is named.
    """

    def __init__(self, networks: Mapping[str, nn.Module], found: Callable[[str], None]) -> None:
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
        for name, module, leaf in _layers(network, network_name):
            kind = type(module).__name__
            what = f"{name} ({kind})" if name != network_name else name
            self._handles.append(module.register_forward_hook(self._forward(what, module)))
            if leaf:
                self._handles.append(module.register_forward_pre_hook(self._inputs(what)))
            for own, parameter in module.named_parameters(recurse=leaf):
                hook = self._gradient(what, f" for its {own}")
                self._handles.append(parameter.register_hook(hook))
        if network_name != "generator":  # whose output goes on into the critic, not into the loss
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
            self._found(f"{what} produced {wrong} in the forward pass{cause}")

        return hook

    def _inputs(self, what: str) -> Callable[..., None]:
        return lambda _, inputs: self._follow(inputs, what)

    def _end(self, network: str) -> Callable[..., None]:
        return lambda _, __, output: self._follow(output, f"the loss behind {network}")

    def _follow(self, value: Any, what: str) -> None:
        """Check the gradients that reach the tensors in `value` from `what`."""
        for tensor in _tensors(value):
            if self.active and tensor.requires_grad:
                tensor.register_hook(self._gradient(what))

    def _gradient(self, what: str, receiver: str = "") -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not self.active:
                return
            if (wrong := _wrong(gradient)) is not None:
                self._found(f"{what} produced a gradient of {wrong}{receiver} in the backward pass")
            if gradient.requires_grad and not receiver:  # part of a penalty: it has a gradient too
                gradient.register_hook(again)

        def again(gradient: Tensor) -> None:
            if self.active and (wrong := _wrong(gradient)) is not None:
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
