"""Whether training can go on from a checkpoint, and what it says of the changes."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from typing import Any

from msngan.classifier import Classifier
from msngan.gan import GAN
from msngan.penalties import PENALTIES
from msngan.runs import UserError

# Options that shape the tensors in a checkpoint: another value is another network.
STRUCTURE = {
    "gan": [
        *("norm", "norm_options", "norm_layers", "other_norm", "critic", "generator", "width"),
        *("critic_width", "latent_dim", "conv_bias", "channels", "size"),
    ],
    "classifier": [
        *("network", "norm", "norm_options", "norm_layers", "other_norm", "as_released"),
        *("placement", "width", "depth", "conv_bias", "channels", "size", "classes"),
    ],
}
MODULES = {"gan": GAN, "classifier": Classifier}


def check(checkpoint: dict[str, Any], task: str, options: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network; options: of the module that is to go on."""
    trained = checkpoint["msngan"].get("task", "gan")
    if trained != task:
        raise UserError(f"{path} is of a {trained}, the config trains a {task}; use a config of it")
    saved = _saved(checkpoint, task)
    for name in STRUCTURE[task]:
        if saved[name] != options[name]:
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
            f"{path} has done {done} steps, {option} {steps}; give a larger number to go on"
        )


def _check_gan(saved: dict[str, Any], options: dict[str, Any], path: Path) -> None:
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


def say_changes(
    checkpoint: dict[str, Any], task: str, options: dict[str, Any], data: dict[str, Any]
) -> None:
    """One line for each option that training goes on with another value of.

    data: the description of the images that it goes on with.
    """
    saved = {**_saved(checkpoint, task), **checkpoint["msngan"]["data"]}
    for name, value in {**options, **data}.items():
        before = saved.get(name)
        before, value = (list(x) if isinstance(x, tuple) else x for x in (before, value))
        if before != value:
            sys.stderr.write(f"{name}: {before} -> {value}\n")


def _saved(checkpoint: dict[str, Any], task: str) -> dict[str, Any]:
    """The options in a checkpoint; one that is younger than it had its default."""
    defaults = {name: each.default for name, each in signature(MODULES[task]).parameters.items()}
    return defaults | checkpoint["hyper_parameters"]
