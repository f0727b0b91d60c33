"""Before the first step: lock and clean the run's folder, choose and check the checkpoint."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from msngan.data import ImageData
from msngan.gan import weighted_penalties
from msngan.losses import PENALTIES
from msngan.runs.atomic import replacing, write_json
from msngan.runs.checkpoint_files import MOMENTS, read_checkpoint
from msngan.runs.configs import FitConfig
from msngan.runs.folder import Failure, Run, Taken, UserError, counted, lock
from msngan.runs.hardware import environment
from msngan.runs.options import FORMER, SOURCES, Role, group, options_of
from msngan.training.callbacks.checkpoints import KEPT

DAMAGED = "damaged.ckpt"
# Reported elsewhere: the length, the seed and the machine of a run.
UNSAID = {"steps", "epochs", "seed", "threads", "ckpt_path", "task"}
# Options by which other images are taken.
CHOOSE = {"dataset", "split", "size", "channels", "on_bad_image", "test_share"}
SHOWN = 12  # digits of a hash
TRIES, PAUSE = 3, 0.05  # a process that asks for the lock holds it for an instant; seconds
# Temporary files of training; other commands write into these folders too.
STALE = {
    "folder": re.compile(r"\..+\.(ckpt|csv|jsonl|json|npz|yaml)\.\w+\.tmp|\..+\.ckpt"),
    "samples": re.compile(r"\..+\.(png|webp)\.\w+\.tmp"),
}


class Hold:
    """A lock: only this process trains the run, from `take` to the end of the block or process.

    Of several processes of one training the first holds it for all.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raise Taken if another process holds the lock; create the run's folder if needed."""
        with _writing(self.run):
            for _ in range(TRIES):
                if self._descriptor is None:
                    self._descriptor = lock(self.run.lock)
                if self._descriptor is not None:
                    return
                time.sleep(PAUSE)
        raise Taken(
            f"run {self.run.name!r} is being trained by another process ({self.run.folder});"
            " wait for it, or stop it"
        )

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *ending: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def newest_intact(run: Run) -> Path | None:
    """Clean the folder; return the checkpoint to resume: the last, or the previous if damaged.

    None if there is none yet. A damaged last.ckpt is set aside, so that it does not replace the
    good one before it. UserError if no intact one is left.
    """
    _clean(run)
    there = [path for path in (run.last, run.previous) if path.is_file()]
    intact = next(filter(_is_intact, there), None)
    if there and intact is None:
        names = " and ".join(str(path) for path in there)
        raise UserError(
            f"{names} cannot be read: cut or changed; put a copy back, or remove it to begin at the"
            " first step"
        )
    if intact is not None and intact != there[0]:
        aside = run.folder / DAMAGED
        with _writing(run):
            os.replace(run.last, aside)
        sys.stderr.write(
            f"warning: {run.last} is damaged (now {aside.name}); resuming from {intact}\n"
        )
    return intact


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint file is as it was written, byte for byte."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return False


def _clean(run: Run) -> None:
    """Remove the temporary files of a killed training; only the holder of the lock may."""
    with _writing(run):
        for folder, stale in ((run.folder, STALE["folder"]), (run.samples, STALE["samples"])):
            for path in folder.iterdir() if folder.is_dir() else ():
                if stale.fullmatch(path.name):
                    path.unlink()


def prepare(
    config: FitConfig, run: Run, config_name: str, hold: Hold, device: torch.device
) -> None:
    """Write what defines the run; UserError if that is impossible.

    The config comes last: a run without one has not begun, and `fit` may begin it again.
    """
    with _writing(run):
        new = not run.config.is_file()
        run.samples.mkdir(parents=True, exist_ok=True)
        hold.take()
        if new and run.config.is_file():
            raise Taken(f"run {run.name!r} is taken ({run.folder}); choose another --run")
        _clean(run)
        run.result.unlink(missing_ok=True)
        without, changed = {"root", "ckpt_path", "detect_anomaly"}, {"run": run.name}
        if config.ckpt_path:  # defines the run: it did not begin with fresh weights
            without.remove("ckpt_path")
            changed["ckpt_path"] = str(Path(config.ckpt_path).resolve())
        write_json(run.environment, environment(config_name, run, device))
        with replacing(run.config) as temporary:
            temporary.write_text(config.to_yaml(without, **changed))


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """An OSError in the block ends the run, with a remedy that fits a new or a resumed one."""
    try:
        yield
    except OSError as problem:
        cause = f"cannot write to {run.folder}: {problem.strerror}"
        if run.config.is_file():
            raise Failure(
                f"{cause}; saved files are intact: resume when the folder is writable"
            ) from problem
        raise UserError(f"{cause}; choose another folder with --root") from problem


