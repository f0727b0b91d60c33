"""What the processes of a study do: check options, and train one run as fit or resume would."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

from msngan.runs.folder import Failure, Taken, UserError, lock
from msngan.study.plan import Child
from msngan.study.state import FINISHED, Reader
from msngan.study.study_files import Place

BAD_INPUT = 2
TAKEN = 75  # exit code of a process that found its run being trained by another; EX_TEMPFAIL


def leave_with_parent() -> None:
    """In another process: the end of the study's own, however it came, is a SIGTERM here.

    Ctrl-C is left to that one, which passes it on, until training has its own way to take it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process that multiprocessing has started"

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def check(sender: Connection, children: list[Child]) -> None:
    """Send None where all options are sound, else the first complaint as a ValueError.

    Options are parsed for all runs, networks are built and data is read for one seed.
    """
    leave_with_parent()
    try:
        _check(children)
        sender.send(None)
    except (ValueError, Failure) as problem:
        sender.send(ValueError(" ".join(str(problem).split())))
    except OSError as problem:
        sender.send(ValueError(f"{problem.filename}: {problem.strerror}"))


def _check(children: list[Child]) -> None:
    from msngan.runs.configs import parse
    from msngan.training.tasks import TASKS

    data: dict[str, Any] = {}
    tasks = {}
    for child in children:
        try:
            config = parse(child.arguments())
            tasks[config.task] = child.name
            if child.seed == children[0].seed:
                same = repr(config.group("data"))
                task = TASKS[config.task](config, data.get(same))
                data[same] = task.data
                task.build()
        except ValueError as problem:
            raise ValueError(f"{child.name}: {problem}") from problem
    if len(tasks) > 1:
        named = " and ".join(f"{name} is a {task}" for task, name in tasks.items())
        raise ValueError(f"all runs of a study train the same task, but {named}")


def train(child: Child, place: Place, threads: int | None, jobs: int, retry: bool) -> None:
    """One run from where it is to its end, as `msngan fit` or `msngan resume` would.

    Leaves with their exit code, or TAKEN. Whatever it prints goes to the run's log.
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
    except Taken:
        code = TAKEN
    except (UserError, Failure) as problem:
        print(f"msngan: error: {' '.join(str(problem).split())}", file=sys.stderr)
        code = BAD_INPUT if isinstance(problem, UserError) else 1
    except KeyboardInterrupt:
        code = 130
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def _train(child: Child, reader: Reader, threads: int | None, jobs: int, retry: bool) -> int:
    from msngan.runs.configs import parse
    from msngan.runs.hardware import cores
    from msngan.training.run import fit, resume

    run = reader.run(child)
    word = reader.look(child, own=True).word
    if word in FINISHED and not (retry and word == "diverged"):
        return 0  # by another process, since the study last looked
    begun = run.config.is_file()
    if threads is None and not begun and jobs > 1 and "threads" not in child.options:
        threads = max(1, cores() // jobs)
    more = ["--root", str(run.root), *([] if threads is None else [f"--threads={threads}"])]
    if not begun:
        return fit(parse([*child.arguments(), *more]))
    grown = [f"--{name}={value}" for name, value in reader.grown(child).items()]
    return resume(parse(["--config", str(run.config), *grown, *more]), run)
