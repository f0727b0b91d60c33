"""Figures 1 to 6 of the paper, redrawn from the runs' own records, and five more. No torch here.

Each shows the released quantity (what the authors' code plots) beside the stated one (what the
paper's text says of it). Subramanian & Chong 2019, arXiv 1907.04003.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from msngan.report.figures import paper_figures as of
from msngan.report.figures.arms import Arm, Source, make_arms, pages
from msngan.report.figures.layer_grid import drift, layer_sheet
from msngan.report.figures.run_records import Unavailable
from msngan.report.figures.style import Sheet, save, settings
from msngan.runs.folder import UserError

Maker = Callable[[Sequence[Arm], Sequence[str]], tuple[Sheet, list[str]]]

# By the name that --figures takes: the file's name and what draws it.
FIGURES: dict[str, tuple[str, Maker]] = {
    "1": ("fig1_sparsity", partial(layer_sheet, of.sparsity)),
    "2": ("fig2_accuracy", of.accuracy),
    "3": ("fig3_weight_spread", partial(layer_sheet, of.weight_spread)),
    "4": ("fig4_weight_means", partial(layer_sheet, of.weight_means)),
    "5": ("fig5_gradients", partial(layer_sheet, of.gradients)),
    "6": ("fig6_singular_values", partial(layer_sheet, of.spectra)),
    "drift": ("drift", partial(layer_sheet, drift)),
    "dead": ("dead_units", partial(layer_sheet, of.dead)),
    "norms": ("norms", partial(layer_sheet, of.norms)),
    "subspaces": ("subspaces", partial(layer_sheet, of.subspaces)),
    "complexity": ("spectral_complexity", of.complexity),
}
REPLACED = "replaced a file of this name that showed something else"
DEFAULT = ("1", "2", "3", "4", "5", "6")


def draw(
    sources: Sequence[Source], figures: Sequence[str] = DEFAULT, layers: Sequence[str] = ()
) -> Iterator[tuple[str, Figure | None, list[str]]]:
    """The name of a file without suffix, its figure, and lines on what is missing, for each figure.

    Draw and save them within `style.settings`. figures: keys of FIGURES. layers: indices or
    patterns of names. More than 8 arms are drawn on a page for each learning rate. Of a figure that
    cannot be drawn there is None and the reason. UserError for a layer that no run has.
    """
    for suffix, arms in pages(make_arms(sources)):
        for key in figures:
            stem, make = FIGURES[key]
            try:
                sheet, remarks = make(arms, layers)
                yield f"{stem}{suffix}", sheet.figure, remarks
            except Unavailable as problem:
                yield f"{stem}{suffix}", None, [str(problem)]


def write(
    sources: Sequence[Source],
    folder: Path,
    figures: Sequence[str],
    layers: Sequence[str],
    formats: Sequence[str],
) -> tuple[list[Path], list[str]]:
    """Write the files into `folder`; returns their paths and a line on whatever is missing.

    UserError if the folder cannot be written.
    """
    paths: list[Path] = []
    names: dict[str, list[str]] = {}  # of the figures, by remark
    with settings():
        for name, figure, remarks in draw(sources, figures, layers):
            for remark in remarks:
                names.setdefault(remark, []).append(name)
            if figure is None:
                continue
            for kind in formats:
                path = folder / f"{name}.{kind}"
                try:
                    before = path.read_bytes() if path.is_file() else None
                    save(figure, path)
                except OSError as problem:
                    reason = problem.strerror or problem
                    raise UserError(
                        f"--out {folder}: {path.name} cannot be written: {reason}"
                    ) from problem
                if before not in (None, path.read_bytes()):
                    names.setdefault(REPLACED, []).append(path.name)
                paths.append(path)
    return paths, [f"{', '.join(own)}: {remark}" for remark, own in names.items()]
