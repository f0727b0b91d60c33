"""metrics.jsonl: the training curves, which survive a resume without gap or double."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer

from msngan.runs.options import AtLeastOne, Record
from msngan.training.callbacks.base import RunCallback

if TYPE_CHECKING:
    from msngan.gan import GAN


class Records(RunCallback):
    """Writes the step's figures to metrics.jsonl and to the logger.

    Args:
        every: steps between records of the losses in metrics.jsonl.
    """

    def __init__(self, every: Record[AtLeastOne] = 50) -> None:
        self.every = every
        self._since = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.keep_until(trainer, self.run.metrics)
        self._since = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, torch.Tensor],  # type: ignore[override]
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if not self.due(trainer, self.every):
            return
        before, then = self._since
        now = time.monotonic()
        figures = {name: float(value) for name, value in outputs.items()}
        figures["steps_per_second"] = (step - before) / max(now - then, 1e-9)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        figures |= zip(cast("GAN", pl_module).rates, rates, strict=True)
        if trainer.is_global_zero:
            self.append(trainer, self.run.metrics, {"step": step, **figures})
        for logger in trainer.loggers:
            logger.log_metrics(figures, step)
        self._since = (step, now)
