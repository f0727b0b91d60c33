"""The figure of `msngan bench sigma`: how far sigma(W') is from what a norm promises, by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msngan.report.figures.style import COLOURS, METADATA, settings
from msngan.runs.atomic import replacing

OURS, REFERENCE = COLOURS[1], COLOURS[2]
ACROSS = 2  # recipes side by side


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture of a record, a panel for each recipe; its kind follows from the suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recipes: dict[str, list[dict[str, Any]]] = {}
    for row in record["results"]:
        recipes.setdefault(row["recipe"], []).append(row)
    across = min(ACROSS, len(recipes))
    down = -(-len(recipes) // across)
    kind = path.suffix[1:].lower()
    with settings():
        figure = Figure(figsize=(4.2 * across, 0.9 + 2.3 * down), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes, (recipe, rows) in zip(panels.flat, recipes.items(), strict=False):
            _panel(axes, recipe, rows, record["allowed"])
        for axes in panels.flat[len(recipes) :]:
            axes.set_visible(False)
        for column in range(across):
            last = (len(recipes) - 1 - column) // across
            panels[last, column].set_xlabel("critic updates")
        top = max(value for row in record["results"] for value in row["sigma"])
        panels[0, 0].set_ylim(top=1 + 1.6 * (max(top, record["allowed"]) - 1))  # for the legends
        figure.supylabel("largest singular value of W' over all layers", fontsize=8.5)
        figure.suptitle(_title(record), fontsize=8.5, x=0.01, ha="left")
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=METADATA[kind])


def _panel(axes: Any, recipe: str, rows: list[dict[str, Any]], allowed: float) -> None:
    axes.axhspan(1, allowed, color="#e3e3e3", linewidth=0)
    for row in rows:
        ours = row["kind"] == "norm"
        cost = f"{100 * row['cost']['median']:.1f} %"
        axes.plot(
            row["steps"],
            row["sigma"],
            color=OURS if ours else REFERENCE,
            linewidth=1.4 if ours else 1.0,
            zorder=3 if ours else 2,
            label=f"{_estimator(row)}: {cost}",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(recipe)
    axes.legend(loc="upper left", title="cost of an update / forward + backward", alignment="left")


def _estimator(row: dict[str, Any]) -> str:
    if row["kind"] == "reference":
        return "one vector, one iteration"
    return f"{row['vectors']} vectors, one or more iterations"


def _title(record: dict[str, Any]) -> str:
    hardware, settings_of = record["hardware"], record["settings"]
    device = hardware["gpu"] if settings_of["device"] == "cuda" else hardware["processor"]
    threads = record["threads"]
    return (
        "Weights in training over what the norm bounds them to: 1 where sigma is exact; grey: up to"
        f" {record['allowed']}\n"
        f"width {settings_of['width']}, seed {settings_of['seed']}; {device}, {threads}"
        f" thread{'s' if threads > 1 else ''}, torch {record['versions']['torch']}"
    )