def room_wanted(module: LightningModule) -> int:
    """Bytes of all checkpoints that exist at once: weights, and two moments of each, as of Adam."""
    moments = [each for each in module.parameters() if each.requires_grad] * 2
    return KEPT * sum(each.nbytes for each in [*module.state_dict().values(), *moments])


def warn_if_short(run: Run, module: LightningModule) -> None:
    """Warn if the disk has no room for all checkpoints that a run keeps."""
    wanted = room_wanted(module)
    own = {path.stat().st_ino: path.stat().st_size for path in run.folder.glob("*.ckpt")}
    free = shutil.disk_usage(run.folder).free + sum(own.values())
    if free < wanted:
        sys.stderr.write(
            f"warning: {run.folder} has room for {free / 1e6:,.0f} MB; the {KEPT} checkpoints that"
            f" exist at once take about {wanted / 1e6:,.0f} MB\n"
        )


def checked(path: Path, task: str, options: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint; UserError if a module with these options cannot resume it."""
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} is an exported generator, without the critic and the optimizers that training"
            " needs; give the checkpoint that it was made from"
        )
    checkpoint = read_checkpoint(path, mapped=False)
    trained = checkpoint["msngan"].get("task", "gan")
    if trained != task:
        raise UserError(f"{path} is of a {trained}, the config trains a {task}; use a config of it")
    saved = _saved(checkpoint, task)
    shaping = [n for n, each in group(task, "model").items() if each.role is Role.NETWORK]
    for name in shaping:
        if plain(saved[name]) != plain(options[name]):
            raise UserError(
                f"{path} holds a network with {name} {saved[name]}, the config says"
                f" {options[name]}; use the checkpoint's own"
            )
    if task != "gan":
        return checkpoint
    penalties, averages, targets = [], [], []
    for each in (saved, options):
        targets.append((each["augment"] or {}).get("target"))
        weights = weighted_penalties(each["penalty"], each["penalty_weight"])
        penalties.append({PENALTIES[name].prepare for name in weights} - {None})
        averages.append(each["ema_decay"] > 0)
    was = f"{path} was trained with"
    if penalties[0] != penalties[1]:
        raise UserError(
            f"{was} penalty {saved['penalty']}, the config says {options['penalty']}; only one of"
            " them keeps estimates in the checkpoint, so neither can replace the other in the"
            " middle of a run"
        )
    before, now = saved["optimizer"], options["optimizer"]
    if MOMENTS[before] != MOMENTS[now]:
        raise UserError(
            f"{was} optimizer {before}, the config says {now}; what one of them keeps of the"
            " gradients is not what the other needs, so use the checkpoint's own"
        )
    if (targets[0] is None) != (targets[1] is None):
        raise UserError(
            f"{was} augment.target {targets[0]}, the config says {targets[1]}; an adaptive"
            " probability cannot begin or end in the middle of a run"
        )
    if averages[0] != averages[1]:
        raise UserError(
            f"{was} ema_decay {saved['ema_decay']}, the config says {options['ema_decay']}; a"
            " moving average cannot begin or end in the middle of a run"
        )
    return checkpoint


def check_steps(checkpoint: dict[str, Any], steps: int, path: Path, says: str) -> None:
    """UserError if no step is left to do. says: who asked for so many, as '--epochs 3 makes'."""
    done = checkpoint["msngan"]["step"]
    if done >= steps:
        raise UserError(
            f"{path} has done {counted(done, 'step')}, and {says} {steps}; give a larger"
            f" {says.split()[0]} to"
            " go on"
        )


def load(checkpoint: dict[str, Any], module: LightningModule, path: Path) -> None:
    """Load the weights; UserError if a tensor does not fit the module or its optimizers.

    Lightning would restore the optimizers' settings from the file and so ignore a changed option;
    here the checkpoint gets the module's settings.
    """
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as problem:
        reason = " ".join(str(problem).split()).partition(": ")[2][:200]
        raise UserError(f"{path} does not fit the network of its options: {reason}") from problem
    made = module.configure_optimizers()
    optimizers = [made] if isinstance(made, torch.optim.Optimizer) else made
    for number, (optimizer, saved) in enumerate(
        zip(optimizers, checkpoint["optimizer_states"], strict=True)  # type: ignore[arg-type]
    ):
        assert isinstance(optimizer, torch.optim.Optimizer)
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        what = f"{path}: optimizer {number}"
        for index, moments in saved["state"].items():
            if not 0 <= index < len(parameters):
                raise UserError(f"{what} has a parameter {index} of {len(parameters)}")
            for name in moments.keys() - {"step"}:
                has, says = tuple(moments[name].shape), tuple(parameters[index].shape)
                if has != says:
                    raise UserError(f"{what} has {name} {has} for a parameter of {says}")
        saved["param_groups"] = optimizer.state_dict()["param_groups"]


def report_changes(
    checkpoint: dict[str, Any], options: dict[str, Any], images: ImageData, config: FitConfig
) -> None:
    """Print one line for each option whose value differs from the checkpoint's, and for the images.

    options: the module's. config: for all options but these and the images', if the checkpoint has
    them.
    """
    data = images.description
    about = checkpoint["msngan"]
    of_data = {name: option.default for name, option in group(config.task, "data").items()}
    known = {f"model.{name}" for name in options} | {f"data.{name}" for name in data} | UNSAID
    before = about.get("options")
    before = before if isinstance(before, dict) else {}
    before = {FORMER.get(name, name): value for name, value in before.items()}
    kept = sorted(kept_options(config).items())
    own = [_by_name(each, config.task) for each in (_saved(checkpoint, config.task), options)]
    known |= {*own[1]}
    others = {name: value for name, value in kept if name in before and name not in known}
    pairs = (own[0], own[1]), (of_data | about["data"], data)
    for saved, now in (*pairs, (before, others)):
        for name, value in now.items():
            if plain(saved.get(name)) != plain(value):
                sys.stderr.write(f"{name}: {plain(saved.get(name))} -> {plain(value)}\n")
    had, has = about.get("images_sha256"), images.images_sha256
    asked = [{name: value for name, value in each.items() if name in CHOOSE} for each in pairs[1]]
    if had not in (None, has) and asked[0] == asked[1]:  # otherwise said already
        change = f"{had[:SHOWN]} -> {has[:SHOWN]}"
        sys.stderr.write(f"data: the images have changed since the run began ({change})\n")


def kept_options(config: FitConfig) -> dict[str, Any]:
    """The options that a checkpoint keeps: all that shape a network or training, plain values."""
    options = options_of(config.task).values()
    return {o.name: plain(config[o.name]) for o in options if o.role is not Role.RECORD}


def plain(value: Any) -> Any:
    """An option's value as a file holds it: lists for tuples."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _saved(checkpoint: dict[str, Any], task: str) -> dict[str, Any]:
    """The module's options in a checkpoint; an option newer than it has its default."""
    defaults = {name: option.default for name, option in group(task, "model").items()}
    return defaults | checkpoint["hyper_parameters"]


def _by_name(options: dict[str, Any], task: str) -> dict[str, Any]:
    """The module's options with those of a group, such as augment, by their dotted names."""
    found = dict(options)
    for name in SOURCES[task].keys() & options.keys():
        known = {own: each.default for own, each in group(task, name).items()}
        values = known | (found.pop(name) or {})
        found |= {f"{name}.{own}": value for own, value in values.items()}
    return found
