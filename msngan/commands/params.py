"""msngan params: count each norm's parameters in the paper's networks, beside its Table III.

Subramanian & Chong 2019, arXiv:1907.04003.
"""

from __future__ import annotations

from dataclasses import asdict

from msngan.bench.settings import PUBLISHED, SHAPES
from msngan.commands.parser import Parser, add_format, number
from msngan.report.tables.bench_tables import params_tables
from msngan.report.tables.table import print_as
from msngan.runs.folder import UserError

DESCRIPTION = """\
Count the parameters of the paper's networks under its norms, and their buffers: values that are
stored but not trained. Each network is built and run once on two images. Beside them stand the
twelve counts of Table III of the paper (arXiv:1907.04003) and the forms of the networks that have
these counts. With --network or a size, one network is counted under every norm."""

OPTIONS = ("width", "size", "channels")
PAPERS_NORMS = ("none", "batch", "spectral", "mean_spectral")


def main(argv: list[str]) -> int:
    parser = Parser(prog="msngan params", description=DESCRIPTION)
    parser.add_argument(
        "--network", choices=[*SHAPES], help="only this one; default: those of Table III"
    )
    add_format(parser)
    for name in OPTIONS:
        text = f"{name} of the network (of the critic without --network); default: Table III's"
        parser.add_argument(f"--{name}", type=number(1), help=text)
    args = parser.parse_args(argv)
    sizes = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}

    from msngan.bench.parameters import counts
    from msngan.norms import NORMS

    single = args.network or ("critic" if sizes else None)
    norms = list(NORMS) if single else PAPERS_NORMS
    networks = [single] if single else list(PUBLISHED)
    try:
        found = [counts(name, SHAPES[name] | sizes, norms) for name in networks]
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    rows = [asdict(row) for each in found for row in each]
    print_as(
        args.format,
        tables=lambda: params_tables(rows),
        rows=lambda: rows,
        whole=lambda: {"format": 2, "rows": rows},
    )
    return 0
