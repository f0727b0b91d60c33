"""`msngan params`: Table III of the paper from built networks, and what each norm adds to them.

Subramanian & Chong 2019, arXiv:1907.04003.
"""

from __future__ import annotations

from dataclasses import asdict, fields

from msngan.commands.params_forms import (
    CODE,
    PAPERS_NORMS,
    REBUILT,
    SHAPES,
    TABLE_III,
    Count,
    counts,
)
from msngan.commands.parser import Parser
from msngan.report.tables.table import FORMATS, Table, print_as
from msngan.runs import bounds as checks
from msngan.runs.folder import UserError

DESCRIPTION = """\
Count the parameters of the paper's networks under its norms, and their buffers: values that are
kept but not trained. Each network is built and run once on two images. Beside them the twelve
counts of Table III of the paper (arXiv:1907.04003), and the forms of the networks that have them.
Of a single network every norm is counted."""

OPTIONS = ("width", "size", "channels")
HEADINGS = {"default": "genuine", CODE: "their code"}
LEGEND = {
    "as_released": "as_released: the networks of the authors' code, without a gain, which Table III"
    " counts; = marks the same number.",
    "rebuilt": "rebuilt: in the form that Table III counts, see below; = marks the same number.",
    "default": "genuine: the norm on every layer, and no bias that it cancels; vs none and buffers"
    " (values that are kept but not trained) are of this form.",
    "conv_bias": "conv_bias: genuine, with the biases that the norm cancels.",
    "after_layer": "after_layer: genuine, with the norm on what each convolution puts out, as in"
    " the paper's equations 6 and 7, and not before each activation.",
    CODE: "their code: what the authors' code counts; its MSN has a gain.",
}


def parser() -> Parser:
    made = Parser(prog="msngan params", description=DESCRIPTION)
    made.add_argument(
        "--network", choices=[*SHAPES], help="only this one (default: those of Table III)"
    )
    made.add_argument(
        "--all-norms", action="store_true", help="every norm, also where all networks are counted"
    )
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    for name in OPTIONS:
        made.add_argument(
            f"--{name}",
            type=int,
            help="of the network (without --network: of the critic); default: as in Table III",
        )
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    given = {name: getattr(args, name) for name in OPTIONS}
    for name, value in given.items():
        checks.at_least(f"--{name}", value, 1)
    changed = {name: value for name, value in given.items() if value is not None}
    single = args.network or ("critic" if changed else None)
    try:
        tables = {
            network: counts(network, SHAPES[network] | changed, norms(args.all_norms or single))
            for network in ([single] if single else TABLE_III)
        }
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    every = [row for rows in tables.values() for row in rows]
    records = [asdict(row) for row in every]
    print_as(
        args.format,
        tables=lambda: [legend(every), *map(table, tables.values())],
        rows=lambda: ([each.name for each in fields(Count)], records),
        whole=lambda: {"format": 2, "rows": records},
    )
    return 0


def norms(every: object) -> list[str]:
    """Their names; those of Table III, or all."""
    from msngan.norms import NORMS

    return [name for name in NORMS if every or name in PAPERS_NORMS]


def legend(rows: list[Count]) -> Table:
    shown = {row.form for row in rows}
    return Table(
        title="Parameters of networks under norms, beside Table III of arXiv:1907.04003",
        lines=[line for form, line in LEGEND.items() if form in shown],
    )


def table(rows: list[Count]) -> Table:
    """A row a norm and a column a form, those beyond the default last."""
    about = rows[0]
    found = {(row.norm, row.form): row for row in rows}
    present = list(dict.fromkeys(row.form for row in rows))
    rebuilt = [form for form in present if form in REBUILT]
    extra = [form for form in LEGEND if form in present and form not in (*rebuilt, "default")]
    published = any(row.table_iii for row in rows)
    columns = ["norm", *(["Table III"] if published else []), *rebuilt, "genuine", "vs none"]
    columns += ["buffers", *(HEADINGS.get(form, form) for form in extra)]
    made = []
    for norm in dict.fromkeys(row.norm for row in rows):
        own = found[norm, "default"]
        paper = [found.get((norm, form)) for form in rebuilt]
        told = next((row.table_iii for row in paper if row), None)
        cells = [norm, *([number(told)] if published else []), *map(marked, paper)]
        more = f"{own.against_none:+,}" if own.against_none else number(own.against_none)
        cells += [number(own.parameters), more, number(own.buffers)]
        others = [found.get((norm, form)) for form in extra]
        made.append([*cells, *(number(row.parameters) if row else "" for row in others)])
    return Table(
        title=f"{about.network}: width {about.width},"
        f" images of {about.channels} x {about.size} x {about.size}",
        columns=columns,
        rows=made,
        right=frozenset(columns[1:]),
        extra=len(extra),
        keys=1,
        notes=notes(rows),
    )


def notes(rows: list[Count]) -> list[str]:
    """What is to be said of single rows; what a norm refuses in all forms is said once."""
    said = {(row.norm, row.note): row for row in reversed(rows) if row.note}
    ordered = sorted(said.values(), key=rows.index)
    return [f"{row.norm}, {HEADINGS.get(row.form, row.form)}: {row.note}." for row in ordered]


def marked(row: Count | None) -> str:
    """The count, marked where it is the published one."""
    if row is None:
        return ""
    same = row.parameters is not None and row.parameters == row.table_iii
    return ("= " if same else "") + number(row.parameters)


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
