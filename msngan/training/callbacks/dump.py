"""What a run that diverged held: diverged-XXXXXXXX.ckpt, to look at and never to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer

from msngan import __version__
from msngan.runs.atomic import replacing
from msngan.runs.folder import Diverged
from msngan.training.callbacks.base import RunCallback

DUMP_FORMAT = 1


class Dump(RunCallback):
    """Writes the networks, the optimizers and the batch of a step that diverged, and says where.

    The file holds plain tensors and values. It is no msngan checkpoint: nothing resumes from it.
    A run keeps one, the newest. A file that cannot be written takes nothing from the message.
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
        try:
            self._write(path, step, trainer, pl_module, exception)
            said = f"{path} holds the networks and the batch of that step"
        except (OSError, RuntimeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem).partition("\n")[0]
            said = f"{path.name} could not be written: {reason}"
        exception.args = (f"{exception}; {said}",)

    def _write(
        self,
        path: Path,
        step: int,
        trainer: Trainer,
        module: LightningModule,
        problem: Diverged,
    ) -> None:
        about = {
            "format": DUMP_FORMAT,
            "version": __version__,
            "run": self.run.name,
            "step": step,
            "seed": self.seed,
            "rank": trainer.global_rank,
            "figures": dict(problem.figures),
            "message": str(problem),
        }
        content = {
            "diverged": about,
            "hyper_parameters": dict(module.hparams),
            "state_dict": module.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "batch": self._batch,
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)
        for older in path.parent.glob("diverged-*.ckpt"):
            if older != path:
                older.unlink()
