"""Files that may come from anyone: read up to a size, and as plain data.

What a text could expand to, nest into or construct is refused before anything is built from it.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_YAML = 2**16  # bytes; a whole config has about 2 KiB
LEVELS = 12  # of mappings and lists in each other
LARGEST_SCALAR = 2**12  # characters of one value
LONGEST_NUMBER = 64  # characters
LARGEST_LINE = 2**20  # bytes of a record
DIGITS = re.compile(r"[-+]?[0-9][0-9A-Za-z_:.+-]*")


def is_regular(path: Path) -> bool:
    """Whether `path` is a file: opening a pipe would wait, and a device has no end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_up_to(path: Path, most: int) -> bytes:
    """The bytes of a regular file; ValueError for anything else, and for more than `most`."""
    if not is_regular(path):
        raise ValueError("no file")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        unit, name = (2**20, "MiB") if most >= 2**20 else (1024, "KiB")
        raise ValueError(f"larger than {most // unit} {name}")
    return data


def read_text(path: Path, most: int = LARGEST_YAML) -> str:
    """The same as text; ValueError where it is no UTF-8."""
    try:
        return read_up_to(path, most).decode()
    except UnicodeDecodeError:
        raise ValueError("no UTF-8 text") from None


def read_lines(path: Path, most: int = LARGEST_LINE) -> Iterator[bytes]:
    """The lines of a regular file without their ends; a longer one than `most` is cut to nothing.

    No file, no lines. The memory is that of one line.
    """
    if not is_regular(path):
        return
    with open(path, "rb") as file:
        while piece := file.readline(most):
            whole = piece.endswith(b"\n") or len(piece) < most
            while not whole:
                rest = file.readline(most)
                piece, whole = b"", rest.endswith(b"\n") or len(rest) < most
            yield piece.rstrip(b"\r\n")


def read_json(data: bytes | str) -> Any:  # noqa: ANN401  any JSON value
    """Strict JSON: no NaN, no infinity (not even one written as 1e999), no key twice.

    ValueError in one line for all else, and for what nests too deep.
    """
    try:
        return json.loads(
            data, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once
        )
    except json.JSONDecodeError as problem:
        raise ValueError(f"no JSON: {problem.msg} in line {problem.lineno}") from None
    except RecursionError:
        raise ValueError("no JSON: nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("no JSON: no UTF-8 text") from None


def _finite(word: str) -> float:
    if not math.isfinite(value := float(word)):
        raise ValueError(f"{word[:40]} is no number of JSON's")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


def load_yaml(text: str) -> Any:  # noqa: ANN401  any YAML value
    """Plain YAML as check_yaml lets it pass; ValueError for all else."""
    import yaml

    check_yaml(text)
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as problem:
        raise ValueError(f"no YAML: {' '.join(str(problem).split())[:200]}") from None


def check_yaml(text: str) -> None:
    """ValueError, in one line, for YAML that says more than values, or says one of them twice.

    Aliases (a few lines of them mean more values than memory holds), tags (they construct), merge
    keys, keys that are no words or there twice, what nests too deep, and numbers of more digits
    than any option has.
    """
    import yaml

    if "\0" in text:
        raise ValueError("no YAML: it holds a NUL byte")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    mappings: list[_Keys | None] = []  # of those open; None: a list
    documents = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            _check_event(event, yaml)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise ValueError("no YAML: more than one document")
            if isinstance(event, yaml.CollectionEndEvent):
                mappings.pop()
                continue
            if isinstance(event, yaml.NodeEvent) and mappings and (keys := mappings[-1]):
                keys.next(event.value if isinstance(event, yaml.ScalarEvent) else None)
            if isinstance(event, yaml.CollectionStartEvent):
                mappings.append(_Keys() if isinstance(event, yaml.MappingStartEvent) else None)
                if len(mappings) > LEVELS:
                    raise ValueError("nested too deep")
    except yaml.MarkedYAMLError as problem:
        line = f"line {problem.problem_mark.line + 1}: " if problem.problem_mark else ""
        raise ValueError(f"no YAML: {line}{problem.problem}") from None
    except (yaml.YAMLError, RecursionError) as problem:
        raise ValueError(f"no YAML: {' '.join(str(problem).split())[:200]}") from None


class _Keys:
    """The keys of one mapping as they come, every other time."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.at_key = True

    def __bool__(self) -> bool:
        return True

    def next(self, word: str | None) -> None:
        if self.at_key:
            if word is None:
                raise ValueError("a key is no word")
            if word == "<<":
                raise ValueError("merge keys (<<) are not read; write what they stand for")
            if word in self.known:
                raise ValueError(f"{word[:80]!r} is there twice")
            self.known.add(word)
        self.at_key = not self.at_key


def _check_event(event: Any, yaml: Any) -> None:  # noqa: ANN401  PyYAML's
    if isinstance(event, yaml.AliasEvent):
        raise ValueError(f"the alias *{event.anchor[:80]} is not read; write what it stands for")
    if getattr(event, "tag", None):
        raise ValueError(f"the tag {event.tag[:80]} is not read; write plain values")
    if isinstance(event, yaml.ScalarEvent):
        if len(event.value) > LARGEST_SCALAR:
            raise ValueError(f"a value of {len(event.value):,} characters")
        plain = event.implicit[0] and DIGITS.fullmatch(event.value)
        if plain and len(event.value) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(event.value)} digits")
