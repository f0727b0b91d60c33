"""Checks of single options, with messages that name option, value and bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from msngan.runs.folder import UserError

LARGEST = 2**63 - 1  # of a whole number that torch can hold


def at_least(option: str, value: int | None, least: int, meaning: str = "") -> None:
    """None passes: it means a default."""
    if value is not None and value > LARGEST:
        raise UserError(f"{option} {value} is more than {LARGEST}")
    if value is not None and value < least:
        raise UserError(f"{option} {value} is less than {least}{meaning and '; ' + meaning}")


def positive(option: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option} {value} is not a positive number")


def not_negative(option: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UserError(f"{option} {value} is negative or not finite")


def fraction(option: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{option} {value} is not in [0, 1)")


@contextmanager
def named(option: str) -> Iterator[None]:
    """A ValueError inside is the user's, about this option."""
    try:
        yield
    except ValueError as problem:
        raise UserError(f"{option}: {problem}") from problem
