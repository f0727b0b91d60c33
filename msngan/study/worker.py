"""What the processes of a study do: check options, and train one run as fit or resume do."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from msngan.runs.folder import Failure, Taken, UserError, lock
from msngan.study.arguments import fit_arguments
from msngan.study.plan import Child
from msngan.study.scheduler import BAD_INPUT, TAKEN
from msngan.study.state import FINISHED, Reader
from msngan.study.study_files import Place
from msngan.study.workers import leave_with_parent


def check(sender: Connection, children: list[Child]) -> None:
    """Send the task of all, or the first complaint as a ValueError.

    Options are parsed for all of them, networks are built and data is read for one seed.
    """
    leave_with_parent()
    try:
        sender.send(_check(children))
    except (ValueError, Failure) as problem:
        sender.send(ValueError(" ".join(str(problem).split())))
    except OSError as problem:
        sender.send(ValueError(f"{problem.filename}: {problem.strerror}"))


def _check(children: list[Child]) -> str:
    from msngan.training.options import parse
    from msngan.training.run import TASKS

    data: dict[str, Any] = {}
    tasks = {}
    for child in children:
        try:
            cli = parse(fit_arguments(child))
            tasks[cli.task] = child.name
            if child.seed == children[0].seed:
                built = cli.parser.instantiate(cli.config)
                built.data = data.setdefault(repr(cli.config.data), built.data)
                TASKS[cli.task](cli.config, built).module()
        except ValueError as problem:
            raise ValueError(f"{child.name}: {problem}") from problem
    if len(tasks) > 1:
        named = " and ".join(f"{name} is a {task}" for task, name in tasks.items())
        raise ValueError(f"a study is of one task: {named}")
    return next(iter(tasks))


def train(child: Child, place: Place, threads: int | None, jobs: int, retry: bool) -> None:
    """One run from where it is to its end, as `msngan fit` or `msngan resume` would.

    Leaves with their exit code, or TAKEN. Whatever it says goes to the run's log.
    """
    leave_with_parent()
    log = place.log(child.name)
    held = lock(log)
    if held is None:
        sys.exit(TAKEN)
    # Opened anew: what a run starts inherits this description, and must not inherit the lock.
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    try:
        code = _train(child, Reader(place), threads, jobs, retry)
    except (ValueError, Failure) as problem:
        if not isinstance(problem, (UserError, Failure)):
            traceback.print_exc()
        print(f"msngan: error: {' '.join(str(problem).split())}", file=sys.stderr)
        code = BAD_INPUT if isinstance(problem, UserError) else 1
        if isinstance(problem, Taken):
            code = TAKEN
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def _train(child: Child, reader: Reader, threads: int | None, jobs: int, retry: bool) -> int:
    from msngan.runs.hardware import cores
    from msngan.training import fit, resume
    from msngan.training.options import parse

    run = reader.run(child)
    word = reader.look(child, own=True).word
    if word in FINISHED and not (retry and word == "diverged"):
        return 0  # by another process, since the study last looked
    place = ["--root", str(run.root)]
    if not run.config.is_file():
        if threads is None and jobs > 1 and "threads" not in child.options:
            threads = max(1, cores() // jobs)
        asked = [] if threads is None else [f"--threads={threads}"]
        return fit(parse([*fit_arguments(child), *place, *asked]))
    asked = [] if threads is None else [f"--threads={threads}"]
    grown = [f"--{name}={value}" for name, value in reader.grown(child).items()]
    return resume(parse(["--config", str(run.config), *grown, *asked, *place]), run)
