"""The end of a run, counted in steps."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from msngan.training.callbacks.base import RunCallback


class StopAt(RunCallback):
    """Stops after the run's steps, counted in generator updates.

    Not Lightning's max_steps: with it, a run resumed from the end of an epoch miscounts.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
