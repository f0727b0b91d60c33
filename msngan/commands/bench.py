"""`msngan bench`: what norms and scores cost on this machine, as ratios of times taken in turns."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msngan.bench.score_settings import PARTS
from msngan.commands.bench_scores import add_sizes, score_settings
from msngan.commands.bench_sigma import (
    add_sigma,
    check_sigma,
    sigma_settings,
    sigma_tables,
    with_others,
)
from msngan.commands.parser import Parser
from msngan.report.tables.bench import as_csv, as_tables
from msngan.report.tables.bench_classify import classify_tables
from msngan.report.tables.bench_scores import score_tables
from msngan.report.tables.table import FORMATS, print_as
from msngan.runs import bounds as checks
from msngan.runs.atomic import write_json
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.memory import keep_freed_memory

if TYPE_CHECKING:
    from msngan.bench.rounds import Watcher
    from msngan.bench.settings import ClassifierSettings, Settings

DESCRIPTION = """\
Variants take turns within each round and are compared with the baseline of the same round, so that
what else runs on the machine disturbs all alike. Tables hold ratios; --output and --format json
also hold the seconds of every round, the hardware and the versions."""
HELP = {
    "norms": "the critic's forward and backward under every norm, and PyTorch's, against none",
    "step": "whole GAN steps of configs/cifar_msn.yaml against a plain loop",
    "classify": "training steps of the paper's classifiers, against batch norm",
    "fold": "inference of trained critics, folded and not, against one without a norm",
    "scores": "the arithmetic of scores against other libraries', and its share of an evaluation",
    "sigma": "how accurate the estimate of sigma is in training, against a single power iteration",
}
# Of msngan.bench, by benchmark.
MODULES = {"norms": "norms", "step": "steps", "classify": "classifiers", "fold": "folds"}
MODULES |= {"scores": "scores", "sigma": "sigma"}
ROUNDS = {"norms": 20, "step": 7, "classify": 20, "fold": 20, "scores": 5, "sigma": 40}
TABLES = {"scores": score_tables, "classify": classify_tables, "sigma": sigma_tables}
NETWORKS = ("cnn3", "vgg7", "densenet_bc", "resnet18")
NETWORKS_HELP = f"of {', '.join(NETWORKS)}; default: cnn3,vgg7"
DEFAULT_NORMS = {
    "classify": ("none", "batch", "spectral", "mean_spectral"),
    "step": ("none", "spectral", "mean_spectral"),
    "fold": ("batch", "spectral", "mean_spectral"),
}
PICTURES = (".png", ".svg", ".pdf")


def main(argv: list[str]) -> int:
    options = _parse(argv)
    record = _measure(options)
    if options.output:
        write_json(options.output, record)
    if options.plot:
        name = (
            "msngan.report.figures.sigma"
            if options.benchmark == "sigma"
            else "msngan.report.figures.ratios"
        )
        import_module(name).draw(record, options.plot)
    tables = TABLES.get(options.benchmark, as_tables)
    print_as(
        options.format,
        tables=lambda: tables(record),
        rows=lambda: as_csv(record),
        whole=lambda: record,
    )
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="msngan bench", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="|".join(HELP))
    made = {name: commands.add_parser(name, help=x, description=x) for name, x in HELP.items()}
    for name, each in made.items():
        add = {"scores": _add_score_options, "sigma": _add_sigma_options}.get(name, _add_options)
        add(each, name)
    # A benchmark's own parser knows its options, and what an unknown one is near to.
    chosen = made.get(argv[0]) if argv else None
    options = chosen.parse_args(argv[1:]) if chosen else parser.parse_args(argv)
    for name in ("rounds", "threads", "width", "batch"):
        checks.at_least(f"--{name}", getattr(options, name, None), 1)
    if options.benchmark == "scores":
        only: tuple[str, ...] = PARTS
        if options.only is not None:
            only = _names(options.only, list(PARTS), "--only", "part")
        options.settings = score_settings(options, only)
    if options.benchmark == "sigma":
        check_sigma(options)
    for name in ("output", "plot"):
        if getattr(options, name):
            _check_writable(f"--{name}", getattr(options, name))
    if options.plot and options.plot.suffix.lower() not in PICTURES:
        raise UserError(f"--plot {options.plot}: end its name in {', '.join(PICTURES)}")
    return options


def _add_options(made: argparse.ArgumentParser, name: str) -> None:
    norms = ",".join(DEFAULT_NORMS.get(name, ())) or "all"
    made.add_argument("--norms", metavar="A,B,...", help=f"default: {norms}")
    _add_common_options(made, name)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    if name == "classify":
        networks = ",".join(NETWORKS[:2])
        made.add_argument("--networks", default=networks, metavar="A,B,...", help=NETWORKS_HELP)
    else:
        made.add_argument("--width", type=int, default=64, help="of the networks; default: 64")
        made.add_argument("--batch", type=int, default=64, help="images at once; default: 64")
    if name == "step":
        made.add_argument("--compile", action="store_true", help="also compiled, which takes time")
    else:
        kinds = ("float32", "bfloat16")
        made.add_argument("--dtype", choices=kinds, default="float32", help="default: float32")
    if name == "classify":
        made.set_defaults(plot=None)
    else:
        made.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")


def _add_score_options(made: argparse.ArgumentParser, name: str) -> None:
    made.add_argument("--only", metavar="A,B,...", help=f"of {', '.join(PARTS)}; default: all")
    _add_common_options(made, name)
    add_sizes(made)
    made.set_defaults(plot=None)


def _add_sigma_options(made: argparse.ArgumentParser, name: str) -> None:
    _add_common_options(made, name)
    add_sigma(made)


def _add_common_options(made: argparse.ArgumentParser, name: str) -> None:
    made.set_defaults(benchmark=name)
    made.add_argument("--rounds", type=int, default=ROUNDS[name], help=f"default: {ROUNDS[name]}")
    made.add_argument("--threads", type=int, default=1, help="CPU threads; default: 1")
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    made.add_argument("--output", type=Path, metavar="FILE.json", help="write the whole record")


def _check_writable(option: str, path: Path) -> None:
    """Found before an hour of measuring, not after."""
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


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from msngan.report.tables.bench_progress import progress
    from msngan.runs import rng

    make = {"scores": lambda given: given.settings, "sigma": sigma_settings}
    settings = make.get(options.benchmark, _settings)(options)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in training
    run = _benchmark(options.benchmark)
    with rng.untouched(), progress(options.benchmark) as watcher:
        record = run(settings, watcher)
    return with_others(record, options.others) if options.benchmark == "sigma" else record


def _settings(options: argparse.Namespace) -> Settings | ClassifierSettings:
    import torch

    from msngan.bench.settings import ClassifierSettings, Settings
    from msngan.norms import NORMS

    default = DEFAULT_NORMS.get(options.benchmark, tuple(NORMS))
    norms = _names(options.norms, list(NORMS)) if options.norms is not None else default
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda is not to be had here; use cpu")
    if options.benchmark == "classify":
        networks = _names(options.networks, list(NETWORKS), "--networks", "network")
        chosen = (options.rounds, options.threads, options.device, options.dtype)
        return ClassifierSettings(networks, norms, *chosen)
    return Settings(
        norms=norms,
        rounds=options.rounds,
        threads=options.threads,
        device=options.device,
        width=options.width,
        batch=options.batch,
        dtype=getattr(options, "dtype", "float32"),
        compile=getattr(options, "compile", False),
    )


def _benchmark(name: str) -> Callable[[Any, Watcher], dict[str, Any]]:
    if name in ("step", "sigma"):
        from msngan.training.options import quiet

        quiet()
    return import_module(f"msngan.bench.{MODULES[name]}").run


def _names(
    text: str, known: list[str], option: str = "--norms", kind: str = "norm"
) -> tuple[str, ...]:
    """The names of a list with commas, each once."""
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not names:
        raise UserError(f"{option} {text!r} names none; choose of {', '.join(known)}")
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(
                f"{option}: unknown {kind} {name!r}{near}; choose of {', '.join(known)}"
            )
    return tuple(names)
