"""Tables for a terminal, Markdown and CSV. Cells may hold anyone's text: each format escapes it."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

FORMATS = ("table", "json", "csv", "md")
BETWEEN = 3  # characters between two columns of a terminal's table
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # a spreadsheet would run the cell


@dataclass(frozen=True)
class Table:
    """Text cells under a title, with lines above and notes below.

    right: the columns set to the right, by name. extra: how many of the last columns go to further
    tables, beside the first `keys` columns, where a terminal is too narrow for all of them. urls:
    a page turns the addresses in the notes into links; only for texts of this package.
    """

    title: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    right: frozenset[str] = frozenset()
    extra: int = 0
    keys: int = 0
    urls: bool = False


Tables = Callable[[], Iterable[Table]]
Rows = Callable[[], tuple[Iterable[str], Iterable[Mapping[str, Any]]]]


def plus_minus(mean: float | None, sd: float | None = None) -> str:
    """Four significant digits of the mean, and the spread to the same place: 12.30±0.20."""
    if mean is None:
        return "failed"
    size = abs(mean)
    form = ".3e" if size and not 1e-4 <= size < 1e6 else f".{_decimals(size)}f"
    return f"{mean:{form}}" + ("" if sd is None else f"±{sd:{form}}")


def _decimals(size: float) -> int:
    return max(0, 3 - math.floor(math.log10(size))) if size else 1


def encodable(text: str) -> str:
    """The text without unprintable characters; what standard output cannot encode is replaced."""
    text = "".join(each if each.isprintable() else " " for each in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    return text


def print_terminal(tables: Iterable[Table]) -> None:
    """By rich, as wide as the terminal, 80 columns where there is none."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for table in tables:
        console.print(Text(encodable(table.title), style="bold"))
        for line in table.lines:
            console.print(Text(encodable(line)))
        whole = _rich(table, range(len(table.columns)))
        if table.extra and _width(console, whole) > console.width:
            for columns in _parts(table, console.width):
                console.print(_rich(table, columns))
        elif table.columns:
            console.print(whole)
        for note in table.notes:
            console.print(Text(encodable(note), style="dim"))
        console.print()


def _rich(table: Table, columns: Iterable[int]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    chosen = list(columns)
    for column in chosen:
        name = table.columns[column]
        right = name in table.right
        drawn.add_column(
            Text(encodable(name)),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in table.rows:
        drawn.add_row(*(Text(encodable(row[column])) for column in chosen))
    return drawn


def _parts(table: Table, width: int) -> Iterator[list[int]]:
    """The columns of each table: all but the extra ones, then as many of those as fit."""
    from rich.cells import cell_len

    def wide(column: int) -> int:
        cells = [table.columns[column], *(row[column] for row in table.rows)]
        longest = max(cell_len(encodable(cell)) for cell in cells)
        # a column set to the left folds
        return BETWEEN + (longest if table.columns[column] in table.right else min(longest, 20))

    first = len(table.columns) - table.extra
    yield list(range(first))
    keys = list(range(table.keys))
    chosen = keys
    for column in range(first, len(table.columns)):
        if chosen != keys and sum(map(wide, [*chosen, column])) > width + BETWEEN:
            yield chosen
            chosen = keys
        chosen = [*chosen, column]
    yield chosen


def _width(console: Console, table: RichTable) -> int:
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def print_markdown(tables: Iterable[Table]) -> None:
    """GitHub's tables under headings."""
    for table in tables:
        print(f"### {_markdown(table.title)}\n")
        for line in table.lines:
            print(f"{_markdown(line)}  ")
        if table.columns:
            print(f"\n{_markdown_row(table.columns)}")
            print(
                f"|{'|'.join('--:' if name in table.right else '---' for name in table.columns)}|"
            )
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


def print_csv(columns: Iterable[str], records: Iterable[Mapping[str, Any]]) -> None:
    """One header line; text that a spreadsheet would take for a formula starts with a quote."""
    columns = list(columns)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([_csv(name) for name in columns])
    for record in records:
        writer.writerow([_csv(record.get(name)) for name in columns])


def _csv(cell: Any) -> Any:  # noqa: ANN401  a number, a bool, None or text
    if not isinstance(cell, str):
        return str(cell).lower() if isinstance(cell, bool) else cell
    return encodable(f"'{cell}" if cell.lstrip().startswith(FORMULA) else cell)


def print_as(style: str, *, tables: Tables, rows: Rows, whole: Callable[[], Any]) -> None:
    """In one of FORMATS; only what that one shows is made.

    tables: for a terminal and Markdown. rows: columns and records, for CSV. whole: for JSON.
    """
    if style == "json":
        print_json(whole())
    elif style == "csv":
        print_csv(*rows())
    else:
        (print_markdown if style == "md" else print_terminal)(tables())


def print_json(value: Any) -> None:  # noqa: ANN401  any JSON value
    """Strict JSON, in ASCII."""
    print(json.dumps(value, indent=2, allow_nan=False))
