"""msngan evaluate: score runs, checkpoints or any images under a named protocol."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msngan.commands.parser import Parser, add_weights
from msngan.report.tables.table import FORMATS
from msngan.runs.atomic import append_line
from msngan.runs.folder import NAME, Failure, Run, UserError, find_checkpoint
from msngan.runs.options import at_least
from msngan.runs.score_records import score_line
from msngan.scores.protocol import METRICS, PRESETS, check_sizes, metric_names, preset

if TYPE_CHECKING:
    import argparse

    from msngan.commands.evaluate_subjects import Subject
    from msngan.report.tables.evaluate_tables import Outcome

DESCRIPTION = """\
Score the samples of runs or checkpoints, or with --samples any images, another tool's say, against
real ones. Scores can be compared only within one protocol (its sizes, reference and extractor).
Scores of a run are added to its scores.jsonl, for `msngan leaderboard`."""
VIA = ("own", "torchmetrics", "torch-fidelity")  # scores.evaluation.BACKENDS, which needs torch


def parser() -> Parser:
    made = Parser(prog="msngan evaluate", description=DESCRIPTION)
    made.add_argument(
        "targets", nargs="*", metavar="RUN", help="names or folders of runs, or checkpoint files"
    )
    made.add_argument(
        "--samples", metavar="PATH", help="score these images: a folder, .zip, .npz or .npy"
    )
    made.add_argument(
        "--record", metavar="NAME", help="record the scores of --samples as this run's"
    )
    real = made.add_argument_group("reference", "the real images; default: the run's own")
    real.add_argument("--against", metavar="PATH", help="images: a folder, .zip, .npz or .npy")
    real.add_argument("--dataset", metavar="NAME", help="a data set: cifar10, mnist, digits, ...")
    real.add_argument("--data-root", metavar="DIR", help="the data set's folder, if it has moved")
    real.add_argument("--split", metavar="S", help="default: the protocol's")
    real.add_argument(
        "--size", type=int, metavar="N", help="resize all images; default: their own size"
    )
    real.add_argument("--channels", type=int, choices=(1, 3), help="default: the images' own")
    how = made.add_argument_group("protocol")
    how.add_argument(
        "--protocol",
        metavar="NAME",
        default="paper",
        help=f"{', '.join(PRESETS)}, or a .yaml file; default: paper",
    )
    how.add_argument(
        "--metrics", metavar="A,B,...", help=f"some of {', '.join(METRICS)}; default: all"
    )
    how.add_argument(
        "--via",
        choices=VIA,
        default="own",
        help="library that computes or checks the scores; default: own",
    )
    how.add_argument(
        "--runs", type=int, metavar="N", help="number of sample sets; overrides the protocol"
    )
    how.add_argument(
        "--images", type=int, metavar="N", help="samples of each set; overrides the protocol"
    )
    how.add_argument("--seed", type=int, metavar="S", help="seed of the samples; default: 0")
    how.add_argument(
        "--extractor",
        metavar="NAME",
        default="auto",
        help="auto, embedded, inception or a file; default: auto",
    )
    how.add_argument("--inception-weights", metavar="FILE", help="file with the official weights")
    add_weights(how, "score")
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; default: cpu")
    made.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all; default: 0"
    )
    made.add_argument(
        "--root", default=".", metavar="DIR", help="folder that holds checkpoints/; default: ."
    )
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    _check(options)
    record = _record(options.record, Path(options.root)) if options.record else None
    found = [find_checkpoint(target, Path(options.root)) for target in options.targets]
    for run in (run for _, run in found if run):
        if not os.access(run.scores if run.scores.exists() else run.folder, os.W_OK):
            raise UserError(f"{run.scores} cannot be written, and the scores belong there")
    _set_up(options)
    from msngan.commands.evaluate_subjects import of_images, of_runs
    from msngan.report.tables.evaluate_tables import show
    from msngan.runs.hardware import record_command

    subjects = of_images(options, record) if options.samples else of_runs(options, found)
    for remark in dict.fromkeys(each for subject in subjects for each in subject.remarks):
        sys.stderr.write(f"{remark}\n")
    outcomes: list[Outcome] = []
    whole = True
    try:
        for number, subject in enumerate(subjects, start=1):
            outcome = _score(subject, f"{number}/{len(subjects)} {subject.name}")
            if outcome:
                outcomes.append(outcome)
                whole = _keep(subject.run, outcome) and whole
            whole = whole and outcome is not None and not outcome.failed
        for run in {each.run.name: each.run for each in subjects if each.run}.values():
            record_command(run)
    finally:  # a failure or an interrupt does not lose the outcomes before it
        if outcomes:
            show(options.format, outcomes)
    return 0 if whole else 1


def _check(options: argparse.Namespace) -> None:
    """Check the options as far as possible without torch."""
    for name in ("against", "samples", "record", "dataset", "data_root", "split"):
        if getattr(options, name) == "":
            raise UserError(f"--{name.replace('_', '-')} is empty; give a value, or leave it out")
    for name, least in (("runs", 1), ("images", 2), ("seed", 0), ("threads", 0), ("size", 1)):
        at_least(f"--{name}", getattr(options, name), least)
    sizes = options.sizes = preset(options.protocol)[1]
    check_sizes(options.runs or sizes.runs, options.images or sizes.samples, sizes.splits)
    options.metrics = metric_names("--metrics", options.metrics)
    if options.against and (options.dataset or options.data_root or options.split):
        raise UserError("--against is the reference: leave out --dataset, --data-root and --split")
    if options.samples is None:
        _check_of_runs(options)
    else:
        _check_of_images(options)


def _check_of_runs(options: argparse.Namespace) -> None:
    if not options.targets:
        raise UserError("nothing to score: name runs or checkpoints, or give --samples PATH")
    for name in ("size", "channels", "record"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name} goes with --samples; a run's own is in its checkpoint")


def _check_of_images(options: argparse.Namespace) -> None:
    if options.targets and options.samples.isdecimal():
        raise UserError(
            f"--samples takes images, not {options.samples}; how many a run has is --images"
            f" {options.samples}"
        )
    if options.targets:
        raise UserError(f"--samples or runs ({', '.join(options.targets)}), not both at once")
    if not (options.against or options.dataset):
        raise UserError("--samples needs real images: --against PATH, or --dataset NAME")
    for name, option in (("seed", "--seed"), ("ema", "--ema or --raw")):
        if getattr(options, name) is not None:
            raise UserError(f"{option} is for runs: the images of --samples are there already")


def _record(name: str, root: Path) -> Run:
    """The run of --record, which must not be one that was trained here."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"--record {name!r} is not a run name; use letters, digits, '.', '_' and '-'"
        )
    run = Run(name, root)
    if run.config.exists():
        raise UserError(f"--record {name}: {run.folder} is a run trained here; choose another name")
    place = run.folder
    while not os.path.lexists(place):
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"--record {name}: {run.folder} cannot be written")
    return run


