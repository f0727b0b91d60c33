"""A dot plot of a benchmark's ratios with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msngan.runs.atomic import replacing

OURS, REFERENCE, FLOOR = "#1f5fa8", "#b0562c", "#555555"
WORDS = {
    "norms": ("ratio", "time of the critic's forward + backward + update, relative to none"),
    "step": ("throughput", "GAN steps per second, relative to the plain loop"),
    "fold": ("ratio", "time of inference, relative to a critic without a norm"),
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture of a record; its kind follows from the file's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key, label = WORDS[record["benchmark"]]
    rows = sorted(record["results"], key=lambda row: row[key]["median"], reverse=key == "ratio")
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(1, color="#999999", linewidth=1, zorder=1)
    for height, row in enumerate(rows):
        _dot(axes, height, row, row[key])
    _floors(axes, record, rows)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(label)
    axes.set_title(_title(record), fontsize=9, loc="left")
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(*_legend(record), loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=140)


def _dot(axes: Any, height: int, row: dict[str, Any], ratio: dict[str, float]) -> None:
    colour = REFERENCE if row["kind"] == "reference" else OURS
    axes.hlines(height, ratio["low"], ratio["high"], color=colour, linewidth=2, zorder=2)
    axes.plot(ratio["median"], height, "o", color=colour, markersize=6, zorder=3)
    axes.annotate(
        f"{ratio['median']:.3f}",
        (max(ratio["high"], ratio["median"]), height),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )


def _floors(axes: Any, record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    known = record.get("floors", {}).get("norms", {})
    for height, row in enumerate(rows):
        if row["name"] in known:
            axes.plot(known[row["name"]]["ratio"], height, "|", color=FLOOR, markersize=16)


def _legend(record: dict[str, Any]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=OURS, marker="o"), Line2D([], [], color=REFERENCE, marker="o")]
    names = ["msngan", "PyTorch's"]
    if record["benchmark"] == "fold":
        return marks[:1], names[:1]
    if record["benchmark"] == "norms":
        marks.append(Line2D([], [], color=FLOOR, marker="|", linestyle="", markersize=12))
        names.append("floor")
    return marks, names


def _title(record: dict[str, Any]) -> str:
    hardware, settings = record["hardware"], record["settings"]
    device = hardware["gpu"] if settings["device"] == "cuda" else hardware["processor"]
    where = f"{device}, {record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    what = f"width {settings['width']}, batch {settings['batch']}"
    if record["benchmark"] != "step":
        what += f", {settings['dtype']}"
    return (
        f"{where}, torch {record['versions']['torch']}; {what}\n"
        f"median of {record['rounds']} interleaved rounds with its 95% interval"
    )
