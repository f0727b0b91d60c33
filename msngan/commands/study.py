"""msngan study: train a grid of runs, resumable as a whole, and end in one table."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msngan.commands.parser import Parser, add_format, add_root, number, option
from msngan.report.tables.study_tables import list_tables, show_results
from msngan.report.tables.table import print_as
from msngan.runs import plugins
from msngan.runs.atomic import write_json
from msngan.runs.folder import Failure, UserError, counted
from msngan.runs.options import MOST_THREADS
from msngan.runs.safe_read import clean, object_or_empty
from msngan.study.plan import Child, Study
from msngan.study.results import collect
from msngan.study.study_files import (
    Place,
    Reader,
    open_study,
    refuse_unknown_options,
    save_study,
    started_study,
)

if TYPE_CHECKING:
    from msngan.study.scheduler import Workers

DESCRIPTION = """\
Train every run of a study (norms, learning rates, seeds, ...), each as `msngan fit` would, and
print one table. Finished runs are skipped, begun ones are resumed: after Ctrl-C, a crash or a power
cut, repeat the command. A study is a YAML file: a base config, arms or a grid, seeds."""


def parser() -> Parser:
    made = Parser(prog="msngan study", description=DESCRIPTION)
    option(made, "study NAME_OR_YAML", "a file, or the name of a packaged or started study")
    text = "change a fixed option of every run, epochs=5 for instance; may be repeated"
    option(made, "--set OPTION=VALUE", text, dest="changes", action="append", default=[])
    text = "name of the study, with which its runs' names begin; default: the file's"
    option(made, "--name", text)
    option(made, "--jobs", "runs to train side by side; default: 1", type=number(1))
    text = "threads of each run; default: the cores divided by --jobs"
    option(made, "--threads", text, type=number(1, MOST_THREADS))
    text = "where to train: local, this machine; ray, a Ray cluster that shares this folder"
    option(made, "--on", text, choices=("local", "ray"), default="local")
    text = "address of the Ray cluster, auto for the one that there is; default: begin one here"
    option(made, "--address", text)
    text = "CPUs of each run on Ray; default: 1"
    option(made, "--cpus-per-run", text, type=float)
    text = "GPUs of each run on Ray, 0.5 for two runs on one; default: 0"
    option(made, "--gpus-per-run", text, type=float)
    option(made, "--retry", "also retry runs that diverged", action="store_true")
    option(made, "--keep-going", "train the others when one run is refused", action="store_true")
    only = made.add_mutually_exclusive_group()
    option(only, "--list", "only print how far each run is", action="store_true")
    option(only, "--table", "only print the results so far", action="store_true")
    add_format(made)
    add_root(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    for name in ("address", "cpus_per_run", "gpus_per_run"):
        if args.on != "ray" and getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} without --on ray changes nothing; leave it out")
    if args.on == "ray" and args.jobs is not None:
        raise UserError(
            "--jobs with --on ray: the cluster's CPUs and GPUs and those of each run"
            " (--cpus-per-run, --gpus-per-run) say how many train at a time; leave it out"
        )
    args.jobs = args.jobs or 1
    for name in ("cpus_per_run", "gpus_per_run"):
        if (value := getattr(args, name)) is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value} is not a number from 0 up")
    study = open_study(args.study, args.root, args.name, args.changes)
    place = Place(study.name, args.root)
    if args.table and not args.changes:
        study = started_study(place) or study
    reader = Reader(place)
    command = shlex.join(["msngan", "study", *argv, *plugins.words()])
    if args.table:
        made = collect(study, reader, _trained_by(place) or command)
        show_results(args.format, made, args.root, study)
        return 0
    states = {child.name: reader.look(child) for child in study.children}
    if args.list:
        _say_change(study, place)
        print_as(args.format, **list_tables(study, states))
        return 0
    left = [child for child in study.children if not states[child.name].ended(args.retry)]
    new = {name for name, state in states.items() if state.word == "to do"}
    if not left:
        command = _trained_by(place) or command
    code, failures = _train(args, study, reader, left, new, command) if left else (0, {})
    results = collect(study, reader, command, failures)
    with writing(place):
        if not left:  # its runs were trained one by one, perhaps
            save_study(study, place)
        write_json(place.results, results)
    if code >= 128:
        sys.stderr.write(f"stopped; continue with:\n  {command}\n")
        return code
    show_results(args.format, results, args.root, study)
    return code


def _trained_by(place: Place) -> str:
    """The command that trained the study last, as its results say; empty where they do not."""
    found = object_or_empty(place.results).get("command")
    return str(clean(found)) if isinstance(found, str) else ""


def _train(
    args: argparse.Namespace,
    study: Study,
    reader: Reader,
    left: list[Child],
    new: set[str],
    command: str,
) -> tuple[int, dict[str, str]]:
    """Exit code, and why runs failed."""
    from msngan.report.tables.progress_bars import StudyProgress
    from msngan.runs.hardware import refuse_too_many
    from msngan.study.scheduler import Scheduler, ask

    refuse_too_many("--jobs", args.jobs)
    refuse_unknown_options(study)
    place = reader.place
    done = len(study.children) - len(left)
    sys.stderr.write(
        f"study {study.name}: {counted(len(left), 'run')} to train, {done} done; checking\n"
    )
    if (problem := ask(left, new)) is not None:
        raise UserError(problem)
    _say_change(study, place)
    with writing(place):
        save_study(study, place)
        (place.folder / "logs").mkdir(exist_ok=True)

    def recorded(failures: dict[str, str]) -> None:
        with writing(place):
            write_json(place.results, collect(study, reader, command, failures))

    workers, jobs = _workers(args, place, len(left))
    with StudyProgress(study, jobs) as display:
        options: dict[str, Any] = {"retry": args.retry, "keep_going": args.keep_going}
        options |= {"display": display, "recorded": recorded}
        scheduler = Scheduler(study, reader, workers, jobs, **options)
        return scheduler.run(), scheduler.failures


def _workers(args: argparse.Namespace, place: Place, left: int) -> tuple[Workers, int]:
    """Where the runs are trained, and how many at a time."""
    if args.on == "ray":
        from msngan.study.on_ray import OnRay

        cpus = 1.0 if args.cpus_per_run is None else args.cpus_per_run
        given = args.address, cpus, args.gpus_per_run or 0.0, args.threads, args.retry
        return OnRay(place, *given), left  # Ray has its own limit
    from msngan.study.scheduler import Processes

    return Processes(place, args.threads, args.jobs, args.retry), args.jobs


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """A folder that cannot be written to, or a full disk, is reported in one line."""
    try:
        yield
    except OSError as problem:
        raise Failure(
            f"cannot write to {place.folder}: {problem.strerror}; make room there or choose"
            " another folder with --root; the runs keep what they have saved"
        ) from problem


def _say_change(study: Study, place: Place) -> None:
    """Say that the study has changed since it was last started."""
    before = started_study(place)
    if before is not None and before.source != study.source:
        old, new = before.source.get("options"), study.source.get("options")
        what = f": options {old} -> {new}" if old != new else ""
        sys.stderr.write(f"study {study.name} has changed since it was started{what}\n")