def _set_up(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        here = torch.device(options.device).type in ("cpu", "cuda")
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as problem:
        raise UserError(f"--device {options.device} is not available; use cpu") from problem
    if not here:
        raise UserError(f"--device {options.device} cannot score; use cpu, cuda or cuda:N")


def _score(subject: Subject, title: str) -> Outcome | None:
    """None, after a message on stderr, for a failure that is not the input's fault."""
    from msngan.report.tables.evaluate_tables import Outcome
    from msngan.report.tables.progress_bars import progress

    start = time.monotonic()
    try:
        with progress(title) as watch:
            scored = subject.score(watch)
    except Failure as problem:
        sys.stderr.write(f"msngan: error: {subject.name}: {problem}\n")
        return None
    about = (subject.name, subject.step, subject.weights, subject.source)
    line = score_line(*about, scored.line, time.monotonic() - start)
    return Outcome(line | {"config": subject.config}, scored)


def _keep(run: Run | None, outcome: Outcome) -> bool:
    """Add the line to its run's scores; False, after a message on stderr, if that fails."""
    if run is None:
        return True
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        append_line(run.scores, outcome.line)
    except OSError as problem:
        where = f"{run.scores} cannot be written ({problem.strerror})"
        sys.stderr.write(f"msngan: error: {where}; the scores are only printed\n")
        return False
    return True
