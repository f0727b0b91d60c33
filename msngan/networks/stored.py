"""Generators and classifiers built from what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msngan.networks.dcgan import GENERATORS
from msngan.runs import rng
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.folder import UserError


def check_gan(checkpoint: dict[str, Any], path: Path) -> None:
    """UserError for a checkpoint that holds no generator."""
    task = checkpoint["msngan"].get("task", "gan")
    if task != "gan":
        raise UserError(
            f"{path} is of a {task}, which has no samples and no FID; `msngan report` shows what it"
            " gets right"
        )


def load_generator(path: str | Path, ema: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """The generator in a checkpoint, in eval mode, and the checkpoint itself.

    ema: the moving average; UserError if the run kept none.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    check_gan(checkpoint, path)
    weights = generator_state(checkpoint, ema)
    if not weights:
        raise UserError(f"{path} holds no moving average (its ema_decay was 0); use --raw")
    return build_generator(checkpoint["hyper_parameters"], weights, path), checkpoint


def generator_state(checkpoint: dict[str, Any], ema: bool) -> dict[str, Tensor]:
    """The generator's tensors by their names in it, none where there is no moving average."""
    prefix, state = "ema." if ema else "generator.", checkpoint["state_dict"]
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}


def build_generator(options: dict[str, Any], weights: dict[str, Tensor], path: Path) -> nn.Module:
    """The generator of these options with these weights, in eval mode.

    UserError where they are not of one network: that is found before any of it is built, for
    options may claim one that no memory holds.
    """
    shape = [options[name] for name in ("latent_dim", "width", "channels", "size")]
    if options["generator"] not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise UserError(f"{path} is of a generator {options['generator']!r}; known: {known}")
    make = GENERATORS[options["generator"]]
    with rng.untouched():
        check_built(lambda: make(*shape), weights, path, "generator")
        generator = make(*shape)
    generator.to(next(iter(weights.values())).dtype)
    generator.load_state_dict(weights)
    if options.get("channels_last"):  # as in training: twice as fast, and the same last bits
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator.eval()


def check_built(
    make: Callable[[], nn.Module], weights: dict[str, Tensor], path: Path, what: str
) -> None:
    """UserError where the network that `make` builds has other tensors than `weights`."""
    try:
        with torch.device("meta"):
            claimed = make().state_dict()
    except (ValueError, RuntimeError, TypeError, OverflowError) as problem:
        raise UserError(f"{path}: its options make no {what}") from problem
    for name in [*claimed, *weights]:
        if name not in weights or name not in claimed:
            where = "options" if name in claimed else "file"
            raise UserError(f"{path}: {name[:80]} of the {what} is in its {where} only")
        if claimed[name].shape != weights[name].shape:
            has, says = (tuple(x[name].shape) for x in (weights, claimed))
            raise UserError(f"{path}: {name} of the {what} is {has}, its options say {says}")
        if claimed[name].is_floating_point() != weights[name].is_floating_point():
            raise UserError(f"{path}: {name} of the {what} is of {weights[name].dtype}")
