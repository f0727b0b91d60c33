"""One figure: a grid of panels, the legend above and the small print below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from msngan.report.figures.quantities import Curve
from msngan.report.figures.style import MARKERS, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.165  # inches of a legend's line
SMALL = 0.135  # inches of a line of small print
SMALL_SIZE = 7  # points
COUNTED = ("step", "log index", "index", "epoch")  # axes of whole numbers
NOTHING = "not recorded for this layer"


class Sheet:
    """`axes` is (rows, columns). entries: the legend, as (label, style). Sizes are inches.

    aside: the width of legends on the right, which the panels keep clear of.
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
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows, columns = shape
        self.letters = int((panel[0] - 0.72) * 14.9)  # of a title's line
        width = max(panel[0] * columns, 6.8) + aside
        per_line = max(1, int(width / (0.55 + 0.06 * max(len(label) for label, _ in entries))))
        lines = -(-len(entries) // per_line)
        small = [line for note in notes for line in textwrap.wrap(note, int(width * 19))]
        top, bottom = 0.34 + LINE * lines + 0.08, SMALL * len(small) + 0.08
        height = panel[1] * rows + top + bottom
        self.figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self.figure)
        engine: Any = self.figure.get_layout_engine()
        engine.set(rect=(0, bottom / height, 1, 1 - (top + bottom) / height), wspace=0.06)
        self.axes: Any = self.figure.subplots(rows, columns, squeeze=False)
        self.figure.text(0.08 / width, 1 - 0.07 / height, title, va="top", weight="bold", size=10)
        self._legend(entries, per_line, 1 - 0.3 / height, 0.02 / width)
        for number, line in enumerate(small, start=1):
            place = (0.06 + SMALL * (len(small) - number)) / height
            self.figure.text(0.08 / width, place, line, size=SMALL_SIZE, color="#444444")

    def _legend(
        self, entries: Sequence[tuple[str, Style]], per_line: int, top: float, left: float
    ) -> None:
        from matplotlib.lines import Line2D

        handles = [
            Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker, label=label)
            for label, s in entries
        ]
        self.figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(left, top),
            ncols=per_line,
            handlelength=3.2,
            columnspacing=1.4,
            labelspacing=0.25,
            borderpad=0.1,
        ).set_in_layout(False)

    def finish(self, axes: Axes, heading: str, below: str, across: str, up: str) -> None:
        """Title, the layer or network below it, and both labels; an empty panel says so."""
        from matplotlib.ticker import MaxNLocator

        axes.set_title(f"{heading}\n{below}" if below else heading)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if across.startswith(COUNTED):
            axes.xaxis.set_major_locator(
                MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True)
            )
        if not (axes.lines or axes.collections or axes.patches):
            axes.text(0.5, 0.5, NOTHING, transform=axes.transAxes, ha="center", color="#666666")
            axes.set_xticks([])
            axes.set_yticks([])


def line(axes: Axes, curve: Curve, look: Style, thick: float = 1.5, marks: bool = True) -> None:
    """A curve with its interval; markers at every point of a few, else at about six."""
    if not np.isfinite(curve.y).any():
        return
    every = max(1, len(curve.x) // 6)
    first = every * MARKERS.index(look.marker) // len(MARKERS)  # lines may lie on each other
    axes.plot(
        curve.x,
        curve.y,
        color=look.colour,
        linestyle=look.dash,
        linewidth=thick,
        marker=look.marker if marks else None,
        markevery=(first, every),
    )
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.15, lw=0)


def logarithmic(axes: Axes) -> None:
    """A log scale upwards, with more ticks than powers of ten where it spans little."""
    from matplotlib.ticker import (
        FormatStrFormatter,
        LogFormatterSciNotation,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 300:
        plain = low > 1e-4 and high < 1e5
        every = LogFormatterSciNotation(minor_thresholds=(float("inf"), float("inf")))
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 6 else (1, 2, 5)
        narrow = high / low < 2  # none of these may lie inside
        axes.yaxis.set_major_locator(
            MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=subs)
        )
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g") if plain else every)
        axes.yaxis.set_minor_formatter(NullFormatter())
