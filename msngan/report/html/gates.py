"""gates.jsonl: which layers of `optional_spectral` are normalised, and when that changed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from msngan.report.html.chart import Chart, Series, grid
from msngan.report.html.markup import folded, note, numbers, shown
from msngan.report.html.records import Records, whole
from msngan.report.html.thin import number

MOST_LAYERS = 8
MOST_ROWS = 100


def gates_html(records: Records) -> str:
    """Empty for a run without gates."""
    if records.gates is None:
        return ""
    lines = [line for line in records.gates.records if whole(line.get("step")) is not None]
    if not lines:
        return note("No gate has changed yet.")
    layers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        layers[str(line.get("layer"))].append(line)
    rows = [
        [
            name,
            str(len(changes)),
            f"{changes[0]['step']:,}",
            f"{changes[-1]['step']:,}",
            "on" if changes[-1].get("on") is True else "off",
        ]
        for name, changes in [*layers.items()][:MOST_ROWS]
    ]
    header = ["layer", "changes", "first at step", "last at step", "now"]
    return (
        grid([_factors(layers)]) + numbers(header, rows) + folded("The last changes", _last(lines))
    )


def _factors(layers: dict[str, list[dict[str, Any]]]) -> Chart:
    series = [
        Series(
            name, [line["step"] for line in lines], [number(each.get("sigma")) for each in lines]
        )
        for name, lines in [*layers.items()][:MOST_LAYERS]
    ]
    return Chart("Factor sigma at each change of a gate", series)


def _last(lines: list[dict[str, Any]]) -> str:
    rows = [
        [
            str(line.get("layer")),
            f"{line['step']:,}",
            "on" if line.get("on") is True else "off",
            str(line.get("criterion")),
            shown(number(line.get("value"))),
            shown(number(line.get("sigma"))),
        ]
        for line in lines[-MOST_ROWS:]
    ]
    return numbers(["layer", "step", "to", "criterion", "value", "sigma"], rows)
