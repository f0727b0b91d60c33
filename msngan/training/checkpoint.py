"""Whether training can go on from a checkpoint, and what it says of the changes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

from msngan.losses import PENALTIES
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.fit_config import FitConfig
from msngan.runs.folder import UserError
from msngan.runs.options import FORMER, Role, group, options_of
from msngan.training.callbacks import AtomicIO

# Said elsewhere: what the run's length, seed and machine are.
UNSAID = {"steps", "epochs", "seed", "threads", "ckpt_path", "task"}


class JudgedIO(AtomicIO):
    """Gives Lightning the checkpoint that was judged, and not what its path may hold by now."""

    def __init__(self, checkpoint: dict[str, Any] | None) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def load_checkpoint(  # type: ignore[override]
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        if self.checkpoint is None:
            return super().load_checkpoint(path, map_location, weights_only)
        given, self.checkpoint = self.checkpoint, None
        return given


def judged(path: Path, task: str, options: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint at `path`, found fit for a module of these options before there is one."""
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} is an exported generator, without the critic and the optimizers that training"
            " needs; give the checkpoint that it was made from"
        )
    checkpoint = read_checkpoint(path, mapped=False)
    check(checkpoint, task, options, path)
    return checkpoint


def check(checkpoint: dict[str, Any], task: str, options: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network; options: of the module that is to go on."""
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
    if task == "gan":
        _check_gan(saved, options, path)


def check_steps(checkpoint: dict[str, Any], steps: int, path: Path, option: str) -> None:
    """Refuse to go on where nothing is left to do."""
    done = checkpoint["msngan"]["step"]
    if done >= steps:
        raise UserError(
            f"{path} has done {done} steps, of {option} {steps}; give a larger {option} to go on"
        )


def _check_gan(saved: dict[str, Any], options: dict[str, Any], path: Path) -> None:
    if saved["penalty"] not in PENALTIES:
        raise UserError(f"{path} was trained with a penalty {saved['penalty']!r}, which is unknown")
    kept = [PENALTIES[each["penalty"]].prepare for each in (saved, options)]
    if kept[0] is not kept[1]:
        raise UserError(
            f"{path} was trained with penalty {saved['penalty']}, the config says"
            f" {options['penalty']}; one of them keeps estimates in the checkpoint, the other does"
            " not, so neither can take the other's place in the middle"
        )
    if (saved["ema_decay"] > 0) != (options["ema_decay"] > 0):
        raise UserError(
            f"{path} was trained with ema_decay {saved['ema_decay']}, the config says"
            f" {options['ema_decay']}; a moving average cannot appear or vanish in the middle"
        )


def fit_into(checkpoint: dict[str, Any], module: LightningModule, path: Path) -> None:
    """Refuse a checkpoint whose tensors are not those of `module` and of its optimizers.

    The optimizers' settings are then the module's: Lightning would restore those in the file, and
    a changed one would be said to be taken and be left.
    """
    try:
        module.load_state_dict(checkpoint["state_dict"])  # Lightning does it again, in its own time
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
        _check_moments(saved["state"], parameters, f"{path}: optimizer {number}")
        saved["param_groups"] = optimizer.state_dict()["param_groups"]


def _check_moments(state: dict[int, Any], parameters: list[nn.Parameter], what: str) -> None:
    for index, moments in state.items():
        if not 0 <= index < len(parameters):
            raise UserError(f"{what} has a parameter {index} of {len(parameters)}")
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameters[index].shape:
                has, says = tuple(moments[name].shape), tuple(parameters[index].shape)
                raise UserError(f"{what} has {name} {has} for a parameter of {says}")


def say_changes(
    checkpoint: dict[str, Any], options: dict[str, Any], data: dict[str, Any], config: FitConfig
) -> None:
    """One line for each option that training goes on with another value of.

    options: of the module. data: the description of the images. config: for the options that are
    of neither, where the checkpoint has them.
    """
    about = checkpoint["msngan"]
    of_data = {name: option.default for name, option in group(config.task, "data").items()}
    pairs = ((_saved(checkpoint, config.task), options), (of_data | about["data"], data))
    for saved, now in pairs:
        for name, value in now.items():
            if plain(saved.get(name)) != plain(value):
                sys.stderr.write(f"{name}: {plain(saved.get(name))} -> {plain(value)}\n")
    known = {f"model.{name}" for name in options} | {f"data.{name}" for name in data}
    before = about.get("options")
    if not isinstance(before, dict):
        return
    before = {FORMER.get(name, name): value for name, value in before.items()}
    for name, value in sorted(kept_options(config).items()):
        if name in before and name not in known | UNSAID and before[name] != value:
            sys.stderr.write(f"{name}: {before[name]} -> {value}\n")


def kept_options(config: FitConfig) -> dict[str, Any]:
    """What a checkpoint keeps of a config: all but what only records, as plain values."""
    options = options_of(config.task).values()
    return {o.name: plain(config[o.name]) for o in options if o.role is not Role.RECORD}


def plain(value: Any) -> Any:
    """An option's value as a file holds it: lists for tuples."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _saved(checkpoint: dict[str, Any], task: str) -> dict[str, Any]:
    """The module's options in a checkpoint; one that came later has its default."""
    defaults = {name: option.default for name, option in group(task, "model").items()}
    return defaults | checkpoint["hyper_parameters"]
