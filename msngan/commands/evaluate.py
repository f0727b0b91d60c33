"""msngan evaluate: score runs, checkpoints or any images under a named protocol."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msngan.commands.parser import (
    Parser,
    add_format,
    add_root,
    add_sampling,
    add_weights,
    number,
    option,
)
from msngan.runs.atomic import append_line
from msngan.runs.folder import NAME, Failure, Run, UserError, find_checkpoint
from msngan.runs.options import MOST_THREADS
from msngan.runs.score_records import score_line
from msngan.scores.protocol import METRICS, PRESETS, RESIZE, check_sizes, metric_names, preset

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
    option(made, "targets RUN", "runs, checkpoints or exported generators", nargs="*")
    option(made, "--samples PATH", "score these images: a folder, .zip, .npz or .npy")
    option(made, "--record NAME", "record the scores of --samples as this run's")
    real = made.add_argument_group("reference", "the real images; default: the run's own")
    option(real, "--against PATH", "images: a folder, .zip, .npz or .npy")
    option(real, "--dataset NAME", "a data set: cifar10, mnist, digits, ...")
    option(real, "--data-root DIR", "the data set's folder, if it has moved")
    option(real, "--split S", "default: the protocol's")
    option(real, "--size N", "resize all images; default: their own size", type=number(1))
    option(real, "--channels", "default: the images' own", type=int, choices=(1, 3))
    how = made.add_argument_group("protocol")
    option(how, "--protocol NAME", f"{', '.join(PRESETS)}, or a .yaml file", default="paper")
    option(how, "--metrics A,B,...", f"some of {', '.join(METRICS)}; default: all but intra")
    option(how, "--via", "library that computes or checks the scores", choices=VIA, default="own")
    option(how, "--runs N", "number of sample sets; overrides the protocol", type=number(1))
    option(how, "--images N", "samples of each set; overrides the protocol", type=number(2))
    option(how, "--seed S", "seed of the samples; default: 0", type=number(0))
    option(how, "--resize", "for the extractor, its own way or clean-fid's", choices=RESIZE)
    text = "auto, embedded, embedded-vgg7, inception, dinov2-vit-b-14, ... or a file"
    option(how, "--extractor NAME", text, default="auto")
    option(how, "--inception-weights FILE", "file with the official weights")
    option(how, "--extractor-weights FILE", "file with the weights of a DINOv2 or CLIP network")
    add_sampling(how)
    add_weights(how, "score")
    option(made, "--device", "cpu, gpu or gpu:N; cuda is the same as gpu", default="cpu")
    option(made, "--threads N", "CPU threads; 0: all", type=number(0, MOST_THREADS), default=0)
    add_root(made)
    add_format(made)
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    _check(options)
    record = _record(options.record, options.root) if options.record else None
    found = [find_checkpoint(target, options.root) for target in options.targets]
    for run in (run for _, run in found if run):
        if not os.access(run.scores if run.scores.exists() else run.folder, os.W_OK):
            raise UserError(f"{run.scores} cannot be written, and the scores belong there")
    set_up(options)
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
    sizes = options.sizes = preset(options.protocol)[1]
    check_sizes(options.runs or sizes.runs, options.images or sizes.samples, sizes.splits)
    options.metrics = metric_names("--metrics", options.metrics)
    if options.against and (options.dataset or options.data_root or options.split):
        raise UserError("--against is the reference: leave out --dataset, --data-root and --split")
    if options.samples is not None:
        _check_of_images(options)
        return
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
    ways = {"seed": "--seed", "truncation": "--truncation", "standing": "--standing"}
    for name, said in {**ways, "ema": "--ema or --raw"}.items():
        if getattr(options, name) is not None:
            raise UserError(f"{said} is for runs: the images of --samples are there already")


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


def set_up(options: argparse.Namespace) -> None:
    """Set the number of threads; UserError for a device that is not there."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    device = re.sub(r"^gpu(?=$|:)", "cuda", options.device)
    try:
        here = torch.device(device).type in ("cpu", "cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise UserError(f"--device {options.device} is not available; use cpu") from problem
    if not here:
        raise UserError(f"--device {options.device} cannot score; use cpu, gpu or gpu:N")
    options.device = device


def _score(subject: Subject, title: str) -> Outcome | None:
    """None, after a message on stderr, for a failure that is not the input's fault."""
    from msngan.report.tables.evaluate_tables import Outcome
    from msngan.runs.progress_bar import progress

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
