"""What the callbacks of a run share: the run, guarded writes, and lines in its records."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from msngan.data import ImageData
from msngan.runs import distributed
from msngan.runs.atomic import append_line
from msngan.runs.folder import Failure, Run, UserError
from msngan.runs.jsonl import keep_until

Figures = Mapping[str, Tensor]  # what the step of a module returns
OnError = Literal["stop", "continue"]
TORCH_WRITER = "inline_container.cc"  # torch names this source file when it cannot write
LITTLE = 2**20  # bytes; a disk with less free space counts as full


class Unwritable(Failure):
    """The disk did not take a file that the run cannot do without."""


class Saving:
    """Guards every write of a run.

    A kind of file that fails is reported once, with the step and the reason, and once more when it
    can be written again. Each kind fails on its own: a full disk may still take a short line.

    Args:
        on_error: stop: raise Unwritable; continue: train on without the file.
        run: whose folder must still exist; None: not checked.
    """

    def __init__(self, on_error: OnError = "stop", run: Run | None = None) -> None:
        self.on_error, self.run = on_error, run
        self.remedy = "make room and resume it"
        self.note = ""  # the newest score or accuracy, to be shown beside the losses
        self.failing: dict[str, tuple[int, str]] = {}  # by kind: first step without it, and why
        self.say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)

    def attempt(
        self,
        what: str,
        step: int,
        write: Callable[[], object],
        *,
        needed: bool = False,
        collective: bool = False,
    ) -> None:
        """Call `write`, which writes `what`, a kind of file, after `step`.

        needed: stop the run on failure, whatever on_error says, because the remaining files would
        be wrong. collective: all processes must call `write`, and it notices a vanished folder.
        """
        try:
            # Checked first, because the write itself might recreate the folder of a vanished run.
            # Only the first process checks: the others may be on another machine.
            run = self.run if distributed.rank() == 0 and not collective else None
            if run is not None and not run.config.is_file():
                raise FileNotFoundError(errno.ENOENT, f"the run's {run.config.name} is gone")
            write()
        except (OSError, RuntimeError) as problem:
            cause = reason(problem, self.run)
            if cause is None:
                raise
            if needed or self.on_error == "stop":
                raise self._unwritable(cause) from problem
            if what not in self.failing:
                self.failing[what] = step, cause
                self.say(
                    f"warning: step {step}: {what} cannot be written: {cause}; training continues"
                    " without it"
                )
        else:
            if (since := self.failing.pop(what, None)) is not None:
                self.say(
                    f"step {step}: {what} can be written again; what was due between step"
                    f" {since[0]} and this one is missing"
                )

    def check(self, what: str) -> None:
        """Raise Unwritable if the newest attempt at this kind of file failed."""
        if what in self.failing:
            raise self._unwritable(self.failing[what][1])

    def _unwritable(self, cause: str) -> Unwritable:
        place = self.run.folder if self.run else "the run's folder"
        return Unwritable(
            f"cannot write to {place}: {cause}; saved files are intact: {self.remedy}"
        )


def reason(problem: BaseException, run: Run | None = None) -> str | None:
    """Why a disk refused a write; None if the error has another cause."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    if TORCH_WRITER not in str(problem):
        return None
    # torch writes checkpoints in C++ and gives no error number.
    try:
        free = shutil.disk_usage(run.folder if run else ".").free
    except OSError as gone:
        return gone.strerror
    return os.strerror(errno.ENOSPC) if free < LITTLE else "no room for a checkpoint"


class RunCallback(Callback):
    """A callback that knows its run and its config's name; `fit` attaches it before training.

    saving: guards the writes and speaks to the user; all callbacks of a run share one. seconds:
    what it has taken so far, without waiting for a GPU to finish the steps before.
    """

    run: Run
    config_name: str
    saving: Saving = Saving()
    own = False  # whether a Trainer that `fit` has not made calls it
    seconds = 0.0

    def attach(self, run: Run, config_name: str, saving: Saving) -> None:
        self.run, self.config_name, self.saving = run, config_name, saving

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Under a Trainer that `fit` has not made: checkpoints/lightning and samples/lightning."""
        if not hasattr(self, "run"):
            self.attach(Run("lightning", Path(trainer.default_root_dir)), "lightning", Saving())
            self.own = True
        if not self.own:
            return
        kind = type(self)
        if sum(type(each) is kind for each in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError(
                f"two callbacks {kind.__name__} would write the same files; give the Trainer one"
            )
        if trainer.is_global_zero:
            for folder in (self.run.folder, self.run.samples):
                folder.mkdir(parents=True, exist_ok=True)

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        """What the callback does after a step; figures: what the module's step returned."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        start = time.monotonic()
        self.after_step(trainer, pl_module, outputs)
        self.seconds += time.monotonic() - start

    def due(self, trainer: Trainer, every: int) -> bool:
        """Whether the step just done is a multiple of `every` (0: never) or the run's last.

        A step after which the run is interrupted is not due for that reason, so an interrupted and
        resumed run leaves the same records as an uninterrupted one. Raises Diverged if the figures
        of this step or one before it are not finite, so that nothing is recorded of them.
        """
        step = trainer.global_step
        due = step >= last_step(trainer) or (every > 0 and step % every == 0)
        if due:
            start = time.monotonic()
            cast(Any, trainer.lightning_module).check_finite()
            self.seconds -= time.monotonic() - start
        return due

    def keep_until(self, trainer: Trainer, path: Path) -> None:
        """Drop the records that training is about to write again."""
        if trainer.is_global_zero:
            step = trainer.global_step
            self.saving.attempt(path.name, step, lambda: keep_until(path, step), needed=True)

    def append(self, trainer: Trainer, path: Path, record: dict[str, Any]) -> None:
        """Add one JSON line for the step just done; the first process writes."""
        if trainer.is_global_zero:
            self.saving.attempt(path.name, trainer.global_step, lambda: append_line(path, record))

    def to_loggers(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """Pass figures of the step just done to the trainer's loggers."""
        for logger in trainer.loggers:
            logger.log_metrics(figures, trainer.global_step)
        if self.own:  # for callbacks that monitor a figure; fd/NAME is also called fd
            short = {name.partition("/")[0]: value for name, value in figures.items()}
            trainer.lightning_module.log_dict({**short, **figures}, logger=False)


def last_step(trainer: Trainer) -> int:
    """The step after which the run ends: of max_steps and max_epochs, what comes first."""
    ends: list[float] = [trainer.max_steps] if trainer.max_steps > 0 else []
    if (epochs := getattr(trainer, "max_epochs", None) or -1) > 0:
        epoch = getattr(trainer.train_dataloader, "steps_per_epoch", math.inf)
        ends.append(epochs * min(trainer.num_training_batches, epoch))
    end = min(ends, default=math.inf)
    return int(end) if end < math.inf else trainer.lightning_module.hparams["steps"]


def data_of(trainer: Trainer) -> Any:
    """The ImageData (or LabelledData) that the trainer was given; None for another loader."""
    data = getattr(trainer, "datamodule")  # noqa: B009  set where mypy does not look
    return data if isinstance(data, ImageData) else None
