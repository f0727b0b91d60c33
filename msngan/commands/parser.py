"""The argument parser of every own command: whole option names, one-line errors, suggestions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msngan.report.tables.table import FORMATS
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.options import Range

CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)")
RANGE = re.compile(r"argument (--\S+): (?=-?\d)")


class Help(argparse.HelpFormatter):
    """Every option's help ends in its default, unless that is nothing or the text says it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, argparse.SUPPRESS, "", []) or action.default is False:
            return text
        if action.default is True or "default" in text or not action.option_strings:
            return text
        return f"{text}; default: %(default)s".removeprefix("; ")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser to be made with prog="msngan <command>".

    Abbreviated options are refused, so that a new option cannot change what an old script means.
    An error is one line on stderr, without the usage, and exit code 2.

    others: whether parse_known_args may leave words over, which are another parser's.
    """

    def __init__(self, *, others: bool = False, **options: Any) -> None:  # noqa: ANN401
        super().__init__(allow_abbrev=False, formatter_class=Help, **options)
        self.others = others

    def parse_known_args(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401  argparse's own
        values, unknown = super().parse_known_args(*given, **named)
        if unknown and not self.others:
            self.error(self._about(unknown[0]))
        return values, unknown

    def error(self, message: str) -> NoReturn:
        choice = CHOICE.search(message)
        if choice:
            known = [word.strip(" '") for word in choice["known"].split(",")]
            message += did_you_mean(choice["word"], known)
        line = RANGE.sub(r"\1 ", " ".join(message.split()))
        self.exit(2, f"{self.prog}: error: {line}; see `{self.prog} --help`\n")

    def _about(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        option = word.partition("=")[0]
        known = [each for each in self._option_string_actions if each.startswith("--")]
        return f"unknown option {option!r}{did_you_mean(option, known)}"


def number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number of this range."""

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word[:40]!r} is not a whole number") from None
        if problem := Range(least, most).problem(value):
            raise argparse.ArgumentTypeError(problem)
        return value

    return read


def option(to: argparse._ActionsContainer, name: str, text: str, **given: Any) -> None:  # noqa: ANN401
    """Add an option or an argument. name: it, and what stands for its value: `--size N`."""
    flag, *metavar = name.split()
    if metavar:
        given["metavar"] = metavar[0]
    to.add_argument(flag, help=text, **given)


def add_root(to: argparse._ActionsContainer) -> None:
    """Add --root, as a path."""
    where = "folder that holds checkpoints/ and samples/"
    option(to, "--root DIR", where, type=Path, default=Path())


def add_format(to: argparse._ActionsContainer) -> None:
    """Add --format, of a command that prints tables."""
    to.add_argument("--format", choices=FORMATS, default="table", help="of what is printed")


def words(text: str) -> tuple[str, ...]:
    """The words of a list separated by commas, each once."""
    return tuple(dict.fromkeys(word for each in text.split(",") if (word := each.strip())))


def chosen(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The words of a list; UserError for an empty list and for a word that is not known."""
    found = words(text)
    if not found:
        raise UserError(f"{option} is empty; choose from {', '.join(known)}")
    for word in found:
        if word not in known:
            near = did_you_mean(word, list(known))
            raise UserError(f"{option}: unknown {word!r}{near}; choose from {', '.join(known)}")
    return found


def add_weights(to: argparse._ActionsContainer, verb: str, *, default: bool | None = None) -> None:
    """Add --ema and --raw, which exclude each other, as `ema`.

    default: True for the moving average, None for the moving average if there is one.
    """
    weights = to.add_mutually_exclusive_group()
    weights.add_argument(
        "--ema",
        dest="ema",
        action="store_true",
        default=default,
        help=f"{verb} the moving average of the weights; default"
        + ("" if default else " if there is one"),
    )
    weights.add_argument("--raw", dest="ema", action="store_false", help=f"{verb} the raw weights")
