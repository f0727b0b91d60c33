"""What `msngan extractor compare` prints: whether two extractors put the same things in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msngan.report.tables.table import Table, plus_minus, print_as
from msngan.runs.folder import counted

Record = dict[str, Any]
DISTANCES = {"fd": "FD", "kd": "KD"}
SIDES = ("A", "B")
LEGEND = (
    "FD, KD: Fréchet and kernel distance to the reference. rank: from the smallest distance."
    " Spearman: rank correlation of A and B, 1 for the same order; in brackets its 95 % interval,"
    " by bootstrap over kinds of degradation and over runs; none of fewer than 3, or where"
    " both orders are the same. rises: by how many of its strengths, from undisturbed real images"
    " on, the distance grew. Every degradation with its ranks: --format csv, or json."
)


def show(style: str, record: Record) -> None:
    """Print in one of table.FORMATS; CSV has a line for each degradation and generator."""
    print_as(
        style,
        tables=lambda: [*summary(record), Table("Notes", notes=[LEGEND])],
        rows=lambda: [*_lines(record)],
        whole=lambda: record,
    )


def summary(record: Record) -> list[Table]:
    """The correlations, the kinds of degradation, and the generators."""
    a, b = record["extractors"]
    sizes = f"{counted(record['samples'], 'image')} each against {record['reference_images']:,}"
    correlations = Table(
        f"A: {a}, B: {b}",
        ["", "number", "of", "Spearman of FD", "of KD"],
        [
            [name, str(found["fd"]["items"]), f"{found['fd']['groups']} {unit}"]
            + [_spearman(found[distance]) for distance in DISTANCES]
            for name, unit, found in (
                (name, unit, record["correlations"][name])
                for name, unit in (("degradations", "kinds"), ("generators", "runs"))
            )
            if found["fd"]["items"]
        ],
        lines=[f"{record['dataset']}, {record['split']}: {sizes}"],
        right=frozenset({"number"}),
    )
    return [correlations, _kinds(record), *_generators(record)]


def _kinds(record: Record) -> Table:
    columns = ["degradation", "strengths", "FD by A", "FD by B", "rises by A", "by B"]
    rows = []
    for kind in record["kinds"]:
        own = [row for row in record["degradations"] if row["kind"] == kind["kind"]]
        strengths = kind["strengths"]
        cells = [kind["kind"], ", ".join(f"{each:g}" for each in strengths)]
        cells += [", ".join(plus_minus(row["fd"][side]) for row in own) for side in (0, 1)]
        rows.append(cells + [f"{kind['fd'][side]} of {len(strengths)}" for side in (0, 1)])
    undisturbed = " and ".join(plus_minus(each) for each in record["undisturbed"]["fd"])
    lines = [f"Undisturbed images have {undisturbed}."]
    return Table("Kinds of degradation", columns, rows, lines=lines)


def _generators(record: Record) -> list[Table]:
    if not record["generators"]:
        return []
    columns = ["run", "step", *_pairs(DISTANCES)]
    rows = [
        [row["run"], f"{row['step']:,}", *_cells(row, DISTANCES)] for row in record["generators"]
    ]
    return [Table("Generators", columns, rows, right=frozenset(columns[1:]), keys=2)]


def _pairs(names: Iterable[str]) -> list[str]:
    return [
        f"{DISTANCES[name]}{word} by {side}"
        for name in names
        for side in SIDES
        for word in ("", " rank")
    ]


def _cells(row: Record, names: Iterable[str]) -> list[str]:
    return [
        cell
        for name in names
        for value, rank in zip(row[name], row[f"{name}_ranks"], strict=True)
        for cell in (plus_minus(value), f"{rank:g}")
    ]


def _spearman(found: Record) -> str:
    if found["spearman"] is None:
        return "–"
    if found["low"] is None:
        return f"{found['spearman']:.3f}"
    return f"{found['spearman']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _lines(record: Record) -> Iterable[Record]:
    parts = {"undisturbed": [record["undisturbed"]]}
    parts |= {name: record[name] for name in ("degradations", "generators")}
    for part, found in parts.items():
        for row in found:
            yield (
                {"part": part}
                | {
                    (f"{key}_{SIDES[side].lower()}"): each
                    for key, value in row.items()
                    if isinstance(value, list)
                    for side, each in enumerate(value)
                }
                | {key: value for key, value in row.items() if not isinstance(value, list)}
            )
