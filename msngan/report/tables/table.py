"""A table for a terminal, Markdown and a page; JSON and CSV for programs.

Cells may hold text from anyone's files: each format escapes it.
"""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FORMATS = ("table", "json", "csv", "md")
BETWEEN = 3  # characters between two columns of a terminal's table
FOLDED = 20  # characters; a longer text column may fold to this width
MOST_PARTS = 3  # of a table that is too wide, before its text columns fold
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # a spreadsheet would run the cell


@dataclass(frozen=True)
class Table:
    """Text cells under a title, with lines above and notes below.

    right: the names of columns that are aligned to the right and never fold, as numbers are. keys:
    how many columns every part repeats where a terminal is too narrow for all columns at once.
    urls: a page turns addresses in the notes into links; only for texts of this package.
    """

    title: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    right: frozenset[str] = frozenset()
    keys: int = 1
    urls: bool = False


Tables = Callable[[], Iterable[Table]]
Rows = Callable[[], Sequence[Mapping[str, Any]]]


def print_as(style: str, *, tables: Tables, rows: Rows, whole: Callable[[], Any]) -> None:
    """Print in one of FORMATS; only what that format shows is computed.

    tables: for a terminal and Markdown. rows: records, for CSV. whole: for JSON.
    """
    if style == "json":
        print(json.dumps(whole(), indent=2, allow_nan=False))
    elif style == "csv":
        print_csv(rows())
    else:
        (print_markdown if style == "md" else print_terminal)(tables())


def plus_minus(mean: float | None, sd: float | None = None) -> str:
    """The mean and its spread to the same decimal place: 12.30±0.20.

    At most four significant digits of the mean, and two of the spread.
    """
    if mean is None:
        return "failed"
    size = abs(mean)
    if size and not 1e-4 <= size < 1e4:
        return f"{mean:.3e}" + ("" if sd is None else f"±{sd:.1e}")
    known = [decimals(size, 4)] if size else []
    known += [decimals(sd, 2)] if sd else []
    form = f".{min(known, default=0)}f"
    return f"{mean:{form}}" + ("" if sd is None else f"±{sd:{form}}")


def decimals(size: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(size)))


def encodable(text: str) -> str:
    """The text without unprintable characters, and with none that standard output cannot encode."""
    text = "".join(each if each.isprintable() else " " for each in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text


def print_terminal(tables: Iterable[Table]) -> None:
    """By rich, as wide as the terminal; 80 columns without one."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # to the caller, as print does; rich's own exits with 1

    console = Terminal()
    for table in tables:
        console.print(Text(encodable(table.title), style="bold"))
        for line in table.lines:
            console.print(Text(encodable(line)))
        for columns in _parts(table, console.width) if table.columns else ():
            drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
            for name in (table.columns[column] for column in columns):
                right = name in table.right
                side: Any = "right" if right else "left"
                head = Text(encodable(name))
                drawn.add_column(head, justify=side, overflow="fold", no_wrap=right)
            for row in table.rows:
                drawn.add_row(*(Text(encodable(row[column])) for column in columns))
            console.print(drawn)
        for note in table.notes:
            console.print(Text(encodable(note), style="dim"))
        console.print()


def _parts(table: Table, width: int) -> list[list[int]]:
    """The columns of each part: all in one where they fit, else in parts beside the keys."""
    from rich.cells import cell_len

    cells = [table.columns, *table.rows]
    whole = [max(cell_len(encodable(row[i])) for row in cells) for i in range(len(table.columns))]
    folded = [
        each if name in table.right else min(each, FOLDED)
        for name, each in zip(table.columns, whole, strict=True)
    ]
    for widths in (whole, folded):
        parts = [[*range(min(table.keys, len(widths)))]]
        for column in range(len(parts[0]), len(widths)):
            wider = [*parts[-1], column]
            if parts[-1] == parts[0][: table.keys] or _width(widths, wider) <= width:
                parts[-1] = wider
            else:
                parts.append([*parts[0][: table.keys], column])
        fits = all(_width(widths, part) <= width for part in parts)
        if fits and len(parts) <= MOST_PARTS:
            break
    return parts


def _width(widths: list[int], columns: list[int]) -> int:
    return sum(widths[column] + BETWEEN for column in columns) - BETWEEN


def print_markdown(tables: Iterable[Table]) -> None:
    """GitHub's tables under headings."""
    for table in tables:
        print(f"### {_markdown(table.title)}\n")
        for line in table.lines:
            print(f"{_markdown(line)}  ")
        if table.columns:
            rule = ("--:" if name in table.right else "---" for name in table.columns)
            print(f"\n{_markdown_row(table.columns)}\n|{'|'.join(rule)}|")
        for row in table.rows:
            print(_markdown_row(row))
        print()
        for note in table.notes:
            print(f"- {_markdown(note)}")
        print(end="\n" if table.notes else "")


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", encodable(text))


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_markdown(cell) for cell in cells)} |"


def print_csv(records: Sequence[Mapping[str, Any]]) -> None:
    """A line for each record, below one with the names of all their fields.

    Text that a spreadsheet would take for a formula gets a leading quote.
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([_csv(name) for name in columns])
    for record in records:
        writer.writerow([_csv(record.get(name)) for name in columns])


def _csv(cell: Any) -> Any:  # noqa: ANN401  a number, a bool, None or text
    if not isinstance(cell, str):
        return str(cell).lower() if isinstance(cell, bool) else cell
    return encodable(f"'{cell}" if cell.lstrip().startswith(FORMULA) else cell)
