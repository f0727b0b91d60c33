"""Checkpoints that a kill cannot damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from msngan import __version__
from msngan.runs.atomic import replacing, sync, sync_folder
from msngan.runs.checkpoint_files import CHECKPOINT_FORMAT, load_plain
from msngan.runs.options import Every, Record
from msngan.training.callbacks.base import RunCallback
from msngan.training.callbacks.saving import OnError, Saving, reason

if TYPE_CHECKING:
    from msngan.data import ImageData

KEPT = 4  # last, previous, best and the one that is being written: never more at once


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames; reads plain data only.

    Lightning's own way stages the file in the system's temporary folder; from another file system
    that ends in a copy, which a kill cuts, the good file before it already gone.

    A disk's failure is kept in `problem` for `take_problem`: raised here, in one of several
    processes, it would leave the others waiting for this one.
    """

    problem: BaseException | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        try:
            with replacing(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as problem:
            if reason(problem) is None:
                raise
            self.problem = problem

    def take_problem(self) -> None:
        """Raise what the last save has failed with, once."""
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem

    def load_checkpoint(  # type: ignore[override]
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        return load_plain(Path(path), map_location)


class Checkpoints(RunCallback):
    """Keeps last.ckpt, and the one before it as previous.ckpt; `save_best` adds best.ckpt.

    With the one that is being written there are never more than four.

    Args:
        every: steps between checkpoints; 0: only at the end and on interruption.
        on_save_error: what to do when a checkpoint, record or picture cannot be written to disk:
            stop the run, or warn and continue without it.
    """

    def __init__(
        self, every: Record[Every] = 1000, on_save_error: Record[OnError] = "stop"
    ) -> None:
        self.every = every
        self.saving = Saving(on_save_error)
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
            "task": pl_module.task,
            "data": cast("ImageData", getattr(trainer, "datamodule")).description,  # noqa: B009
        }
        if self.options:
            checkpoint["msngan"]["options"] = self.options
        if self._best is not None:
            checkpoint["msngan"]["best"] = self._best
        collapses = [getattr(each, "collapse", None) for each in getattr(trainer, "callbacks")]  # noqa: B009
        if any(collapses):  # a kill may come before the run's result is written
            checkpoint["msngan"]["collapse"] = next(filter(None, collapses))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.should_stop or (self.every and trainer.global_step % self.every == 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write last.ckpt for the step just done; at every moment some last.ckpt is whole."""
        if self.saved_step == trainer.global_step:
            return
        fresh = self.run.last.with_name(".next.ckpt")
        with self.saving.attempt(self.run.last.name, trainer.global_step):
            self._write(trainer, fresh)
            if trainer.is_global_zero:
                self._advance(fresh)
            self.saved_step = trainer.global_step

    def save_best(self, trainer: Trainer, best: dict[str, str | float]) -> None:
        """Write best.ckpt for the step just done; `best` says by which score and value."""
        self._best = best
        try:
            with self.saving.attempt(self.run.best.name, trainer.global_step):
                self._write(trainer, self.run.best)
        finally:
            self._best = None

    def _write(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path, weights_only=False)
        io = trainer.strategy.checkpoint_io
        if isinstance(io, AtomicIO):
            io.take_problem()

    def _advance(self, fresh: Path) -> None:
        """The last becomes the previous, the fresh one the last."""
        last, previous = self.run.last, self.run.previous
        for record in self.run.folder.glob("*.jsonl"):
            sync(record)  # no line of a saved step may be lost with the power
        if last.is_file():
            kept = last.with_name(".previous.ckpt")
            kept.unlink(missing_ok=True)
            try:
                os.link(last, kept)
                os.replace(kept, previous)
                kept.unlink(missing_ok=True)  # renaming to another name of itself does nothing
            except OSError:  # a file system without links: for a moment there is no last
                os.replace(last, previous)
        os.replace(fresh, last)
        sync_folder(last.parent)
