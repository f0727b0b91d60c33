"""Checkpoints of msngan as plain data, judged before and after they are opened."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msngan.networks.dcgan import GENERATORS
from msngan.runs import rng
from msngan.runs.archive import check_archive
from msngan.runs.folder import UserError
from msngan.runs.schema import check_schema

CHECKPOINT_FORMAT = 1
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
# From a format to the next: what an older checkpoint lacks is put in, what has moved is moved.
UPGRADES: dict[int, Upgrade] = {}
# What torch raises of a file that is not whole, and what a foreign one makes of our own reading.
DAMAGED: tuple[type[Exception], ...] = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError),
    *(TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError),
    *(MemoryError, RecursionError, NotImplementedError),
)


def read_checkpoint(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """A msngan checkpoint as plain data; nothing in it is executed.

    mapped: leave the tensors in the file until they are used, which must then stay as it is.
    Raises UserError for a file that is missing, cut, no checkpoint, or not of msngan. What is
    returned is held to models.schema: known keys, plain values, tensors not larger than the file.
    """
    if not path.exists():
        raise UserError(f"no checkpoint {path}")
    try:
        size = check_archive(path)
        # Mapped, a tensor that claims more than is there has nothing to grow into.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except DAMAGED as problem:
        raise UserError(f"{path} is no readable checkpoint: {_reason(problem)}") from problem
    checkpoint = _of_this_format(checkpoint, path)
    try:
        check_schema(checkpoint, size)
    except DAMAGED as problem:
        raise UserError(f"{path} is no sound checkpoint: {_reason(problem)}") from problem
    return checkpoint if mapped else _owned(checkpoint)


def _reason(problem: BaseException) -> str:
    """Our own words; torch's are about its insides."""
    if type(problem) is ValueError:
        return str(problem)
    return "it is cut or of another program"


def _of_this_format(checkpoint: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401  any plain value
    """The checkpoint, brought to this format by one upgrade after the other."""
    about = checkpoint.get("msngan") if isinstance(checkpoint, dict) else None
    found = about.get("format") if isinstance(about, dict) else None
    if type(found) is not int or not 0 < found < 10**6:
        raise UserError(f"{path} is not a msngan checkpoint: it says no format")
    if found > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} is of format {found}, this msngan reads up to {CHECKPOINT_FORMAT}; upgrade"
            " msngan"
        )
    for number in range(found, CHECKPOINT_FORMAT):
        if number not in UPGRADES:
            raise UserError(
                f"{path} is of format {found}, this msngan reads none before {number + 1}; use the"
                " version that wrote it"
            )
        try:
            checkpoint = UPGRADES[number](checkpoint)
            checkpoint["msngan"]["format"] = number + 1
        except DAMAGED as problem:
            raise UserError(f"{path} is no sound checkpoint of format {found}") from problem
    return checkpoint


def _owned(value: Any) -> Any:  # noqa: ANN401  any plain value
    """The same in memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value)((key, _owned(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(_owned, value))
    return value


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
