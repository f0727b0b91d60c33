"""The table of `msngan bench classify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msngan.report.tables.bench import LEGEND, lines_about, references, spread
from msngan.report.tables.table import Table

Record = dict[str, Any]
COLUMNS = ["norm", "steps", "95%", "of minima", "faster", "the paper"]


def classify_tables(record: Record) -> Iterator[Table]:
    """One a network and layout: steps a second over batch norm's, the paper's claims beside."""
    for network in record["settings"]["networks"]:
        for layout in dict.fromkeys(row["layout"] for row in record["results"]):
            rows = [
                row
                for row in record["results"]
                if (row["network"], row["layout"]) == (network, layout)
            ]
            what = f"batch {rows[0]['batch']}, {record['settings']['dtype']}"
            yield Table(
                f"Training steps of {network}, {layout}, a second over those of batch norm",
                COLUMNS,
                [_cells(row, record["claims"]) for row in sorted(rows, key=_slowness)],
                lines_about(record, what),
                [*LEGEND, *references(record), CLAIM],
                right=frozenset(COLUMNS[1:]),
            )


def _slowness(row: Record) -> float:
    return -row["throughput"]["median"]


CLAIM = (
    "the paper: arXiv:1907.04003, section IV-B, says how much faster than batch norm; no machine,"
    " batch or repetition is given, and nothing that was released measures it."
)


def _cells(row: dict[str, Any], claims: dict[str, int]) -> list[str]:
    found = row["throughput"]
    claim = f"{claims[row['norm']]:+d} %" if row["norm"] in claims else ""
    faster = f"{100 * (found['median'] - 1):+.1f} %" if row["norm"] != "batch" else ""
    return [row["norm"], *spread(found), faster, claim]
