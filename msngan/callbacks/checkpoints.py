"""Checkpoints that a kill cannot damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from msngan import __version__, checks
from msngan.callbacks.base import RunCallback
from msngan.models.checkpoint import CHECKPOINT_FORMAT
from msngan.runs import replacing, sync_folder

if TYPE_CHECKING:
    from msngan.data import ImageData


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames; reads plain data only.

    Lightning's own way stages the file in the system's temporary folder; from another file system
    that ends in a copy, which a kill cuts, the good file before it already gone.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(  # type: ignore[override]
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)


class Checkpoints(RunCallback):
    """Keeps last.ckpt, and the one before it as previous.ckpt; `save_best` adds best.ckpt.

    Args:
        every: steps between checkpoints; 0: only at the end and on interruption.
    """

    def __init__(self, every: int = 1000) -> None:
        checks.at_least("--checkpoint.every", every, 0)
        self.every = every
        self.saved_step = -1
        self.options: dict[str, Any] = {}  # of the run, by dotted names; `fit` sets them
        self._best: dict[str, str | float] | None = None  # while best.ckpt is being written

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["msngan"] = {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "step": trainer.global_step,
            "run": self.run.name,
            "task": "gan" if len(trainer.optimizers) == 2 else "classifier",
            "data": cast("ImageData", getattr(trainer, "datamodule")).description,  # noqa: B009
        }
        if self.options:
            checkpoint["msngan"]["options"] = self.options
        if self._best is not None:
            checkpoint["msngan"]["best"] = self._best

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.should_stop or (self.every and trainer.global_step % self.every == 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write last.ckpt for the step just done; at every moment some last.ckpt is whole."""
        if self.saved_step == trainer.global_step:
            return
        last, previous = self.run.last, self.run.previous
        fresh = last.with_name(".next.ckpt")
        trainer.save_checkpoint(fresh, weights_only=False)
        if trainer.is_global_zero:
            if last.is_file():
                kept = last.with_name(".previous.ckpt")
                kept.unlink(missing_ok=True)
                os.link(last, kept)
                os.replace(kept, previous)
            os.replace(fresh, last)
            sync_folder(last.parent)
        self.saved_step = trainer.global_step

    def save_best(self, trainer: Trainer, best: dict[str, str | float]) -> None:
        """Write best.ckpt for the step just done; `best` says by which score and value."""
        self._best = best
        try:
            trainer.save_checkpoint(self.run.best, weights_only=False)
        finally:
            self._best = None
