"""The pictures of `msngan bench`, drawn from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msngan.report.figures.style import COLOURS, new_figure, save, settings
from msngan.report.tables.bench_tables import by_median, lower_bounds, measured
from msngan.runs.folder import counted

OURS, REFERENCE, BOUND = COLOURS[1], COLOURS[2], COLOURS[7]
WORDS = {
    "norms": ("ratio", "time of the critic's forward, backward and update, relative to no norm"),
    "step": ("throughput", "GAN steps per second, relative to the plain loop"),
}
ACROSS = 2  # panels of `bench sigma` side by side

Record = dict[str, Any]


def draw(record: Record, path: Path) -> None:
    """Write the picture of a record; the format follows from the file's suffix."""
    with settings():
        figure = _sigma(record) if record["benchmark"] == "sigma" else _ratios(record)
        save(figure, path)


def _ratios(record: Record) -> Any:  # noqa: ANN401  a figure
    """A dot for the median of each variant, with its interval; the fastest at the top."""
    key, label = WORDS[record["benchmark"]]
    bounds = lower_bounds(record)
    rows = by_median(record, key)[::-1]
    figure = new_figure(9, 1.3 + 0.25 * len(rows))
    axes = figure.subplots()
    axes.axvline(1, color="#999999", linewidth=1, zorder=1)
    for height, row in enumerate(rows):
        found = row[key]
        kind = "PyTorch" if row["kind"] == "reference" else "msngan"
        colour = REFERENCE if kind == "PyTorch" else OURS
        axes.hlines(height, found["low"], found["high"], color=colour, linewidth=2, zorder=2)
        axes.plot(found["median"], height, "o", color=colour, markersize=5, zorder=3, label=kind)
        axes.annotate(
            f"{found['median']:.3f}",
            (max(found["high"], found["median"]), height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
        )
        if row["name"] in bounds:
            bound = bounds[row["name"]]["ratio"]
            axes.plot(bound, height, "|", color=BOUND, markersize=14, label="lower bound")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"{label}: median with its 95% interval")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title("\n".join(measured(record)))
    return figure


def _sigma(record: Record) -> Any:  # noqa: ANN401  a figure
    """How far sigma(W') is from what a norm promises, by step; a panel for each recipe."""
    recipes: dict[str, list[Record]] = {}
    for row in record["results"]:
        recipes.setdefault(row["recipe"], []).append(row)
    across = min(ACROSS, len(recipes))
    down = -(-len(recipes) // across)
    figure = new_figure(4.2 * across, 0.9 + 2.3 * down)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes, (recipe, rows) in zip(panels.flat, recipes.items(), strict=False):
        axes.axhspan(1, record["allowed"], color="#e3e3e3", linewidth=0)
        for row in rows:
            ours = row["kind"] == "norm"
            own = f"{counted(row['vectors'], 'vector')}, one or more iterations"
            axes.plot(
                row["steps"],
                row["sigma"],
                color=OURS if ours else REFERENCE,
                linewidth=1.4 if ours else 1.0,
                zorder=3 if ours else 2,
                label=f"{own if ours else row['estimator']}: {100 * row['cost']['median']:.1f} %",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_title(recipe)
        title = "cost of an update / forward + backward"
        axes.legend(loc="upper left", title=title, alignment="left")
    for axes in panels.flat[len(recipes) :]:
        axes.set_visible(False)
    for column in range(across):
        panels[(len(recipes) - 1 - column) // across, column].set_xlabel("critic updates")
    top = max(value for row in record["results"] for value in row["sigma"])
    panels[0, 0].set_ylim(top=1 + 1.6 * (max(top, record["allowed"]) - 1))  # for the legends
    figure.supylabel("largest singular value of W' over all layers", fontsize=8.5)
    bound = f"1 where sigma is exact; grey: up to {record['allowed']}"
    words = [f"Weights in training over the bound of their norm: {bound}"]
    words += measured(record)
    figure.suptitle("\n".join(words), fontsize=8.5, x=0.01, ha="left")
    return figure
