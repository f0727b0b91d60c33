"""The table of figures, and the files that they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msngan.report.figures import layered
from msngan.report.figures.accuracy import accuracy
from msngan.report.figures.arms import Arm, make_arms, pages
from msngan.report.figures.drift import drift
from msngan.report.figures.gradients import gradients
from msngan.report.figures.records import Unavailable
from msngan.report.figures.sheet import Sheet
from msngan.report.figures.sources import Source
from msngan.report.figures.spectra import spectra
from msngan.report.figures.style import save, settings
from msngan.runs.folder import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Maker = Callable[[Sequence[Arm], Sequence[str]], tuple[Sheet, list[str]]]

# By the name that --figures takes: the file's name and what draws it.
FIGURES: dict[str, tuple[str, Maker]] = {
    "1": ("fig1_sparsity", layered.sparsity),
    "2": ("fig2_accuracy", accuracy),
    "3": ("fig3_weight_spread", layered.weight_spread),
    "4": ("fig4_weight_means", layered.weight_means),
    "5": ("fig5_gradients", gradients),
    "6": ("fig6_singular_values", spectra),
    "drift": ("drift", drift),
    "dead": ("dead_units", layered.dead),
    "norms": ("norms", layered.norms),
    "complexity": ("spectral_complexity", layered.complexity),
}
DEFAULT = ("1", "2", "3", "4", "5", "6")


@dataclass(frozen=True)
class Drawn:
    """A figure by its file's name without suffix, or None and the reason; and what it lacks."""

    name: str
    figure: Figure | None
    remarks: tuple[str, ...]


def draw(
    sources: Sequence[Source], figures: Sequence[str] = DEFAULT, layers: Sequence[str] = ()
) -> Iterator[Drawn]:
    """Each figure in turn, to be saved within `style.settings` as it is made there.

    figures: keys of FIGURES. layers: indices or patterns of names. More than 8 arms are drawn on a
    page for each learning rate. UserError for a layer that no run has.
    """
    for page in pages(make_arms(sources)):
        for key in figures:
            stem, make = FIGURES[key]
            name = f"{stem}{page.suffix}"
            try:
                sheet, remarks = make(page.arms, layers)
            except Unavailable as problem:
                yield Drawn(name, None, (str(problem),))
            else:
                yield Drawn(name, sheet.figure, tuple(remarks))


def write(
    sources: Sequence[Source],
    folder: Path,
    *,
    figures: Sequence[str] = DEFAULT,
    layers: Sequence[str] = (),
    formats: Sequence[str] = ("png", "pdf"),
) -> tuple[list[Path], list[str]]:
    """The files written into `folder`, which is made, and a line on whatever is missing.

    UserError where the folder cannot be written.
    """
    paths: list[Path] = []
    remarks: dict[str, list[str]] = {}
    with settings():
        for drawn in draw(sources, figures, layers):
            for remark in drawn.remarks:
                remarks.setdefault(remark, []).append(drawn.name)
            if drawn.figure is None:
                continue
            for kind in formats:
                path = folder / f"{drawn.name}.{kind}"
                try:
                    save(drawn.figure, path)
                except OSError as problem:
                    reason = problem.strerror or problem
                    raise UserError(
                        f"--out {folder}: {path.name} cannot be written: {reason}"
                    ) from (problem)
                paths.append(path)
    return paths, [f"{', '.join(names)}: {remark}" for remark, names in remarks.items()]
