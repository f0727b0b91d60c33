"""Figures 1 to 6 of the paper, redrawn from the runs' own records, and four more. No torch here.

Each shows the released quantity (what the authors' code plots) beside the stated one (what the
paper's text says of it). Subramanian & Chong 2019, arXiv 1907.04003.
"""

from msngan.report.figures.arms import Arm, make_arms, pages
from msngan.report.figures.draw import DEFAULT, FIGURES, Drawn, draw, write
from msngan.report.figures.records import Unavailable
from msngan.report.figures.sources import Source, find_sources, runs_of

__all__ = ["DEFAULT", "FIGURES", "Arm", "Drawn", "Source", "Unavailable", "draw", "find_sources"]
__all__ += ["make_arms", "pages", "runs_of", "write"]
