"""The argument parser of every own command: whole option names, one-line errors, suggestions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from msngan.runs.folder import UserError, did_you_mean

CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser to be made with prog="msngan <command>".

    Abbreviated options are refused, so that a new option cannot change what an old script means.
    An error is one line on stderr, without the usage, and exit code 2.
    """

    def __init__(self, *positional: Any, **options: Any) -> None:  # noqa: ANN401  argparse's own
        options.setdefault("allow_abbrev", False)
        super().__init__(*positional, **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        values, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._about(unknown[0]))
        return values

    def error(self, message: str) -> NoReturn:
        choice = CHOICE.search(message)
        if choice:
            known = [word.strip(" '") for word in choice["known"].split(",")]
            message += did_you_mean(choice["word"], known)
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: error: {line}; see `{self.prog} --help`\n")

    def _about(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        option = word.partition("=")[0]
        known = [each for each in self._option_string_actions if each.startswith("--")]
        return f"unknown option {option!r}{did_you_mean(option, known)}"


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
