"""`msngan study`: a grid of runs, resumable as a whole, and the table that it ends in."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msngan.commands.parser import Parser
from msngan.report.tables.study import list_tables, show_results
from msngan.report.tables.table import FORMATS, print_as
from msngan.runs.folder import Failure, UserError
from msngan.study.plan import Child, Study
from msngan.study.results import collect, save
from msngan.study.state import FINISHED, Reader
from msngan.study.study_files import Place, open_study, save_study, started_study

DESCRIPTION = """\
Train every run of a study (norms, learning rates, seeds, ...), each as `msngan fit` would, and end
in one table. What is done is skipped, what was begun is resumed: after Ctrl-C, a crash or a power
cut, the same command goes on. A study is a YAML file: a base config, arms or a grid, seeds."""


def parser() -> Parser:
    made = Parser(prog="msngan study", description=DESCRIPTION)
    made.add_argument(
        "study", metavar="NAME_OR_YAML", help="a study's file, or the name of a known or begun one"
    )
    made.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="change a fixed option of every run, epochs=5 for instance; may be repeated",
    )
    made.add_argument("--name", help="of this study, its runs' first word; default: the file's")
    made.add_argument("--jobs", type=count, default=1, help="runs side by side; default: 1")
    made.add_argument(
        "--threads", type=count, help="of each run; default: the cores by the jobs, all for one"
    )
    made.add_argument("--retry", action="store_true", help="go on with runs that diverged, too")
    made.add_argument(
        "--keep-going",
        action="store_true",
        help="train the others when a run is refused for its input",
    )
    only = made.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="only say how far each run is")
    only.add_argument("--table", action="store_true", help="only the table, of what is there")
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    made.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="where checkpoints/ is; default: ."
    )
    return made


def count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1")
    return int(word)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    study = open_study(args.study, args.root, args.name, args.changes)
    place = Place(study.name, args.root)
    if args.table and not args.changes:
        study = started_study(place) or study
    reader = Reader(place)
    command = shlex.join(["msngan", "study", *argv])
    if args.list:
        _say_change(study, place)
        states = {child.name: reader.look(child) for child in study.children}
        print_as(args.format, **list_tables(study, states))
        return 0
    if args.table:
        show_results(args.format, collect(study, reader, command), args.root, study)
        return 0
    return _run(args, study, reader, command)


def _run(args: argparse.Namespace, study: Study, reader: Reader, command: str) -> int:
    states = {child.name: reader.look(child) for child in study.children}
    ended = FINISHED if not args.retry else ("done", "collapsed")
    left = [child for child in study.children if states[child.name].word not in ended]
    code = 0
    failures: dict[str, str] = {}
    if left:
        code, failures = _train(args, study, reader, left, command)
    results = collect(study, reader, command, failures)
    with writing(reader.place):
        if not left:  # its runs were trained one by one, perhaps
            save_study(study, reader.place)
        save(results, reader.place)
    if code >= 128:
        sys.stderr.write(f"stopped; continue with:\n  {command}\n")
        return code
    show_results(args.format, results, args.root, study)
    return code


def _train(
    args: argparse.Namespace, study: Study, reader: Reader, left: list[Child], command: str
) -> tuple[int, dict[str, str]]:
    """Exit code, and why runs failed."""
    from msngan.report.tables.study_progress import Display
    from msngan.study.scheduler import Scheduler
    from msngan.study.worker import check, train
    from msngan.study.workers import ask

    done = len(study.children) - len(left)
    sys.stderr.write(f"study {study.name}: {len(left)} runs to train, {done} done; checking\n")
    if isinstance(problem := ask(check, left), ValueError):
        raise UserError(str(problem))
    _say_change(study, reader.place)
    with writing(reader.place):
        save_study(study, reader.place)
        (reader.place.folder / "logs").mkdir(exist_ok=True)

    def recorded(failures: dict[str, str]) -> None:
        with writing(reader.place):
            save(collect(study, reader, command, failures), reader.place)

    with Display(study, args.jobs) as display:
        scheduler = Scheduler(
            study,
            reader,
            args.jobs,
            args.threads,
            args.retry,
            args.keep_going,
            train,
            display,
            recorded,
        )
        return scheduler.run(), scheduler.failures


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """A folder that takes no file, or a full disk, is said in one line."""
    try:
        yield
    except OSError as problem:
        raise Failure(
            f"cannot write to {place.folder}: {problem.strerror}; make room there or choose"
            " another folder with --root; the runs keep what they have saved"
        ) from problem


def _say_change(study: Study, place: Place) -> None:
    """That the study is not what it was when it was last started."""
    before = started_study(place)
    if before is not None and before.source != study.source:
        old, new = before.source.get("options"), study.source.get("options")
        what = f": options {old} -> {new}" if old != new else ""
        sys.stderr.write(f"study {study.name} has changed since it was started{what}\n")
