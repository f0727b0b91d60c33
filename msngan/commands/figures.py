"""`msngan figures`: the paper's figures from runs' own records."""

from __future__ import annotations

import sys
from pathlib import Path

from msngan.commands.parser import Parser, chosen, words
from msngan.runs.folder import UserError

FORMATS = ("png", "pdf", "svg")
FIGURES = ("1", "2", "3", "4", "5", "6", "drift", "dead", "norms", "complexity")

DESCRIPTION = """\
Draw Figures 1 to 6 of the paper from what the runs recorded: on the left the released quantity
(what the authors' code plots), on the right the stated one. Runs that differ only in their seed are
one arm, drawn as mean and sd. More than 8 arms are drawn on a page for each learning rate. A figure
whose record is missing is named, with what would record it; the others are drawn."""

EPILOG = "Example: msngan figures table1 --lr 0.001 --figures 1,2,drift --layers 0,2 --formats pdf"


def parser() -> Parser:
    made = Parser(prog="msngan figures", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="name or folder of a run, or of a study, which stands for its runs",
    )
    made.add_argument(
        "--figures",
        default="1,2,3,4,5,6",
        metavar="LIST",
        help=f"some of {', '.join(FIGURES)}, or all. drift: of pre-activation means; dead: units"
        " that are 0 for every image; norms: of the layers; complexity: spectral complexity;"
        " default: 1,2,3,4,5,6",
    )
    made.add_argument(
        "--layers",
        default="",
        metavar="LIST",
        help="layers to draw, a row of the figure each: indices, or patterns of names (critic.*);"
        " default: the first, middle and last convolution (of a GAN, the critic's)",
    )
    made.add_argument("--norms", default="", metavar="LIST", help="only runs with these norms")
    made.add_argument("--lr", default="", metavar="LIST", help="only these learning rates")
    made.add_argument("--seeds", default="", metavar="LIST", help="only these seeds")
    made.add_argument(
        "--formats",
        default="png,pdf",
        metavar="LIST",
        help="some of png, pdf, svg; default: png,pdf",
    )
    made.add_argument(
        "--out",
        type=Path,
        default=Path("figures"),
        metavar="DIR",
        help="folder to write to; default: figures",
    )
    made.add_argument(
        "--root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that holds checkpoints/; default: .",
    )
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    asked = FIGURES if args.figures == "all" else chosen("--figures", args.figures, FIGURES)
    formats = chosen("--formats", args.formats, FORMATS)
    rates = [number("--lr", word, float) for word in words(args.lr)]
    seeds = [int(number("--seeds", word, int)) for word in words(args.seeds)]
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is not a folder")

    from msngan.report.figures import write
    from msngan.report.figures.arms import find_sources

    sources = find_sources(args.runs, args.root, seeds=seeds, norms=words(args.norms), rates=rates)
    paths, remarks = write(
        sources, args.out, figures=asked, layers=words(args.layers), formats=formats
    )
    if not paths:
        raise UserError(f"nothing to draw: {'; '.join(remarks)}")
    for remark in remarks:
        print(f"msngan figures: {remark}", file=sys.stderr)
    for path in paths:
        print(path)
    return 0


def number(option: str, word: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(word)
    except ValueError:
        name = "whole number" if kind is int else "number"
        raise UserError(f"{option} {word!r} is not a {name}") from None
