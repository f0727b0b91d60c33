"""Ranges of numbers, and checks of single options whose messages name option, value and bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from msngan.runs.folder import UserError

LARGEST = 2**63 - 1  # the largest int that torch can hold


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included, or above and below a bound. Finite."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int | None = None

    def problem(self, value: float) -> str | None:
        """What is wrong with a value, in words; None for one inside."""
        if not math.isfinite(value):
            return f"{value} is not a finite number"
        if self.below is not None and not (self.least or 0) <= value < self.below:
            return f"{value} is not in [{self.least or 0:g}, {self.below:g})"
        if self.above is not None and value <= self.above:
            return f"{value} is not a positive number"
        if self.least is not None and value < self.least:
            return f"{value} is less than {self.least:g}"
        if self.multiple and value % self.multiple:
            return f"{value} is not a multiple of {self.multiple}; choose 32 or 64, for instance"
        most = self.most or (LARGEST if isinstance(value, int) else math.inf)
        return f"{value} is more than {most}" if value > most else None

    def __str__(self) -> str:
        if self.below is not None:
            return f"in [{self.least or 0:g}, {self.below:g})"
        if self.above is not None:
            return f"above {self.above:g}"
        if self.multiple:
            return f"a multiple of {self.multiple}"
        return f"at least {self.least:g}" if self.most is None else f"{self.least} to {self.most:,}"


def at_least(option: str, value: float | None, least: int, meaning: str = "") -> None:
    """UserError for a smaller value. None passes: it means a default."""
    if value is not None and (problem := Range(least).problem(value)):
        raise UserError(f"{option} {problem}{meaning and '; ' + meaning}")


@contextmanager
def named(option: str) -> Iterator[None]:
    """A ValueError inside is the user's, about this option."""
    try:
        yield
    except ValueError as problem:
        raise UserError(f"{option}: {problem}") from problem
