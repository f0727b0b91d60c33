"""Training dynamics: what happens inside the networks, to dynamics.npz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import ImageData, LabelledData
from msngan.data import images as convert
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.runs.options import Every, Record
from msngan.training import dynamics as record
from msngan.training.callbacks.base import RunCallback
from msngan.training.dynamics.measure import Subject, measure

if TYPE_CHECKING:
    from msngan.gan import GAN

PROBES = 128  # images, or latents, on which activations are looked at


class Dynamics(RunCallback):
    """Measures every layer of the networks, and keeps all measurements in dynamics.npz.

    Before the first step (of the weights alone, there are no gradients yet), after the first step
    (its gradients are those at the first weights), then every so many steps and after the last.
    Measuring leaves every bit of training as it is. The activations are looked at on the first
    images of the training part as they are, without augmentation; a generator's on fixed latents.

    Args:
        every: steps between measurements of every layer; 0: none.
    """

    def __init__(self, every: Record[Every] = 500) -> None:
        self.every = every
        self._known: record.Dynamics | None = None
        self._subjects: list[Subject] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._known = self._kept(trainer.global_step)
        if not self.every:
            return
        data = cast("ImageData", getattr(trainer, "datamodule"))  # noqa: B009  set by fit()
        self._subjects = subjects(pl_module, data, self.seed)
        if self._known is None or not len(self._known):
            self._measure(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wanted = self.every and (trainer.global_step == 1 or self.due(trainer, self.every))
        if wanted and trainer.is_global_zero:
            self._measure(trainer)

    def _kept(self, step: int) -> record.Dynamics | None:
        """The run's measurements up to this step; later ones are about to be made again."""
        path = self.run.dynamics
        if not path.is_file():
            return None
        try:
            found = record.read(path)
        except ValueError as problem:
            raise UserError(str(problem)) from problem
        kept = record.until(found, step)
        if len(kept) < len(found):
            with self.saving.attempt(path.name, step, needed=True):
                record.write(path, kept)
        return kept

    def _measure(self, trainer: Trainer) -> None:
        step = trainer.global_step
        with processes.alone():
            made = measure(self._subjects, step, self._known)
        try:
            self._known = record.appended(self._known, made)
        except ValueError as problem:
            path = self.run.dynamics
            raise UserError(f"{path}: {problem}; move it away to measure anew") from problem
        with self.saving.attempt(self.run.dynamics.name, step):
            record.write(self.run.dynamics, self._known)
        for logger in trainer.loggers:
            logger.log_metrics(aggregates(made), step)


def subjects(module: LightningModule, data: ImageData, seed: int) -> list[Subject]:
    """The networks of a GAN or a classifier, and what they are looked at with."""
    options = cast(Any, module).options

    def laid(probe: Tensor) -> Tensor:
        probe = probe.to(module.device, cast(torch.dtype, module.dtype))
        last = options.channels_last and probe.dim() == 4
        return probe.contiguous(memory_format=torch.channels_last) if last else probe

    images = data.real[:PROBES]
    if isinstance(data, LabelledData):
        network = cast(torch.nn.Module, module.network)
        return [Subject("network", network, laid(data.prepared(images)))]
    gan = cast("GAN", module)
    draw = rng.generator(seed, 0, 0, "samples")
    latents = torch.randn(len(images), options.latent_dim, generator=draw)
    return [
        Subject("critic", gan.critic, laid(convert.to_float(images))),
        Subject("generator", gan.generator, laid(latents)),
    ]


def aggregates(measurement: record.Dynamics) -> dict[str, float]:
    """For the logger: means over each network's layers, of its operator norms the largest."""
    found = {}
    for network in measurement.networks:
        own = [name.startswith(f"{network}.") for name in measurement.layers]
        for name in ("gradient_zero", "stable_rank", "drift", "dead", "operator_norm"):
            values = getattr(measurement, name)[0, own]
            values = values[np.isfinite(values)]
            if len(values):
                value = values.max() if name == "operator_norm" else values.mean()
                found[f"dynamics/{network}/{name}"] = float(value)
    return found
