"""The tables of `msngan params`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msngan.bench.settings import REBUILT
from msngan.report.tables.table import Table

# What each form is called in a heading, and what it is.
HEADINGS = {"default": "genuine", "code": "their code"}
LEGEND = {
    "as_released": "as_released: the networks of the authors' code, without a gain, which Table III"
    " counts; = marks the same number.",
    "rebuilt": "rebuilt: in the form that Table III counts, see below; = marks the same number.",
    "default": "genuine: the norm on every layer, and no bias that it cancels; vs none and buffers"
    " (values that are stored but not trained) are of this form.",
    "conv_bias": "conv_bias: genuine, with the biases that the norm cancels.",
    "after_layer": "after_layer: genuine, with the norm on the output of each convolution, as in"
    " the paper's equations 6 and 7, and not before each activation.",
    "code": "their code: what the authors' code counts; its MSN has a gain.",
}

Row = dict[str, Any]


def params_tables(rows: list[Row]) -> Iterator[Table]:
    """The legend, then one table a network. rows: of `msngan.bench.parameters.Count`."""
    shown = {row["form"] for row in rows}
    yield Table(
        "Parameters of networks under norms, beside Table III of arXiv:1907.04003",
        lines=[line for form, line in LEGEND.items() if form in shown],
    )
    for network in dict.fromkeys(row["network"] for row in rows):
        yield _network([row for row in rows if row["network"] == network])


def _network(rows: list[Row]) -> Table:
    """A row for each norm and a column for each form, those beyond the default last."""
    found = {(row["norm"], row["form"]): row for row in rows}
    present = list(dict.fromkeys(row["form"] for row in rows))
    rebuilt = [form for form in present if form in REBUILT]
    extra = [form for form in LEGEND if form in present and form not in (*rebuilt, "default")]
    published = {row["norm"]: row["table_iii"] for row in rows if row["table_iii"]}
    columns = ["norm", *(["Table III"] if published else []), *rebuilt, "genuine", "vs none"]
    columns += ["buffers", *(HEADINGS.get(form, form) for form in extra)]
    cells = []
    for norm in dict.fromkeys(row["norm"] for row in rows):
        own, told = found[norm, "default"], published.get(norm)
        more = own["against_none"]
        counts = {form: found.get((norm, form), {}).get("parameters") for form in present}
        line = [norm, *([_number(told)] if published else [])]
        line += [_number(counts[form], told) for form in rebuilt]
        line += [_number(own["parameters"]), f"{more:+,}" if more else _number(more)]
        cells.append([*line, _number(own["buffers"]), *(_number(counts[form]) for form in extra)])
    # A note that holds for several forms of a norm is shown once, at the first.
    notes: dict[tuple[str, str], str] = {}
    for row in rows:
        if row["note"]:
            form = str(row["form"])
            notes.setdefault((row["norm"], row["note"]), HEADINGS.get(form, form))
    about = rows[0]
    images = f"{about['channels']} x {about['size']} x {about['size']}"
    return Table(
        f"{about['network']}: width {about['width']}, images of {images}",
        columns,
        cells,
        notes=[f"{norm}, {form}: {note}." for (norm, note), form in notes.items()],
        right=frozenset(columns[1:]),
    )


def _number(value: int | None, published: int | None = None) -> str:
    """The count, marked by = if it is the published one."""
    if value is None:
        return ""
    return f"= {value:,}" if value == published else f"{value:,}"
