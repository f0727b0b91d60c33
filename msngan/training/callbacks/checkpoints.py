"""When a run saves and stops; files that a kill cannot damage; the dump of a divergence."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from msngan import __version__
from msngan.runs import distributed
from msngan.runs.atomic import replacing, sync, sync_folder
from msngan.runs.checkpoint_files import load_plain
from msngan.runs.folder import Diverged
from msngan.runs.options import Every, Record
from msngan.training.callbacks.run_callback import (
    Figures,
    OnError,
    RunCallback,
    Saving,
    last_step,
    reason,
)

DUMP_FORMAT = 1
KEPT = 4  # last, previous, best and the one being written: never more at once
# SLURM's --signal=USR1@90 warns that the job's time is almost over: the exit code is SIGTERM's.
SIGNALS = [signal.SIGINT, signal.SIGTERM]
SIGNALS += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


class AtomicIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames; reads plain data only.

    Lightning stages the file in the system's temporary folder. From another file system the move is
    a copy: a kill in the middle of it cuts the file, and the good one before it is gone.

    A disk's failure is kept in `problem` for `take_problem`: if it were raised here, in one of
    several processes, the others would wait for this one.

    checked: a checkpoint that was read and checked; `load_checkpoint` returns it once, whatever its
    path holds by then.
    """

    def __init__(self, checked: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.checked = checked
        self.problem: BaseException | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        try:
            if not Path(path).parent.is_dir():  # or the write would recreate it
                raise FileNotFoundError(errno.ENOENT, "the run's folder is gone")
            with replacing(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as problem:
            if reason(problem) is None:
                raise
            self.problem = problem

    def take_problem(self) -> None:
        """Raise the failure of the last save, once."""
        problem, self.problem = self.problem, None
        if problem is not None:
            raise problem

    def load_checkpoint(  # type: ignore[override]
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        checked, self.checked = self.checked, None
        if checked is not None:
            return checked
        return load_plain(Path(path), map_location)


class Stop(RunCallback):
    """Stops after the run's last step, or after the step in progress when a signal arrives.

    Steps are counted here and not by Lightning's max_steps, with which a run resumed from the end
    of an epoch miscounts. A signal to any of several processes stops all of them after the same
    step; a second Ctrl-C leaves at once. Must come before the callbacks that save, so that they see
    `trainer.should_stop`.

    signal: SIGINT or SIGTERM once one has arrived in any process, else None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._arrived = 0  # in this process
        self._before: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        # Lightning's own handler of SIGTERM raises in the middle of a step, and waits for processes
        # that do not know of it. Before each step it asks all processes for the signal, for which a
        # GPU waits twice.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._arrived and number == signal.SIGINT:
            raise SystemExit(128 + number)  # Lightning would turn a KeyboardInterrupt into exit 1
        self._arrived = number if number == signal.SIGINT else signal.SIGTERM
        name = signal.Signals(number).name
        if distributed.rank() == 0:
            sys.stderr.write(f"\n{name}: saving after this step (Ctrl-C again leaves at once)\n")

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        self.signal = distributed.largest(self._arrived) or None
        if self.signal or trainer.global_step >= last_step(trainer):
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class Checkpoints(RunCallback):
    """Keeps last.ckpt, and the one before it as previous.ckpt; `save_best` adds best.ckpt.

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
        about: dict[str, Any] = {"run": self.run.name}  # the module adds the rest
        if self.options:
            about["options"] = self.options
        if self._best is not None:
            about["best"] = self._best
        collapses = [getattr(each, "collapse", None) for each in getattr(trainer, "callbacks")]  # noqa: B009
        if any(collapses):  # saved because a kill may come before the run's result is written
            about["collapse"] = next(filter(None, collapses))
        checkpoint["msngan"] = about

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        if trainer.should_stop or (self.every and trainer.global_step % self.every == 0):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write last.ckpt for the step just done; at every moment one complete last.ckpt exists."""
        if self.saved_step == trainer.global_step:
            return
        fresh = self.run.last.with_name(".next.ckpt")

        def write() -> None:
            self._write(trainer, fresh)
            if trainer.is_global_zero:
                self._advance(fresh)
            self.saved_step = trainer.global_step

        self.saving.attempt(self.run.last.name, trainer.global_step, write, collective=True)

    def save_best(self, trainer: Trainer, best: dict[str, str | float]) -> None:
        self._best, path, step = best, self.run.best, trainer.global_step
        try:
            write = lambda: self._write(trainer, path)  # noqa: E731
            self.saving.attempt(path.name, step, write, collective=True)
        finally:
            self._best = None

    def _write(self, trainer: Trainer, path: Path) -> None:
        trainer.save_checkpoint(path, weights_only=False)
        cast(AtomicIO, trainer.strategy.checkpoint_io).take_problem()

    def _advance(self, fresh: Path) -> None:
        """The last becomes the previous, the fresh one the last."""
        last, previous = self.run.last, self.run.previous
        for record in (*self.run.folder.glob("*.jsonl"), *self.run.folder.glob("*.csv")):
            sync(record)  # a power cut must not lose a line of a saved step
        if last.is_file():
            kept = last.with_name(".previous.ckpt")
            kept.unlink(missing_ok=True)
            try:
                os.link(last, kept)
                os.replace(kept, previous)
                kept.unlink(missing_ok=True)  # left if both were already the same file
            except OSError:  # without hard links there is no last.ckpt for a moment
                os.replace(last, previous)
        os.replace(fresh, last)
        sync_folder(last.parent)


def save_best(trainer: Trainer, best: dict[str, str | float]) -> None:
    """Write best.ckpt for the step just done; `best` holds the score's name and value."""
    for callback in getattr(trainer, "callbacks"):  # noqa: B009  set where mypy does not look
        if isinstance(callback, Checkpoints):
            callback.save_best(trainer, best)


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
            with replacing(path) as temporary:
                torch.save(content, temporary)
            for older in path.parent.glob("diverged-*.ckpt"):
                if older != path:
                    older.unlink()
            seen = trainer.global_step  # later, where a device's figures are not read in each step
            when = "that step" if step >= seen else f"step {seen}, where it was seen"
            said = f"{path} holds the networks and the batch of {when}"
        except (OSError, RuntimeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem).partition("\n")[0]
            said = f"{path.name} could not be written: {reason}"
        exception.args = (f"{exception}; {said}",)
