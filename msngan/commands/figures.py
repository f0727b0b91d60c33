"""msngan figures: draw the paper's Figures 1 to 6 from runs, as released and as stated."""

from __future__ import annotations

import argparse
import re
import sys
from hashlib import sha256
from pathlib import Path

from msngan.commands.parser import Parser, add_out, add_root, option, several
from msngan.runs.folder import UserError

FORMATS = ("png", "pdf", "svg")
FIGURES = ("1", "2", "3", "4", "5", "6", "drift", "dead", "norms", "subspaces", "complexity")
LONGEST = 100  # letters of the name of a folder

DESCRIPTION = """\
Draw Figures 1 to 6 of the paper from what the runs recorded: on the left the released quantity
(what the authors' code plots), on the right the stated one. Runs that differ only in their seed are
one arm, drawn as mean and sd. More than 8 arms are drawn on a page for each learning rate. A figure
whose record is missing is named, with what would record it; the others are drawn."""

EPILOG = "Example: msngan figures table1 --lr 0.001 --figures 1,2,drift --layers 0,2 --formats pdf"


def parser() -> Parser:
    made = Parser(prog="msngan figures", description=DESCRIPTION, epilog=EPILOG)
    text = "name or folder of a run, or of a study (or its file), which stands for its runs"
    option(made, "runs RUN", text, nargs="+")
    text = (
        f"some of {', '.join(FIGURES)}, or all. drift: of pre-activation means; dead: units that"
        " are 0 for every image; norms: of the layers; subspaces: of their weights, in time and"
        " between layers; complexity: spectral complexity"
    )
    option(made, "--figures LIST", text, type=several((*FIGURES, "all")), default=FIGURES[:6])
    text = (
        "layers to draw, a row of the figure each: indices, or patterns of names (critic.*);"
        " default: the first, middle and last convolution (of a GAN, the critic's)"
    )
    option(made, "--layers LIST", text, type=several(), default=())
    option(made, "--norms LIST", "only runs with these norms", type=several(), default=())
    option(made, "--lr LIST", "only these learning rates", type=several(kind=float), default=())
    option(made, "--seeds LIST", "only these seeds", type=several(kind=int), default=())
    text = f"some of {', '.join(FORMATS)}"
    option(made, "--formats LIST", text, type=several(FORMATS), default=FORMATS[:2])
    text = "folder to write to; default: figures/ and the names of the runs, below --root"
    add_out(made, "--out DIR", text)
    add_root(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    asked = FIGURES if "all" in args.figures else args.figures
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is not a folder")

    from msngan.report.figures import write
    from msngan.report.figures.arms import find_sources

    only = {"seeds": args.seeds, "norms": args.norms, "rates": args.lr}
    sources = find_sources(args.runs, args.root, **only)
    folder = args.out or _folder(args)
    paths, remarks = write(sources, folder, asked, args.layers, args.formats)
    if not paths:
        raise UserError(f"nothing to draw: {'; '.join(remarks)}")
    for remark in remarks:
        print(f"msngan figures: {remark}", file=sys.stderr)
    for path in paths:
        print(path)
    return 0


def _folder(args: argparse.Namespace) -> Path:
    """A folder of its own for each choice of runs and layers, so that none replaces another's."""
    from msngan.report.html.records import find

    runs = list(dict.fromkeys(find(target, args.root)[0] for target in args.runs))
    if len({run.root.resolve() for run in runs}) > 1:
        raise UserError("the runs lie below several folders; say with --out where the figures go")
    chosen = {"lr": args.lr, "norms": args.norms, "seeds": args.seeds, "layers": args.layers}
    words = ["+".join(run.name for run in runs)]
    words += [f"{name}={'+'.join(map(str, each))}" for name, each in chosen.items() if each]
    name = ",".join(words)  # neither sign is in the name of a run
    if (plain := re.sub(r"[^\w.=+,-]", "_", name)) != name or len(name) > LONGEST:
        name = f"{plain[:LONGEST]}-{sha256(name.encode()).hexdigest()[:8]}"
    return runs[0].root / "figures" / name
