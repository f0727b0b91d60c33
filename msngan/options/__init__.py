"""From a command line to a checked config."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from msngan import checks
from msngan.config import find_config, top_level
from msngan.options.cli import TASKS, ClassifierCLI, FitCLI, GanCLI
from msngan.runs import UserError, did_you_mean

__all__ = ["TASKS", "ClassifierCLI", "FitCLI", "GanCLI", "parse", "quiet", "task_of"]

SHORT = {"--on-save-error": "--checkpoint.on_save_error"}
CONFIG = ("-c", "--config")


def parse(args: list[str]) -> FitCLI:
    """Parse and check what single types cannot say; raises UserError."""
    quiet()
    if not args:
        raise UserError("nothing to train; give a config, as `msngan fit --config digits_msn`")
    args = _configs_first([_whole(word) for word in args])
    cli = TASKS[task_of(args)](args)
    # Plain ints, checked here: jsonargparse's own kinds of int would end up in checkpoints.
    for name, least in (("steps", 1), ("epochs", 1), ("seed", 0), ("threads", 0)):
        checks.at_least(f"--{name}", cli.config.get(name), least)
    return cli


def _whole(word: str) -> str:
    """A word of the command line, its short name replaced."""
    option, equals, value = word.partition("=")
    return SHORT.get(option, option) + equals + value


def _configs_first(args: list[str]) -> list[str]:
    """The configs before all else: what is given by itself wins over them wherever it stands."""
    configs: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(args):
        word = args[index]
        length = 2 if word in CONFIG else 1
        found = word in CONFIG or word.startswith(tuple(f"{name}=" for name in CONFIG))
        (configs if found else rest).extend(args[index : index + length])
        index += length
    return configs + rest


def quiet() -> None:
    """Keep third parties' advertisements and notices about their own insides from the terminal."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="pytorch_lightning")


def task_of(args: list[str]) -> str:
    """What the command line wants trained: the last --task, or `task:` of a config, or a GAN."""
    task, where = "gan", "--task"
    values = [*args[1:], ""]
    for index, word in enumerate(args):
        option, equals, value = word.partition("=")
        value = value if equals else values[index]
        if option in CONFIG:
            path = find_config(value)
            task, where = top_level(path).get("task", task), f"{path}: task"
        elif option == "--task":
            task, where = value, "--task"
    if not isinstance(task, str) or task not in TASKS:
        near = did_you_mean(str(task), list(TASKS))
        raise UserError(f"{where} {task!r} is not known{near}; use {' or '.join(TASKS)}")
    return task
