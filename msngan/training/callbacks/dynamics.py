"""Training dynamics: measurements of every layer of the networks, kept in dynamics.npz."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import ImageData, LabelledData
from msngan.data import images as convert
from msngan.gan import GAN
from msngan.runs import distributed, rng
from msngan.runs.folder import UserError
from msngan.runs.options import Every, Record
from msngan.training import dynamics as file
from msngan.training.callbacks.run_callback import RunCallback, data_of
from msngan.training.dynamics.measure import Subject, measure

PROBES = 128  # images, or latents, whose activations are measured
SHOWN = ("gradient_zero", "stable_rank", "drift", "dead", "operator_norm")  # in the logger


class Dynamics(RunCallback):
    """Measures every layer of the networks and keeps all measurements in dynamics.npz.

    Measures before the first step (weights only, as there are no gradients yet), after the first
    step (its gradients are those at the first weights), then every so many steps and after the
    last. Every bit of training stays as it is. Activations are those of the first training images
    without augmentation; a generator's are those of fixed latents.

    Args:
        every: steps between measurements of every layer; 0: none.
    """

    def __init__(self, every: Record[Every] = 500) -> None:
        self.every = every
        self._known: file.Dynamics | None = None
        self._subjects: list[Subject] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._known = self._kept(trainer.global_step)
        if not self.every:
            return
        data = data_of(trainer)
        self._subjects = _subjects(pl_module, data)
        if self._known is None or not len(self._known):
            self._measure(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wanted = self.every and (trainer.global_step == 1 or self.due(trainer, self.every))
        if wanted and trainer.is_global_zero:
            self._measure(trainer)

    def _kept(self, step: int) -> file.Dynamics | None:
        """The run's measurements up to this step; later ones are about to be made again."""
        path = self.run.dynamics
        if not path.is_file():
            return None
        try:
            found = file.read(path)
        except ValueError as problem:
            raise UserError(str(problem)) from problem
        kept = file.until(found, step)
        if len(kept) < len(found):
            self.saving.attempt(path.name, step, lambda: file.write(path, kept), needed=True)
        return kept

    def _measure(self, trainer: Trainer) -> None:
        step, path = trainer.global_step, self.run.dynamics
        with distributed.alone():
            made = measure(self._subjects, step, self._known)
        try:
            self._known = known = file.appended(self._known, made)
        except ValueError as problem:
            raise UserError(f"{path}: {problem}; move it away to start a new one") from problem
        self.saving.attempt(path.name, step, lambda: file.write(path, known))
        self.to_loggers(trainer, _means(made))


def _subjects(module: LightningModule, data: ImageData) -> list[Subject]:
    """The networks of a GAN or a classifier, each with its probe batch."""
    options = cast(Any, module).options

    def placed(probe: Tensor) -> Tensor:
        probe = probe.to(module.device, cast(torch.dtype, module.dtype))
        last = options.channels_last and probe.dim() == 4
        return probe.contiguous(memory_format=torch.channels_last) if last else probe

    images = data.real[:PROBES]
    if isinstance(data, LabelledData):
        network = cast(torch.nn.Module, module.network)
        return [Subject("network", network, placed(data.prepared(images)))]
    gan = cast(GAN, module)
    draw = rng.generator(options.seed, 0, 0, "samples")
    latents = torch.randn(len(images), options.latent_dim, generator=draw)
    return [
        Subject("critic", gan.critic, placed(convert.to_float(images))),
        Subject("generator", gan.generator, placed(latents)),
    ]


def _means(measurement: file.Dynamics) -> dict[str, float]:
    """For the logger: the mean over each network's layers; the maximum of its operator norms."""
    found = {}
    for network in measurement.networks:
        own = [name.startswith(f"{network}.") for name in measurement.layers]
        for name in SHOWN:
            values = getattr(measurement, name)[0, own]
            values = values[np.isfinite(values)]
            if len(values):
                value = values.max() if name == "operator_norm" else values.mean()
                found[f"dynamics/{network}/{name}"] = float(value)
    return found
