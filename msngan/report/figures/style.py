"""How every figure looks, and how it is written: the same bytes for the same records.

Colours: Okabe & Ito 2008, "Color Universal Design", without yellow, which print loses; each line
has a dash pattern and a marker of its own as well, for print in grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msngan.runs.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
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
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
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
# Without the time of writing, which would make every file another.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": "msngan", "Producer": None},
    "svg": {"Date": None, "Creator": "msngan"},
}


@dataclass(frozen=True)
class Style:
    colour: str
    dash: Any
    marker: str


def style(index: int) -> Style:
    """Fifty-six that differ in colour or dash pattern, the first eight in colour and marker."""
    return Style(
        COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
    )


@contextmanager
def settings() -> Iterator[None]:
    """Our settings and no others, a user's matplotlibrc included; what was before is put back."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        ours: Any = matplotlib.rcParams
        ours.update(SETTINGS)
        yield


def save(figure: Figure, path: Path) -> None:
    """Write `figure`, atomically; the format follows from the suffix. Within `settings` only."""
    kind = path.suffix[1:]
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=METADATA[kind])
