"""From a command line to a checked config."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from itertools import pairwise

from msngan.runs import bounds as checks
from msngan.runs.configs import find_config, top_level
from msngan.runs.folder import UserError, did_you_mean
from msngan.training.cli import TASKS, ClassifierCLI, FitCLI, GanCLI

__all__ = ["TASKS", "ClassifierCLI", "FitCLI", "GanCLI", "parse", "quiet", "task_of"]

SHORT = {"--on-save-error": "--checkpoint.on_save_error"}
CONFIG = ("-c", "--config")
PLACES = ("--data.root", "--data.download")  # of data that are the same wherever they lie
LONGEST = 60  # of what a run's name says of its options


def parse(args: list[str]) -> FitCLI:
    """Parse and check what single types cannot say; raises UserError."""
    quiet()
    if not args:
        raise UserError("nothing to train; give a config, as `msngan fit --config digits_msn`")
    configs, others = _apart([_whole(word) for word in args])
    args = configs + others
    cli = TASKS[task_of(args)](args)
    cli.changes = _changes(others)
    # Plain ints, checked here: jsonargparse's own kinds of int would end up in checkpoints.
    for name, least in (("steps", 1), ("epochs", 1), ("seed", 0), ("threads", 0)):
        checks.at_least(f"--{name}", cli.config.get(name), least)
    return cli


def _whole(word: str) -> str:
    """A word of the command line, its short name replaced."""
    option, equals, value = word.partition("=")
    return SHORT.get(option, option) + equals + value


def _changes(words: list[str]) -> str:
    """What a run's name says of the options that shape the training: -norm=spectral-lr=0.1."""
    said = ""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option.startswith(("--model.", "--data.")) and option not in PLACES:
            value = re.sub(r"[^\w.]+", "_", value if equals else following)
            said += f"-{option.rpartition('.')[2]}={value}"
    return said if len(said) <= LONGEST else ""


def _apart(args: list[str]) -> tuple[list[str], list[str]]:
    """The configs, which go first: what is given by itself wins wherever it stands; the rest."""
    configs: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(args):
        word = args[index]
        length = 2 if word in CONFIG else 1
        found = word in CONFIG or word.startswith(tuple(f"{name}=" for name in CONFIG))
        (configs if found else rest).extend(args[index : index + length])
        index += length
    return configs, rest


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
