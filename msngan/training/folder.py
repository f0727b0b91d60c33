"""A run's folder before training: who holds it, what is left in it, what to go on from."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning import LightningModule

from msngan.runs.atomic import replacing, write_json
from msngan.runs.fit_config import FitConfig
from msngan.runs.folder import Failure, Run, Taken, UserError, lock
from msngan.runs.hardware import environment
from msngan.training.callbacks.checkpoints import KEPT

DAMAGED = "damaged.ckpt"
TRIES, PAUSE = 3, 0.05  # who asks whether the lock is held has it for an instant; seconds
# Temporary files of what training writes; other commands write into these folders too.
STALE = {
    "folder": re.compile(r"\..+\.(ckpt|jsonl|json|npz|yaml)\.\w+\.tmp|\..+\.ckpt"),
    "samples": re.compile(r"\..+\.(png|webp)\.\w+\.tmp"),
}


class Hold:
    """This process alone trains the run, from `take` to the end of the block, or its own end.

    Of several processes of one training the first holds it for all.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._descriptor: int | None = None

    def take(self) -> None:
        """Taken for another process that has it; the run's folder is made, if need be."""
        if self._descriptor is not None:
            return
        try:
            for _ in range(TRIES):
                if (descriptor := lock(self.run.lock)) is not None:
                    self._descriptor = descriptor
                    return
                time.sleep(PAUSE)
        except OSError as problem:
            raise unwritable(self.run, problem) from problem
        raise Taken(
            f"run {self.run.name!r} is being trained by another process ({self.run.folder});"
            " wait for it, or stop it"
        )

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *ending: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def take_up(run: Run) -> Path | None:
    """The checkpoint to go on from, after cleaning: the last, or the one before if it is damaged.

    None where there is none yet. A damaged one is set aside, so that it does not take the place of
    the good one before it. UserError where no whole one is left.
    """
    clean(run)
    there = [path for path in (run.last, run.previous) if path.is_file()]
    whole = next(filter(is_whole, there), None)
    if there and whole is None:
        names = " and ".join(str(path) for path in there)
        raise UserError(
            f"{names} cannot be read, it is cut or changed; put a copy back, or remove it to begin"
            " at the first step"
        )
    if whole is not None and whole != there[0]:
        aside = run.folder / DAMAGED
        try:
            os.replace(run.last, aside)
        except OSError as problem:
            raise unwritable(run, problem) from problem
        sys.stderr.write(
            f"warning: {run.last} is damaged (now {aside.name}); the run goes on from {whole}\n"
        )
    return whole


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's file is all there, byte for byte as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return False


def clean(run: Run) -> None:
    """Remove the temporary files of a training that was killed; for who holds the run."""
    try:
        for folder, stale in ((run.folder, STALE["folder"]), (run.samples, STALE["samples"])):
            for path in folder.iterdir() if folder.is_dir() else ():
                if stale.fullmatch(path.name):
                    path.unlink()
    except OSError as problem:
        raise unwritable(run, problem) from problem


def prepare(config: FitConfig, run: Run, config_name: str, hold: Hold) -> None:
    """Write what the run is made of; UserError where that cannot be.

    The config comes last: a run without one has not begun, and `fit` may begin it again.
    """
    try:
        new = not run.config.is_file()
        run.samples.mkdir(parents=True, exist_ok=True)
        hold.take()
        if new and run.config.is_file():
            raise Taken(f"run {run.name!r} is taken ({run.folder}); choose another --run")
        clean(run)
        run.result.unlink(missing_ok=True)
        without, changed = {"root", "ckpt_path", "detect_anomaly"}, {"run": run.name}
        if config.ckpt_path:  # part of what the run is: it did not begin at nothing
            without.remove("ckpt_path")
            changed["ckpt_path"] = str(Path(config.ckpt_path).resolve())
        write_json(run.environment, environment(config_name, run))
        with replacing(run.config) as temporary:
            temporary.write_text(config.to_yaml(without, **changed))
    except OSError as problem:
        raise unwritable(run, problem) from problem


def unwritable(run: Run, problem: OSError) -> UserError | Failure:
    cause = f"cannot write to {run.folder}: {problem.strerror}"
    if run.config.is_file():
        return Failure(f"{cause}; what it had saved is whole: resume it once that can be written")
    return UserError(f"{cause}; choose another folder with --root")


def room_wanted(module: LightningModule) -> int:
    """Bytes of all checkpoints that are there at once: of the weights, and Adam's two of each."""
    held = _bytes(module.state_dict().values())
    return KEPT * (held + 2 * _bytes(each for each in module.parameters() if each.requires_grad))


def say_if_short(run: Run, module: LightningModule) -> None:
    """A warning where the disk has not room for all checkpoints that a run keeps."""
    wanted = room_wanted(module)
    own = {path.stat().st_ino: path.stat().st_size for path in run.folder.glob("*.ckpt")}
    free = shutil.disk_usage(run.folder).free + sum(own.values())
    if free < wanted:
        sys.stderr.write(
            f"warning: {run.folder} has room for {free / 1e6:,.0f} MB, the {KEPT} checkpoints that"
            f" are there at once take about {wanted / 1e6:,.0f} MB\n"
        )


def _bytes(tensors: Iterable[object]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)  # type: ignore[attr-defined]
