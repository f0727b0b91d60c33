"""The argument parser of every own command: whole option names, one-line errors, suggestions."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from msngan.report.tables.table import FORMATS
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.options import Range
from msngan.runs.rng import LEAST_TRUNCATION

CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)")
SENTENCE = re.compile(r"^(--\S+): (?=-?\d|'|is )")  # that goes on behind the option's name


class Help(argparse.HelpFormatter):
    """Every option's help ends in its default, unless that is nothing or the text says it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if isinstance(default, bool) or default in (None, argparse.SUPPRESS, (), []):
            return text
        if "default" in text or not action.option_strings:
            return text
        shown = ",".join(default) if isinstance(default, tuple) else default
        return f"{text}; default: {shown}"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser to be made with prog="msngan <command>".

    Abbreviated options are refused, so that a new option cannot change what an old script means.
    An error is one line on stderr, without the usage, and exit code 2.

    others: whether parse_known_args may leave words over, which are another parser's.
    """

    asked: ClassVar[Callable[[Parser], None] | None] = None  # gets the next parser that would read

    def __init__(self, *, others: bool = False, **options: Any) -> None:  # noqa: ANN401
        super().__init__(allow_abbrev=False, formatter_class=Help, **options)
        self.others = others

    def parse_known_args(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401  argparse's own
        if asked := Parser.asked:
            Parser.asked = None
            asked(self)
        values, unknown = super().parse_known_args(*given, **named)
        if unknown and not self.others:
            self.error(self._about(unknown[0]))
        return values, unknown

    def error(self, message: str) -> NoReturn:
        choice = CHOICE.search(message)
        if choice:
            known = [word.strip(" '") for word in choice["known"].split(",")]
            message += did_you_mean(choice["word"], known)
        line = SENTENCE.sub(r"\1 ", " ".join(message.split()).removeprefix("argument "))
        self.exit(2, f"{self.prog}: error: {line}; see `{self.prog} --help`\n")

    def _about(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        option = word.partition("=")[0]
        known = [each for each in self._option_string_actions if each.startswith("--")]
        return f"unknown option {option!r}{did_you_mean(option, known)}"


def number(
    least: float, most: float | None = None, kind: type[float] = int
) -> Callable[[str], float]:
    """The type of an option that takes a number of this range, a whole one unless kind is float."""

    def read(word: str) -> float:
        value: float = converted(word, kind)
        if problem := Range(least, most).problem(value):
            raise argparse.ArgumentTypeError(problem)
        return value

    return read


def option(to: argparse._ActionsContainer, name: str, text: str, **given: Any) -> None:  # noqa: ANN401
    """Add an option or an argument. name: it, and what stands for its value: `--size N`."""
    flag, *metavar = name.split()
    if metavar:
        given["metavar"] = metavar[0]
    if given.get("nargs") == "*":
        given.setdefault("default", [])  # else argparse lists it among what is required
    to.add_argument(flag, help=text, **given)


@contextmanager
def own_options(root: str) -> Iterator[None]:
    """Errors of data sets name the options of `fit`; inside, this command's. root: --data.root."""
    try:
        yield
    except UserError as problem:
        text = str(problem).replace(", or set --data.on_bad_image skip", "")
        raise UserError(text.replace("--data.root", root).replace("--data.", "--")) from problem


def add_root(to: argparse._ActionsContainer) -> None:
    """Add --root, as a path."""
    where = "folder that holds checkpoints/ and samples/"
    option(to, "--root DIR", where, type=Path, default=Path())


def add_format(to: argparse._ActionsContainer) -> None:
    """Add --format, of a command that prints tables."""
    to.add_argument("--format", choices=FORMATS, default="table", help="of what is printed")


def add_out(to: argparse._ActionsContainer, name: str, text: str) -> None:
    """Add an option of the file or folder that a command writes: it makes missing folders."""
    option(to, name, f"{text}; missing folders are made", type=Path)


def check_writable(option: str, path: Path) -> None:
    """Refuse before an hour of measuring, not after."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise UserError(
            f"{option} {path} cannot be written: {problem.strerror}; choose another file"
        ) from problem


def several(known: Sequence[str] = (), kind: type = str) -> Callable[[str], tuple[Any, ...]]:
    """The type of an option that takes words separated by commas, each once.

    known: the words there are, of which at least one is needed; empty: any words. kind: of each.
    """

    def read(text: str) -> tuple[Any, ...]:
        found = dict.fromkeys(word for each in text.split(",") if (word := each.strip()))
        choices = f"choose from {', '.join(known)}"
        if known and not found:
            raise argparse.ArgumentTypeError(f"is empty; {choices}")
        for word in found:
            if known and word not in known:
                near = did_you_mean(word, list(known))
                raise argparse.ArgumentTypeError(f"unknown {word!r}{near}; {choices}")
        return tuple(converted(word, kind) for word in found)

    return read


def converted(word: str, kind: type) -> Any:
    """The word as an int, a float or a str; an error of the option's where it is none."""
    try:
        return kind(word)
    except ValueError:
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{word[:40]!r} is not a {name}") from None


def add_sampling(to: argparse._ActionsContainer) -> None:
    """Add --truncation and --standing, how a generator's samples are drawn."""
    text = "draw latents again that are beyond T: better samples, and less diverse"
    option(to, "--truncation T", text, type=number(LEAST_TRUNCATION, kind=float))
    text = "compute the generator's batch-norm statistics anew, from N batches of samples"
    option(to, "--standing N", text, type=number(1, 100_000))


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
