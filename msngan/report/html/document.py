"""A page as a tree of sections, written by the templates beside this file as one HTML file.

Records may come from anyone, so the templates escape every value, drop unprintable characters, and
the policy in the page's head forbids a browser to load anything, whatever a text contains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from msngan.report.html import chart
from msngan.report.html.chart import Chart, line_style
from msngan.report.tables.table import Table
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file or on a command line, line by line."""

    text: str


@dataclass(frozen=True)
class State:
    """How a run or a study stands, in a sentence; `good` decides its colour."""

    text: str
    good: bool


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; headings inside are one level lower.

    folded: closed until opened. name: of a run or study; cells of a column `run` link to it.
    """

    title: str
    parts: Sequence[Part]
    folded: bool = False
    name: str = ""


# A str is a paragraph; a list holds charts, pictures and paragraphs side by side.
Part = str | Table | Chart | Code | State | Section | list[Any]


def write_page(path: Path, title: str, parts: Sequence[Part]) -> None:
    """Replace the file at `path`, whole or not at all; UserError if it cannot be written."""
    names = {name: anchor(name) for name in _names(parts)}
    text = templates().get_template("page.html.j2").render(title=title, parts=parts, names=names)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as problem:
        reason = problem.strerror or problem
        raise UserError(f"{str(path)!r} cannot be written: {reason}") from problem


def anchor(name: str) -> str:
    """An id for a link: the same for the same name and for no other."""
    return "run-" + re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{ord(match[0]):x}_", name)


def _names(parts: Sequence[Part]) -> Iterator[str]:
    """The names of all sections, at any depth."""
    for part in parts:
        if isinstance(part, Section):
            yield from ([part.name] if part.name else [])
            yield from _names(part.parts)


@cache
def templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    made.filters |= {"kind": lambda part: type(part).__name__, "line_style": line_style}
    made.globals |= {"policy": Markup(POLICY), "geometry": chart}
    return made


def _printable(value: Any) -> Any:  # noqa: ANN401  whatever a template prints
    """The value without unprintable characters, which no page may hold."""
    if isinstance(value, Markup) or (text := str(value)).isprintable():
        return value
    return "".join(each if each.isprintable() or each == "\n" else " " for each in text)


def numbers(columns: list[str], rows: list[list[str]], left: int = 1) -> Table:
    """A table whose columns after the first `left` are aligned to the right."""
    return Table("", columns, rows, right=frozenset(columns[left:]))


def short(value: float | None, digits: int = 4) -> str:
    """A number in a cell; a dash for none and for NaN."""
    return "–" if value is None or value != value else f"{value:.{digits}g}"


def percent(fraction: float) -> str:
    return "–" if fraction != fraction else f"{100 * fraction:.2f} %"


def spread(found: list[Any], most: int) -> list[Any]:
    """At most `most` (2 or more) of them: the first, the last, and evenly what is between."""
    if len(found) <= most:
        return found
    return [found[round(index * (len(found) - 1) / (most - 1))] for index in range(most)]
