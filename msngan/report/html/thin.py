"""Long records made short: lines of a file, and points of a curve."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msngan.leaderboard.lines import LARGEST, clean

MOST_LINES = 20_000  # of a file that are kept; a longer one loses every other line
LONGEST_LINE = 2**16  # bytes
BUCKETS = 160  # of a curve; about two pixels each
LEVELS = 4  # of a line's JSON


@dataclass(frozen=True)
class Lines:
    """records: those kept, in order. every: 1 line in so many was read. total: lines there are.

    broken: the numbers of kept lines that are no JSON object.
    """

    records: list[dict[str, Any]]
    every: int = 1
    total: int = 0
    broken: tuple[int, ...] = ()

    @property
    def note(self) -> str | None:
        """What a reader must know of what is left out; None if nothing is."""
        parts = []
        if self.every > 1:
            parts.append(f"1 of {self.every} of its {self.total:,} lines is read")
        if self.broken:
            first, more = self.broken[0], len(self.broken) - 1
            others = f" and {more} more lines are" if more else " is"
            parts.append(f"line {first}{others} no JSON object and left out")
        return "; ".join(parts) or None


def read_lines(path: Path) -> Lines | None:
    """The JSON objects of a .jsonl file, evenly thinned, its last line always; None: no file.

    OSError if it cannot be read.
    """
    if not path.is_file():
        return None
    kept: list[tuple[int, bytes]] = []
    every, total, last = 1, 0, b""
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            if total % every == 0:
                kept.append((total + 1, line))
            total, last = total + 1, line
            if len(kept) > MOST_LINES:
                kept, every = kept[::2], 2 * every
    if total and (total - 1) % every:
        kept.append((total, last))
    records = [(number, _parsed(line)) for number, line in kept if line.strip()]
    sound = [record for _, record in records if record is not None]
    broken = tuple(number for number, record in records if record is None)
    return Lines(sound, every, total, broken)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = clean(json.loads(line), LEVELS)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def number(value: Any) -> float:  # noqa: ANN401  any JSON value
    """A finite number, or NaN for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if abs(value) <= LARGEST else math.nan


@dataclass(frozen=True)
class Points:
    """A curve's points; NaN in y is a gap. low and high: of what each point stands for."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    size: int = 1  # records a point is the mean of


def thinned(x: Sequence[float], y: Sequence[float], most: int = BUCKETS) -> Points:
    """At most `most` points: each the mean of as many neighbours, at their mean x.

    A NaN among them makes a gap of the point, so that no failure is averaged away.
    """
    size = max(1, -(-len(x) // most))
    if size == 1:
        return Points([*x], [*y], [*y], [*y])
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    xs = [math.fsum(x[part]) / len(x[part]) for part in parts]
    means, lows, highs = [], [], []
    for part in parts:
        values = y[part]
        gap = any(map(math.isnan, values))
        means.append(math.nan if gap else math.fsum(values) / len(values))
        lows.append(math.nan if gap else min(values))
        highs.append(math.nan if gap else max(values))
    return Points(xs, means, lows, highs, size)
