"""`msngan params`: Table III of the paper from built networks, and what each norm adds to them.

Subramanian & Chong 2019, arXiv:1907.04003.
"""

from __future__ import annotations

from dataclasses import asdict

from msngan.bench.settings import PUBLISHED, SHAPES
from msngan.commands.parser import Parser
from msngan.report.tables.bench_tables import params_tables
from msngan.report.tables.table import FORMATS, print_as
from msngan.runs.folder import UserError
from msngan.runs.options import at_least

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
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    for name in OPTIONS:
        parser.add_argument(
            f"--{name}",
            type=int,
            help=f"{name} of the network (of the critic without --network); default: Table III's",
        )
    args = parser.parse_args(argv)
    sizes = {name: getattr(args, name) for name in OPTIONS}
    for name, value in sizes.items():
        at_least(f"--{name}", value, 1)
    sizes = {name: value for name, value in sizes.items() if value is not None}

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
