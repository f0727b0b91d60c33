"""What the steps of a GAN and a classifier share: learning rates, the average, the look for NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from msngan import __version__
from msngan.data import ImageData
from msngan.networks.finite import FiniteWatch
from msngan.networks.step_graph import NOT_CAPTURED, Play, StepGraph
from msngan.norms import OptionalSpectralNorm, SigmaBank
from msngan.runs import distributed, rng
from msngan.runs.checkpoint_files import CHECKPOINT_FORMAT, PLAIN_TRAINER
from msngan.runs.folder import UserError

Decay = Literal["none", "linear", "cosine"]


def share_of(decay: float, step: int) -> float:
    """The share of the way that the moving average takes after a step, counted from 0: 1 - decay.

    In the first steps it is larger, 1 - (1 + step) / (10 + step), so that the random first weights
    do not stay in the average for long.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, share: float | Tensor) -> None:
    """Move the average's parameters by this share towards the live ones; copy buffers."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(live.parameters())
    if isinstance(share, Tensor):  # on their device, where another value can be put into it
        way = list(torch._foreach_sub(theirs, ours))
        torch._foreach_mul_(way, share)
        torch._foreach_add_(ours, way)
    else:
        torch._foreach_lerp_(ours, theirs, share)
    kinds: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for into, buffer in zip(average.buffers(), live.buffers(), strict=True):
        if into.shape != buffer.shape:  # of a norm that has met its first input
            into.resize_(buffer.shape)
        ours, theirs = kinds.setdefault(buffer.dtype, ([], []))
        ours.append(into)
        theirs.append(buffer)
    for ours, theirs in kinds.values():
        torch._foreach_copy_(ours, theirs)


class TrainedModule(LightningModule):
    """What GAN and Classifier share; `rates` and `remedy` are theirs."""

    rates: tuple[str, ...]  # options with the initial learning rates, in the order of optimizers
    task: str  # as in the option of that name
    remedy: str  # what to try after a divergence, the end of a sentence that begins with "Try"
    streams: tuple[rng.Stream, ...] = ()  # from which a step draws
    banks: tuple[SigmaBank, ...]  # of its norms
    _say_not_captured: Callable[[str], None] | None = None  # where steps are to be captured
    _steps: StepGraph | None = None
    _share: Tensor | None = None
    _draws: rng.Draws | None = None

    @property
    def options(self) -> Any:
        """The arguments of the module, by name; plain values, saved in every checkpoint."""
        return self.hparams

    def setup(self, stage: str) -> None:
        """UserError for several processes whose gradients the Trainer would average wrongly."""
        self._drop_graphs()  # a fit that failed leaves them
        trainer = self.trainer
        if trainer.world_size > 1 and getattr(trainer.strategy, "strategy_name", "") != "together":
            raise UserError(
                f"Trainer(devices=...) asks for {trainer.world_size} processes, but a GAN has two"
                " losses and DistributedDataParallel averages the gradients of one; give devices=1,"
                f" or use `msngan fit --trainer.devices {trainer.world_size}`"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning converts after it has restored: float64 weights would be rounded."""
        if self._trainer is not None and self._trainer.precision == "64-true":
            self.double()

    def begin_step(self) -> int:
        """Set the learning rates and the global random stream of a step; return it, from 0.

        lr_decay: `linear` and `cosine` lower the rates to zero over `steps`. A rate depends on the
        step only, so that a resumed run needs no scheduler state.
        """
        options, step = self.options, self.trainer.global_step
        done = min(step / options.steps, 1.0)
        factors = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        for optimizer, name in zip(self.trainer.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                rate = getattr(options, name) * factors[options.lr_decay]
                group["lr"] = self._changing(group["lr"], rate)
        rng.seed_global(rng.derive(options.seed, step, distributed.rank(), "global"), self.device)
        return step

    @property
    def draws(self) -> rng.Draws:
        """The generators of a step, on the module's device."""
        if self._draws is None or self._draws.device != self.device:
            self._draws = rng.Draws(self.streams, self.device)
        return self._draws

    def average_share(self, step: int) -> float | Tensor:
        """See `share_of`."""
        found = self._changing(self._share, share_of(self.options.ema_decay, step))
        self._share = found if isinstance(found, Tensor) else None
        return found

    def _changing(self, before: Any, value: float) -> float | Tensor:
        """A number of a step: in a tensor, always the same, where steps are captured."""
        if not self._captures:
            return value
        if isinstance(before, Tensor):
            return before.fill_(value)
        return torch.full((), value, device=self.device)

    @property
    def _captures(self) -> bool:
        return self._say_not_captured is not None and self.device.type == "cuda"

    def capture_steps(self, say: Callable[[str], None]) -> None:
        """Play steps on a GPU as CUDA graphs; `say` is given one line where that is impossible."""
        parts = [part for part in self.modules() if isinstance(part, OptionalSpectralNorm)]
        if distributed.count() > 1:
            say(NOT_CAPTURED.format("several processes exchange values in it"))
        elif parts:
            say(NOT_CAPTURED.format("the norm optional_spectral reads values in it"))
        else:
            self._say_not_captured = say

    def played(self, form: Hashable, play: Play, *inputs: Tensor | None) -> dict[str, Tensor]:
        """The figures of play(*inputs), a step's updates, after which Lightning counts one step.

        form: what differs between steps other than in tensors; see `StepGraph`.
        """
        found: Any = self.optimizers()
        optimizers = found if isinstance(found, list) else [found]
        # Lightning installs these before each batch, to count the steps of each optimizer.
        before, after = optimizers[0]._on_before_step, optimizers[0]._on_after_step
        for each in optimizers:
            each._on_before_step = each._on_after_step = lambda: None
        if self._captures:
            if self._steps is None:
                assert self._say_not_captured is not None
                self._steps = StepGraph(self, self.banks, self.draws, self._say_not_captured)
            figures = self._steps.run(form, play, *inputs)
        else:
            figures = play(*inputs)
        before()
        after()
        return figures

    def laid_out(self, images: Tensor) -> Tensor:
        """The images in the module's precision and memory layout."""
        images = images.to(self.dtype)
        if self.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def refuse_nan(self, figures: dict[str, Tensor], step: int) -> None:
        """Raise Diverged for a scalar that is not finite; on a GPU when it is looked at."""
        self._watch.add(figures, step)

    def check_finite(self) -> None:
        """Raise Diverged if a step up to this one had a scalar that is not finite."""
        self._watch.check()

    @cached_property
    def _watch(self) -> FiniteWatch:
        return FiniteWatch(self.remedy)

    def on_train_end(self) -> None:
        self.check_finite()

    def teardown(self, stage: str) -> None:
        self._drop_graphs()

    def _drop_graphs(self) -> None:
        """Graphs write where the weights and the optimizers' state of one fit lie."""
        self._steps = self._share = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what `msngan sample` and `load_generator` ask of a file that Lightning writes."""
        self.check_finite()
        for optimizer in checkpoint.get("optimizer_states", []):
            for group in optimizer["param_groups"]:
                group["lr"] = float(group["lr"])
        data = getattr(self.trainer, "datamodule")  # noqa: B009  set where mypy does not look
        options = self.options
        shown = {"dataset": "folder", "root": None, "split": "all"}
        shown |= {"size": options.size, "channels": options.channels}
        about = {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "step": self.trainer.global_step,
            "run": PLAIN_TRAINER,
            "task": self.task,
            "data": data.description if isinstance(data, ImageData) else shown,
        }
        if isinstance(data, ImageData):
            about["images_sha256"] = data.images_sha256
        checkpoint["msngan"] = about | checkpoint.get("msngan", {})

    def to_loggers(self, figures: dict[str, Tensor]) -> None:
        if getattr(self.trainer, "log_every_n_steps", 0):  # 0 under `fit`, whose callback logs
            self.log_dict(figures)
