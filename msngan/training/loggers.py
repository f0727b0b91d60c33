"""The loggers of --logger: Lightning's own, kept in the run's folder. None of them stops a run.

A resumed run goes on in the same place: TensorBoard hides what is about to be logged again,
metrics.csv loses those rows, and W&B, which has them already, leaves out what comes again.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from msngan.runs.atomic import add, replacing, write_json
from msngan.runs.extras import imported
from msngan.runs.folder import Run, UserError
from msngan.runs.rng import untouched
from msngan.runs.safe_read import object_or_empty
from msngan.training.callbacks.run_callback import Saving

WANDB_ID = re.compile(r"[\w.-]{1,64}")


class Guarded(Logger):
    """A logger of a run; a write that fails is reported and never stops the run.

    what: the name of its records in reports. options: of the run; logged as hyperparameters in
    place of the module's own. resumed_at: the step whose records a resumed run goes on from, -1
    where there is no checkpoint yet; None: a new run.
    """

    what: str

    def __init__(
        self, run: Run, saving: Saving, options: dict[str, Any], resumed_at: int | None, **own: Any
    ) -> None:
        super().__init__(**own)
        self.run, self.saving, self.options, self.resumed_at = run, saving, options, resumed_at
        self._within = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        inherited = super().log_metrics  # type: ignore[safe-super]
        self.attempt(step, lambda: inherited(dict(metrics), step))

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *rest: Any, **named: Any) -> None:
        inherited = super().log_hyperparams  # type: ignore[safe-super]
        self.attempt(None, lambda: inherited(self.options, *rest, **named))

    def attempt(self, step: int | None, write: Callable[[], object]) -> None:
        """Write; whatever goes wrong is reported by `saving`."""

        def told() -> None:
            try:
                write()
            except Exception as problem:
                cause = problem.__cause__ or problem  # Lightning hides an OSError in a ValueError
                if isinstance(cause, OSError):
                    raise cause from problem
                raise OSError(_line(cause)) from problem

        if self._within:  # one of Lightning's methods has called another
            write()
            return
        self._within = True
        try:
            self.saving.attempt(self.what, step or 0, told)
        finally:
            self._within = False


class TensorBoard(Guarded, TensorBoardLogger):
    """Event files in tensorboard/, one for each session."""

    what = "tensorboard"

    def __init__(self, *given: Any) -> None:
        run, *_, resumed_at = given
        purge = None if resumed_at is None else resumed_at + 1
        own: dict[str, Any] = {
            "save_dir": run.folder,
            "name": "tensorboard",
            "version": "",
            "purge_step": purge,
        }
        super().__init__(*given, **own)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """images: PIL images; as WandbLogger's method of that name."""
        arrays = [np.atleast_3d(np.asarray(image)) for image in images]

        def write() -> None:
            for array in arrays:
                self.experiment.add_image(key, array, step, dataformats="HWC")

        self.attempt(step, write)

    def save(self) -> None:
        """Write no hparams.yaml: the run's config.yaml has all options."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self.attempt(None, self._experiment.close)
            self._experiment = None

    def attempt(self, step: int | None, write: Callable[[], object]) -> None:
        """Write, and wait until another thread has put the events on disk."""

        def flushed() -> None:
            write()
            self.experiment.flush()

        hook, threading.excepthook = threading.excepthook, lambda _: None  # raised here instead
        try:
            super().attempt(step, flushed)
        finally:
            threading.excepthook = hook
        if self.what in self.saving.failing:  # the thread has ended; the next event opens a file
            self._experiment = None
            self._kwargs.pop("purge_step", None)


class Csv(Guarded, CSVLogger):
    """metrics.csv, which a spreadsheet opens: scalars only, a row for each call."""

    what = "metrics.csv"

    def __init__(self, *given: Any) -> None:
        own = {"save_dir": given[0].folder, "name": "", "version": ""}
        super().__init__(*given, **own, flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Rows:
        if self._experiment is None:
            self._experiment = Rows(self.run.folder / self.what, self.resumed_at)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def save(self) -> None:
        if self.experiment.metrics:
            self.attempt(None, self.experiment.save)

    def finalize(self, status: str) -> None:
        self.save()


class Rows(ExperimentWriter):
    """Lightning's writer of metrics.csv, which would remove the file of an earlier session.

    It goes on after the row of step `last` instead, and neither a kill nor a full disk cuts a row.
    """

    def __init__(self, path: Path, last: int | None) -> None:
        self.path, self.last = path, -1 if last is None else last
        self.metrics: list[dict[str, Any]] = []
        self.metrics_keys: list[str] = []
        self._begun = False

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Write no hparams.yaml: the run's config.yaml has all options."""

    def save(self) -> None:
        if not self.metrics:
            return
        if not self._begun and self.path.is_file():
            self.metrics_keys, kept = self._kept()
            self._replace(kept)
        self._begun = True
        rows, self.metrics = self.metrics, []  # those of a write that fails are lost
        known = [*self.metrics_keys]
        self.metrics_keys = sorted({*known, *(key for row in rows for key in row)})
        if known == self.metrics_keys and self.path.is_file():
            add(self.path, self._text(rows))
            return
        before = self._rows() if self.path.is_file() else []
        self._replace([*before, *rows])

    def _rows(self) -> list[dict[str, str]]:
        """The rows in the file; a last line that a kill has cut is left out."""
        whole, newline, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        return [*csv.DictReader(io.StringIO(whole + newline, newline=""), restval="")]

    def _kept(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns of the file, and its rows but those of later steps, which come again."""
        rows = self._rows()
        columns = [key for key in (rows[0] if rows else ()) if isinstance(key, str)]
        return columns, [row for row in rows if _number(row.get("step")) <= self.last]

    def _replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with replacing(self.path) as temporary:
            header = {key: key for key in self.metrics_keys}
            temporary.write_bytes(self._text([header, *rows]))

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.metrics_keys, extrasaction="ignore").writerows(rows)
        return text.getvalue().encode()


def _number(text: str | None) -> float:
    """What a cell says; infinity where that is no number."""
    try:
        return float(text or "inf")
    except ValueError:
        return float("inf")


class Wandb(Guarded, WandbLogger):
    """A run at Weights & Biases, with all options as its config; its files are in wandb/.

    The project is `msngan` and the name that of the run, unless WANDB_PROJECT and WANDB_NAME say
    otherwise. wandb.json keeps the id and the project, with which a resumed run goes on. If W&B
    cannot be reached, the records are kept on disk, as under WANDB_MODE=offline.
    """

    what = "wandb"

    def __init__(self, *given: Any) -> None:
        run: Run = given[0]
        found = object_or_empty(run.wandb)
        stored = {name: text for name, text in found.items() if isinstance(text, str)}
        known = WANDB_ID.fullmatch(stored.get("id", ""))
        own: dict[str, Any] = {
            "id": os.environ.get("WANDB_RUN_ID") or (known and known[0]) or os.urandom(6).hex(),
            "project": os.environ.get("WANDB_PROJECT") or stored.get("project") or "msngan",
            "name": os.environ.get("WANDB_NAME") or run.name,
            "save_dir": os.environ.get("WANDB_DIR") or run.folder.resolve(),
            "settings": {"quiet": True},  # no table of all figures at the end
        }
        super().__init__(*given, **own)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            about = {name: self._wandb_init[name] for name in ("id", "project")}
            self.attempt(None, lambda: write_json(self.run.wandb, {"format": 1, **about}))
            with untouched():
                self.attempt(None, self._begin)
            self._experiment = self._experiment or cast(Any, DummyExperiment())
        return self._experiment

    def _begin(self) -> None:
        import wandb

        try:
            self._experiment = super().experiment
        except (wandb.Error, TimeoutError) as problem:
            go_offline(problem)
            self._experiment = super().experiment
        if self._experiment.offline:
            place = self._experiment.settings.sync_dir
            self.saving.say(f"W&B is offline; `wandb sync {place}` sends what is logged")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # W&B ignores what comes again for an earlier step of its own counter.
        about = {} if step is None else {"trainer/global_step": step}
        self.attempt(step, lambda: self.experiment.log({**metrics, **about}, step=step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **named: Any) -> None:
        inherited = super().log_image  # it writes pictures to a temporary folder first
        self.attempt(step, lambda: inherited(key, images, step, **named))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run at W&B, after all has been sent."""
        if (experiment := self._experiment) is not None:
            self._experiment = None
            self.attempt(None, lambda: experiment.finish(int(status != "success")))


LOGGERS: dict[str, type[Guarded]] = {"tensorboard": TensorBoard, "csv": Csv, "wandb": Wandb}


def chosen(names: str | list[str]) -> list[str]:
    """The loggers that --logger names, each once."""
    return [] if names == "none" else [*dict.fromkeys([names] if isinstance(names, str) else names)]


def check_wandb() -> None:
    """UserError if W&B is not installed, or nobody is logged in and it is not to stay offline."""
    wandb = imported("wandb", "--logger wandb")
    try:
        if wandb.setup().settings.mode not in ("offline", "dryrun", "disabled"):
            wandb.login()
    except (wandb.errors.UsageError, ValueError) as problem:
        raise UserError(
            f"--logger wandb: {_line(problem)}; or set WANDB_MODE=offline, and send what is logged"
            " later by `wandb sync`"
        ) from problem
    except wandb.Error as problem:
        go_offline(problem)


def go_offline(problem: Exception) -> None:
    """Let W&B keep what is logged on disk, and say why."""
    import wandb

    wandb.setup().settings.mode = "offline"
    sys.stderr.write(f"warning: W&B cannot be reached: {_line(problem)}\n")


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split()).rstrip(".")[:200] or type(problem).__name__
