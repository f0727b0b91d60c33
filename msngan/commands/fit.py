"""msngan fit: train a GAN or a classifier: --config NAME, then any option."""

from __future__ import annotations

import argparse
import json
import shutil
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from msngan.runs.configs import COMMAND, idle, parse, refuse_none_among
from msngan.runs.folder import UserError
from msngan.runs.option_values import limits_of, members
from msngan.runs.options import SOURCES, Option, options_of

# The options that most runs set, shown before all others.
MAIN = {
    *("run", "root", "task", "steps", "epochs", "seed", "threads", "data.dataset", "data.root"),
    *("data.size", "data.batch_size", "model.norm", "model.network", "model.loss", "model.penalty"),
    *("model.critic_batch", "model.critic_steps", "model.width", "model.generator_lr"),
    *("model.critic_lr", "model.lr", "scores.every", "samples.every", "trainer.accelerator"),
    *("trainer.devices", "trainer.precision", "logger"),
}
TITLES = {
    "": "other options",
    "trainer": "trainer: the machine",
    "model": "model: networks, losses and optimizers",
    "augment": "augment: augmentation of what the critic scores, for few images",
    "data": "data: the images",
    "scores": "scores: evaluation during training",
    "accuracy": "accuracy: evaluation during training",
    "samples": "samples: grids of images during training",
    "checkpoint": "checkpoint: saving",
    "records": "records: the losses of training",
    "dynamics": "dynamics: measurements of every layer",
    "health": "health: checks for a collapse",
}
SYMBOLS: dict[Any, str] = {int: "N", float: "X", bool: "true|false", str: "TEXT"}  # else VALUE
WHAT = {"gan": "a GAN", "classifier": "a classifier"}


def main(argv: list[str]) -> int:
    config = parse(argv)  # bad input is answered before torch is imported
    if "help" in config.flags:
        print(help_text(config.task), end="")
        return 0
    refuse_none_among(config)
    if problem := idle(config):
        raise UserError(problem)
    if "print_config" in config.flags:
        print(config.to_yaml(), end="")
        return 0
    from msngan.training.run import fit

    return fit(config)


def help_text(task: str) -> str:
    return parser(task).format_help()


def parser(task: str) -> argparse.ArgumentParser:
    """All options of a task, for help and completion: the main ones, then the others by group."""
    (other,) = {*SOURCES} - {task}
    made = argparse.ArgumentParser(
        prog=COMMAND[task],
        usage=f"{COMMAND[task]} [--config NAME] [--OPTION VALUE ...]",
        description=f"Train {WHAT[task]}. `{COMMAND[other]} --help` lists the options of"
        f" {WHAT[other]}. An option also stands in a config, as `model: {{width: 32}}`; the command"
        " line wins over configs.",
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=32, width=min(shutil.get_terminal_size().columns, 110) - 2
        ),
        add_help=False,
    )
    main = made.add_argument_group("main options")
    main.add_argument(
        "-c",
        "--config",
        metavar="NAME",
        help="config file, or the name of a known one (`msngan configs` lists them); may be"
        " repeated, a later one wins",
    )
    main.add_argument(
        "--plugin",
        metavar="FILE",
        help="Python file, or an installed plug-in's name, that is run first and brings networks,"
        " norms, losses, data sets or callbacks of your own; may be repeated",
    )
    main.add_argument("--help", action="store_true", help="show this text and exit")
    main.add_argument("--print_config", action="store_true", help="print the config and exit")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options_of(task).values():
        where = main
        if option.name not in MAIN:
            name = option.name.rpartition(".")[0]
            where = groups.get(name) or made.add_argument_group(
                TITLES.get(name, f"{name}: of a plug-in")
            )
            groups[name] = where
        text = described(option).replace("%", "%%")
        where.add_argument(f"--{option.name}", metavar=metavar(option), help=text)
    return made


def metavar(option: Option) -> str:
    (kind, *others) = kinds(option)
    if others:
        return "VALUE"
    if get_origin(kind) is Literal:
        return "NAME" if isinstance(get_args(kind)[0], str) else "N"
    return SYMBOLS.get(kind, "VALUE")


def kinds(option: Option) -> list[Any]:
    return [kind for kind in members(option.type) if kind is not NoneType]


def described(option: Option) -> str:
    """What an option does, its values or range, and its default."""
    facts = []
    (kind, *others) = kinds(option)
    if get_origin(kind) is Literal and [get_origin(each) for each in others] in ([], [list]):
        several = ", or a list of them" if others else ""
        facts.append(f"one of {', '.join(map(str, get_args(kind)))}{several}")
    if limits := limits_of(option.type):
        facts.append(str(limits))
    default = option.default
    text = default if isinstance(default, str) else json.dumps(default)
    return f"{option.help.removesuffix('.')} ({'; '.join([*facts, f'default: {text}'])})"
