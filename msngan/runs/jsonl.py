"""The reader of records, .jsonl files of one JSON object a line: damage costs a line and no more.

A line that is not a JSON object, is nested deeper than 20 levels or longer than 1 MiB is damaged:
it is skipped and named once. A last line without a newline, which a kill or a full disk has cut,
is skipped without a word. Strings are cut to 300 characters and lose unprintable ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError, counted, plural
from msngan.runs.safe_read import clean, is_regular, read_json

LONGEST = 2**20  # bytes of a line
TAIL = 2**15  # bytes; more than a record has
MOST_NAMED = 10  # damaged lines of one file that are named
_named: set[tuple[Path, tuple[int, ...]]] = set()


@dataclass(frozen=True)
class Line:
    """number: from 1. start, end: its place in the file, in bytes. whole: it ends in a newline.

    raw: its bytes, none where there are more than LONGEST.
    """

    number: int
    start: int
    end: int
    raw: bytes
    whole: bool

    @property
    def record(self) -> dict[str, Any] | None:
        """None where the line is not a JSON object."""
        return _parsed(self.raw)


@dataclass(frozen=True)
class Lines:
    """records: those of the lines that were kept, in order. damaged: the numbers of bad ones.

    every: one line in so many was kept. total: how many lines there are.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    damaged: tuple[int, ...] = ()
    every: int = 1
    total: int = 0

    @property
    def note(self) -> str | None:
        """What a reader of the records must know; None if all lines were read."""
        parts = []
        if self.every > 1:
            parts.append(f"1 line in {self.every} is read, of {self.total:,}")
        if self.damaged:
            more = len(self.damaged) - 1
            are, were = (f" and {more} more are", "were") if more else (" is", "was")
            parts.append(f"line {self.damaged[0]}{are} not valid JSON and {were} skipped")
        return "; ".join(parts) or None


def lines(path: Path) -> Iterator[Line]:
    """The lines of a file that are not blank; none if there is no file. OSError if unreadable."""
    if not is_regular(path):
        return
    with open(path, "rb") as file:
        for number in count(1):
            start = file.tell()
            raw = piece = file.readline(LONGEST)
            if not raw:
                return
            while len(piece) == LONGEST and not piece.endswith(b"\n"):
                raw, piece = b"", file.readline(LONGEST)
            if raw.strip() or not raw:
                yield Line(number, start, file.tell(), raw, piece.endswith(b"\n"))


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        record = clean(read_json(raw))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records; damaged lines are named once on stderr. UserError if the file is unreadable."""
    try:
        found = read_thinned(path, most=None)
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}") from problem
    _name(path, found.damaged)
    return found.records


def read_thinned(path: Path, most: int | None) -> Lines:
    """The records of at most about `most` lines, evenly chosen, the last always among them.

    OSError if the file cannot be read.
    """
    kept: list[Line] = []
    every, total, last = 1, 0, None
    for line in lines(path):
        if total % every == 0:
            kept.append(line)
        total, last = total + 1, line
        if most is not None and len(kept) > most:
            kept, every = kept[::2], 2 * every
    if last is not None and (total - 1) % every:
        kept.append(last)
    records, damaged = [], []
    for line in kept:
        if (record := line.record) is not None:
            records.append(record)
        elif line.whole:
            damaged.append(line.number)
    return Lines(records, tuple(damaged), every, total)


def newest(path: Path) -> dict[str, Any]:
    """The last record, found from the end of the file; {} if there is none."""
    if not is_regular(path):
        return {}
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            ends = file.read().split(b"\n")
    except OSError:
        return {}
    return next((found for raw in reversed(ends) if (found := _parsed(raw)) is not None), {})


def keep_until(path: Path, step: int) -> None:
    """Drop records later than `step`, which a resumed run is about to write again.

    All other lines stay as they are, byte for byte, damaged ones too, for what one says may be
    needed. A last line that is cut is dropped: its step is about to be done again.
    """
    if not is_regular(path):
        return
    damaged = []
    with replacing(path) as temporary, open(path, "rb") as old, open(temporary, "wb") as new:
        for line in lines(path):
            if (record := line.record) is None:
                if not line.whole:
                    continue
                damaged.append(line.number)
            elif isinstance(own := record.get("step", 0), int | float) and own > step:
                continue
            old.seek(line.start)
            new.write(old.read(line.end - line.start).removesuffix(b"\n") + b"\n")
    _name(path, tuple(damaged))


def _name(path: Path, damaged: tuple[int, ...]) -> None:
    if not damaged or (key := (path.absolute(), damaged)) in _named:
        return
    _named.add(key)
    for number in damaged[:MOST_NAMED]:
        where = f"{path}: line {number}"
        sys.stderr.write(f"msngan: warning: {where} is not valid JSON and was skipped\n")
    if (more := len(damaged) - MOST_NAMED) > 0:
        were = plural(more, "was", "were")
        sys.stderr.write(f"msngan: warning: {path}: {counted(more, 'more line')} {were} skipped\n")
