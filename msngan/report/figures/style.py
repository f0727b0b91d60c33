"""The look of every figure: colours, lines, panels, legend and small print.

The same records give the same bytes. Colours: Okabe & Ito 2008, "Color Universal Design", without
yellow, which print loses. Each line also has its own dash pattern and marker, for print in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from msngan.report.figures.quantities import Curve
from msngan.runs.atomic import replacing

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#595959")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (1.2, 1.4)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (11, 2.5)),
    (0, (6, 1.2, 3, 1.2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # whole TrueType fonts, which journals ask for
    "svg.hashsalt": "msngan",
    "savefig.dpi": 200,
}
# Without the time of writing, which would change the bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": "msngan", "Producer": None},
    "svg": {"Date": None, "Creator": "msngan"},
}
LINE, SMALL = 0.165, 0.135  # inches of a line of the legend and of the small print
SMALL_SIZE = 7  # points
NOTHING = "not recorded for this layer"
STEPS = (1, 2, 2.5, 5, 10)  # between the ticks of these
COUNTED = ("step", "log index", "index", "epoch")  # axes of whole numbers


@dataclass(frozen=True)
class Style:
    colour: str
    dash: Any
    marker: str

    def line(self, label: str = "") -> Line2D:
        """A line for a legend."""
        look: Any = {"color": self.colour, "linestyle": self.dash, "marker": self.marker}
        return Line2D([], [], label=label, **look)


def style(index: int) -> Style:
    """56 styles that differ in colour or dash pattern; the first eight in colour and marker."""
    return Style(
        COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
    )


@contextmanager
def settings() -> Iterator[None]:
    """Use SETTINGS alone, without a user's matplotlibrc; restores the settings before."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        ours: Any = matplotlib.rcParams
        ours.update(SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` atomically, within `settings`; the format follows from the suffix."""
    if figure.get_layout_engine():  # its solver leaves other last digits in other processes
        figure.set_dpi(SETTINGS["savefig.dpi"])
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            left, bottom, width, height = np.round(axes.get_position().bounds, 5)
            axes.set_position((left, bottom, width, height))
    kind = path.suffix[1:].lower()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=METADATA[kind])


class Sheet:
    """One figure: a grid of panels, the legend above, the small print below.

    entries: the legend, as (label, style). Sizes are in inches. aside: the width of legends on the
    right. letters: how many fit in a line of a panel's title.
    """

    def __init__(
        self,
        title: str,
        entries: Sequence[tuple[str, Style]],
        notes: Sequence[str],
        shape: tuple[int, int],
        panel: tuple[float, float] = (3.4, 2.1),
        aside: float = 0,
    ) -> None:
        rows, columns = shape
        self.letters = int((panel[0] - 0.72) * 14.9)
        width = max(panel[0] * columns, 6.8) + aside
        per_line = max(1, int(width / (0.55 + 0.06 * max(len(label) for label, _ in entries))))
        lines = -(-len(entries) // per_line)
        small = [line for note in notes for line in textwrap.wrap(note, int(width * 19))]
        top, bottom = 0.34 + LINE * lines + 0.08, SMALL * len(small) + 0.08
        height = panel[1] * rows + top + bottom
        self.figure = new_figure(width, height)
        engine: Any = self.figure.get_layout_engine()
        engine.set(rect=(0, bottom / height, 1, 1 - (top + bottom) / height), wspace=0.06)
        self.axes: Any = self.figure.subplots(rows, columns, squeeze=False)
        self.figure.text(0.08 / width, 1 - 0.07 / height, title, va="top", weight="bold", size=10)
        self.figure.legend(
            handles=[look.line(label) for label, look in entries],
            loc="upper left",
            bbox_to_anchor=(0.02 / width, 1 - 0.3 / height),
            ncols=per_line,
            handlelength=3.2,
            columnspacing=1.4,
            labelspacing=0.25,
            borderpad=0.1,
        ).set_in_layout(False)
        for number, line in enumerate(small, start=1):
            place = (0.06 + SMALL * (len(small) - number)) / height
            self.figure.text(0.08 / width, place, line, size=SMALL_SIZE, color="#444444")


def finish(axes: Axes, heading: str, below: str, across: str, up: str) -> bool:
    """Add the title, the layer or network below it, and both labels.

    Returns whether the panel shows anything; an empty one says so.
    """
    axes.set_title(f"{heading}\n{below}" if below else heading)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if across.startswith(COUNTED):
        axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", steps=STEPS, integer=True))
    shown = bool(axes.lines or axes.collections or axes.patches)
    if not shown:
        axes.text(0.5, 0.5, NOTHING, transform=axes.transAxes, ha="center", color="#666666")
        axes.set_xticks([])
        axes.set_yticks([])
    return shown


def line(axes: Axes, curve: Curve, look: Style, thick: float = 1.5, marks: bool = True) -> None:
    """A curve with its interval; markers at every point of a few, else at about six."""
    if not np.isfinite(curve.y).any():
        return
    every = max(1, len(curve.x) // 6)
    first = every * MARKERS.index(look.marker) // len(MARKERS)  # lines may lie on each other
    drawn: Any = {"color": look.colour, "linestyle": look.dash, "linewidth": thick}
    if marks:
        drawn |= {"marker": look.marker, "markevery": (first, every)}
    axes.plot(curve.x, curve.y, **drawn)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.15, lw=0)


def ring(axes: Axes, x: float, y: float, look: Style) -> None:
    """A circle around a point."""
    axes.plot([x], [y], "o", markersize=8, mfc="none", mec=look.colour, mew=1.1)


def logarithmic(axes: Axes) -> None:
    """A log scale upwards, with more ticks than powers of ten where it spans little."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 300:
        plain = low > 1e-4 and high < 1e5
        every = ticker.LogFormatterSciNotation(minor_thresholds=(float("inf"), float("inf")))
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 6 else (1, 2, 5)
        narrow = high / low < 2  # none of these may lie inside
        axes.yaxis.set_major_locator(
            ticker.MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else ticker.LogLocator(subs=subs)
        )
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g") if plain else every)
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def on_zero(axes: Axes) -> None:
    """The upright axis of a quantity that is never below 0."""
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
