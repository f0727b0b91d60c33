"""The .jsonl files of a run, read with care: a damaged line costs nothing but itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError

MOST_SAID = 10  # damaged lines of one file that are named
_said: set[tuple[Path, tuple[int, ...]]] = set()


@dataclass(frozen=True)
class _Line:
    """number: from 1. record: None where `raw` (without its newline) is no JSON object.

    cut: it has no newline, as the last line that a kill or a full disk has cut.
    """

    number: int
    raw: bytes
    record: dict[str, Any] | None
    cut: bool

    @property
    def damaged(self) -> bool:
        return self.record is None and not self.cut


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file, none if there is no file; UserError if it cannot be read.

    A line that is no JSON object is left out, and named once on stderr; a last line cut by a kill
    is left out in silence.
    """
    lines = list(_lines(path))
    _say(path, lines, "left out")
    return [line.record for line in lines if line.record is not None]


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file or it is damaged."""
    try:
        return _record(path.read_bytes() if path.is_file() else b"") or {}
    except OSError:
        return {}


def keep_until(path: Path, step: int) -> None:
    """Drop records later than `step`, which a resumed run is about to write again.

    All other lines stay as they are, byte for byte; one that cannot be read too, for what it says
    may be needed. A last line cut by a kill is dropped: its step is about to be done again.
    """
    if not path.is_file():
        return
    lines = list(_lines(path))
    _say(path, lines, "left as it is")
    kept = [line.raw for line in lines if _stays(line, step)]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(raw + b"\n" for raw in kept))


def _stays(line: _Line, step: int) -> bool:
    if line.record is None:
        return not line.cut
    own = line.record.get("step", 0)
    return not (isinstance(own, (int, float)) and own > step)


def _lines(path: Path) -> Iterator[_Line]:
    if not path.is_file():  # a pipe would be waited for
        return
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}") from problem
    for number, raw in enumerate(whole, start=1):
        if raw.strip():
            yield _Line(number, raw, _record(raw), cut=False)
    if last.strip():
        yield _Line(len(whole) + 1, last, _record(last), cut=True)


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _say(path: Path, lines: list[_Line], fate: str) -> None:
    damaged = tuple(line.number for line in lines if line.damaged)
    if not damaged or (key := (path.absolute(), damaged)) in _said:
        return
    _said.add(key)
    for number in damaged[:MOST_SAID]:
        sys.stderr.write(f"msngan: warning: {path} line {number} is no JSON; it is {fate}\n")
    if (more := len(damaged) - MOST_SAID) > 0:
        sys.stderr.write(f"msngan: warning: {path} has {more} more such lines\n")
