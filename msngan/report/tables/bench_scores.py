"""The tables of `msngan bench scores`."""

from __future__ import annotations

from collections.abc import Iterator

from msngan.report.tables.bench import LEGEND, Record, lines_about, references, spread
from msngan.report.tables.table import Table

GOAL_LEGEND = "goal: reached if the whole interval is at least as large, missed if it is smaller."


def score_tables(record: Record) -> Iterator[Table]:
    if any("ratio" in row for row in record["results"]):
        yield _computations(record)
    if any("share" in row for row in record["results"]):
        yield _shares(record)


def _computations(record: Record) -> Table:
    sizes = record["settings"]
    columns = ["computation", "time / ours", "95%", "goal", "verdict"]
    extra = ["of minima", "value"]
    rows = []
    for row in record["results"]:
        if "ratio" in row:
            *ratio, minima = spread(row["ratio"])
            rows.append([row["name"], *ratio, *_goal(row, "ratio"), minima, f"{row['value']:.9g}"])
    parts = [
        f"frechet: of {sizes['samples']} fakes, {sizes['dimensions']} features, the reference's"
        f" moments and root at hand. low-rank: the same of {sizes['few']} fakes.",
        f"kernel: {sizes['samples']} fakes against {sizes['kept']} real rows; ours every pair once,"
        f" torch-fidelity's {sizes['subsets']} subsets of {sizes['subset_size']} of each.",
    ]
    return Table(
        "The arithmetic of scores",
        [*columns, *extra],
        rows,
        lines_about(record, "float64, simulated features"),
        [*LEGEND, *parts, *references(record), GOAL_LEGEND],
        right=frozenset({*columns, *extra} - {"computation", "verdict"}),
        extra=len(extra),
        keys=1,
    )


def _shares(record: Record) -> Table:
    sizes = record["settings"]
    columns = ["time of", "share", "95%", "goal", "verdict"]
    rows = [
        [row["by"], *spread(row["share"])[:2], *_goal(row, "share")]
        for row in record["results"]
        if "share" in row
    ]
    about = (
        f"{sizes['runs']} x {sizes['samples']} images, a DCGAN generator of width {sizes['width']},"
        f" {record['extractor']}, every metric, {sizes['kept']} real images with a warm cache."
        " Times on the wall."
    )
    return Table(
        "Where an evaluation's time goes",
        columns,
        rows,
        lines_about(record, "float32 networks, float64 scores"),
        [about, GOAL_LEGEND],
        right=frozenset({"share", "95%", "goal"}),
    )


def _goal(row: Record, key: str) -> list[str]:
    """Cells: goal, verdict."""
    goal, found = row["goal"], row[key]
    if goal is None:
        return ["", ""]
    if found["low"] >= goal:
        return [f"{goal:g}", "reached"]
    return [f"{goal:g}", "missed" if found["high"] < goal else "open: more rounds"]
