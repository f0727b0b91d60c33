"""msngan bench: measure what a norm, a step and a folder of images cost."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from msngan.bench.settings import BENCHMARKS, DEVICES, Settings
from msngan.commands.parser import Parser, add_format, number, option, several
from msngan.report.tables.bench_tables import as_csv, bench_tables
from msngan.report.tables.table import print_as
from msngan.runs.atomic import write_json
from msngan.runs.configs import read_configs
from msngan.runs.folder import UserError
from msngan.runs.options import options_of

DESCRIPTION = """\
The variants take turns within each round and are compared with the baseline of the same round, so
other load on the machine affects all alike. Tables show ratios, of `step` on a GPU also images a
second; --output and --format json also keep the seconds of every round, the hardware and the
versions."""
PICTURES = (".png", ".svg", ".pdf")


def main(argv: list[str]) -> int:
    options = _parse(argv)
    record = _measure(options.benchmark, _settings(options))
    if options.output:
        write_json(options.output, record)
    if options.plot:
        from msngan.report.figures.bench_plots import draw

        draw(record, options.plot)
    print_as(
        options.format,
        tables=lambda: bench_tables(record),
        rows=lambda: as_csv(record),
        whole=lambda: record,
    )
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="msngan bench", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="|".join(BENCHMARKS))
    for name, kind in BENCHMARKS.items():
        made = commands.add_parser(name, help=kind.about, description=kind.about)
        made.set_defaults(benchmark=name)
        _add_options(made, kind)
    options = parser.parse_args(argv)
    read_configs(list(getattr(options, "config", ())))
    for name in ("output", "plot"):
        if getattr(options, name):
            _check_writable(f"--{name}", getattr(options, name))
    if options.plot and options.plot.suffix.lower() not in PICTURES:
        raise UserError(f"--plot {options.plot}: end its name in {', '.join(PICTURES)}")
    return options


def _add_options(made: argparse.ArgumentParser, kind: type[Settings]) -> None:
    # The tables of norms and critics themselves import torch.
    known = {each: get_args(options_of("gan")[f"model.{each}"].type) for each in ("norm", "critic")}
    for each in fields(kind):
        default, choices, text = each.default, each.metadata["choices"], each.metadata["help"]
        given: dict[str, Any] = {"default": default}
        if isinstance(default, tuple):
            given |= {"type": several(known["norm"] if each.name == "norms" else choices)}
            given |= {"metavar": "A,B,..."}
            text += f"; of {', '.join(choices)}" if choices else ""
        elif isinstance(default, int):
            given |= {"type": number(each.metadata["least"])}
        else:
            given |= {"choices": choices or known[each.name]}
        made.add_argument(f"--{each.name.replace('_', '-')}", help=text, **given)
    add_format(made)
    option(made, "--output FILE.json", "write the whole record", type=Path)
    if kind.drawn:
        option(made, "--plot FILE.png", "draw the results", type=Path)
    else:
        made.set_defaults(plot=None)


def _check_writable(option: str, path: Path) -> None:
    """Refuse before an hour of measuring, not after."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise UserError(
            f"{option} {path} cannot be written: {problem.strerror}; choose another file"
        ) from problem


def _settings(options: argparse.Namespace) -> Settings:
    import torch

    device = DEVICES[options.device]
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {options.device}: no GPU is available here; use cpu")
    kind = BENCHMARKS[options.benchmark]
    given = {each.name: getattr(options, each.name) for each in fields(kind)}
    return kind(**given | {"device": device})


def _measure(name: str, settings: Settings) -> dict[str, Any]:
    import torch

    from msngan.bench.timing import record
    from msngan.runs import rng
    from msngan.runs.hardware import keep_freed_memory
    from msngan.runs.progress_bar import progress

    torch.set_num_threads(settings.threads)
    keep_freed_memory()  # as in training
    if name in ("step", "sigma"):
        from msngan.training.run import quiet

        quiet()
    run = import_module(f"msngan.bench.{name}").run
    with rng.untouched(), progress(f"bench {name}", "measurements") as shown:
        return record(name, settings, run, shown)
