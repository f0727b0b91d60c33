"""A study's runs, one after another or side by side, each in a process, until all have ended.

The processes are forked from a server that has imported what training needs and done nothing else
(multiprocessing's "forkserver"): a run starts at once, and no thread or lock is copied.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol

from msngan.runs import plugins
from msngan.runs.folder import Failure, Taken, UserError, lock
from msngan.study.plan import Child, Study
from msngan.study.study_files import Place, Reader, State

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


def check(sender: Connection, children: list[Child], new: set[str]) -> None:
    """Send None where all options are sound, else the first complaint.

    Options are parsed for all runs, networks are built and data is read for one seed. new: the runs
    that have not begun; an older version may have begun one that this one refuses.
    """
    from msngan.runs.configs import idle, parse, refuse_none_among
    from msngan.training.tasks import TASKS

    leave_with_parent()
    data: dict[str, Any] = {}
    tasks, idles = {}, []
    for child in children:
        try:
            config = parse(child.arguments())
            if child.name in new:
                refuse_none_among(config)
            idles.append(child.name in new and idle(config))
            tasks[config.task] = child.name
            if child.seed == children[0].seed:
                same = repr(config.group("data"))
                task = TASKS[config.task](config, data.get(same))
                data[same] = task.data
                task.build()
        except (ValueError, OSError, Failure) as problem:
            sender.send(f"{child.name}: {' '.join(str(problem).split())}")
            return
    if all(idles):  # one arm alone may lack what the others have
        sender.send(f"no run has a penalty: {idles[0]}")
        return
    named = " and ".join(f"{name} is a {task}" for task, name in tasks.items())
    sender.send(f"all runs of a study train the same task, but {named}" if len(tasks) > 1 else None)


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
    if reader.look(child, own=True).ended(retry):
        return 0  # by another process, since the study last looked
    begun = run.config.is_file()
    if threads is None and not begun and jobs > 1 and "threads" not in child.options:
        threads = max(1, cores() // jobs)
    more = ["--root", str(run.root), *([] if threads is None else [f"--threads={threads}"])]
    if not begun:
        return fit(parse([*child.arguments(), *more]))
    grown = [f"--{name}={value}" for name, value in reader.grown(child).items()]
    return resume(parse(["--config", str(run.config), *grown, *more]), run)


LOST = 1001  # no exit code: a worker, or its machine, ended before the run did
MOST_LOST = 20  # times that a run goes on after that


class Job(Protocol):
    """A run in training somewhere."""

    def code(self) -> int | None:
        """The exit code of `train` or LOST; None while it goes on."""

    def stop(self, at_once: bool) -> None:
        """Let the run save and leave; at once: do not wait for that."""


class Workers(Protocol):
    """Where runs are trained: on this machine, or on others."""

    def start(self, child: Child) -> Job: ...

    def wait(self, jobs: Sequence[Any], seconds: float) -> None:
        """Until a job has ended, at most so long."""


PRELOADED = ["msngan.training.run", "msngan.training.tasks"]
LOOK_SECONDS = 0.5
STOPPING = "stopping: the runs finish their step, save and leave (again leaves at once)"


class Display(Protocol):
    def show(self, states: dict[str, State], failures: dict[str, str]) -> None: ...

    def say(self, line: str) -> None: ...


def context() -> Any:
    """The context of the server, or where the system has none, of new interpreters."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # which would unblock what is blocked below
    # A terminal sends Ctrl-C to the server and the runs too, a batch system SIGTERM. This process
    # decides what becomes of them: the server outlives both, a run takes them when it can.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGINT, before)
    return chosen


def ask(children: list[Child], new: set[str]) -> str | None:
    """What `check` sends, from a process of its own."""
    receiver, sender = context().Pipe(duplex=False)
    target = plugins.carrying(check)
    process = context().Process(target=target, args=(sender, children, new), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise Failure(f"the process that checks the options ended ({process.exitcode})") from None
    finally:
        process.kill()
        process.join()


@dataclass
class Process:
    """A run in a process of this machine."""

    process: BaseProcess

    def code(self) -> int | None:
        if self.process.is_alive():
            return None
        self.process.join()
        return self.process.exitcode or 0

    def stop(self, at_once: bool) -> None:
        (self.process.kill if at_once else self.process.terminate)()


@dataclass
class Processes:
    """Trains each run in a process of this machine."""

    place: Place
    threads: int | None
    jobs: int
    retry: bool

    def start(self, child: Child) -> Process:
        arguments = (child, self.place, self.threads, self.jobs, self.retry)
        process = context().Process(target=plugins.carrying(train), args=arguments)
        process.start()
        return Process(process)

    def wait(self, jobs: Sequence[Process], seconds: float) -> None:
        wait([each.process.sentinel for each in jobs], seconds)


@dataclass
class Signals:
    """Ctrl-C and SIGTERM of the study's own process, counted instead of obeyed."""

    number: int | None = None
    count: int = 0
    _before: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number, self.count = self.number or number, self.count + 1


@dataclass
class Scheduler:
    """retry: train diverged runs again. keep_going: past a run that was refused its options.

    recorded: called with the failures so far (run -> reason) after every run that ended.
    """

    study: Study
    reader: Reader
    workers: Workers
    jobs: int
    retry: bool
    keep_going: bool
    display: Display
    recorded: Callable[[dict[str, str]], None]
    states: dict[str, State] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _waiting: list[Child] = field(default_factory=list)
    _elsewhere: list[Child] = field(default_factory=list)  # trained by another process
    _said: set[str] = field(default_factory=set)
    _lost: Counter[str] = field(default_factory=Counter)
    _jobs: dict[str, tuple[Child, Job]] = field(default_factory=dict)

    def run(self) -> int:
        """0: every run has ended; 1: some failed; 128 + n: stopped by signal n.

        A run that diverged has ended: that is its result. UserError where a run was refused its
        options.
        """
        self._look(self.study.children)
        self._waiting = [
            child for child in self.study.children if not self.states[child.name].ended(self.retry)
        ]
        with Signals() as signals:
            try:
                self._loop(signals)
            finally:
                self._stop(at_once=signals.count > 1)
                while any(job.code() is None for _, job in self._jobs.values()):
                    self.workers.wait([job for _, job in self._jobs.values()], LOOK_SECONDS)
        self._look(self.study.children)
        self.recorded(self.failures)
        if signals.number is not None:
            return 128 + signals.number
        return 1 if self.failures else 0

    def _loop(self, signals: Signals) -> None:
        looked, told = 0.0, 0
        while self._waiting or self._elsewhere or self._jobs:
            while self._waiting and len(self._jobs) < self.jobs and signals.number is None:
                self._start(self._waiting.pop(0))
            if signals.count > told:
                told = signals.count
                self.display.say(STOPPING)
                self._stop(at_once=told > 1)
            if signals.number is not None and not self._jobs:
                return
            self.workers.wait([job for _, job in self._jobs.values()], LOOK_SECONDS)
            for child, job in list(self._jobs.values()):
                if (code := job.code()) is not None:
                    del self._jobs[child.name]
                    self._ended(child, code, stopping=signals.number is not None)
            if not (self._waiting or self._jobs) and self._elsewhere:
                time.sleep(LOOK_SECONDS)
                self._waiting, self._elsewhere = self._elsewhere, []
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self._look([child for child, _ in self._jobs.values()])
                self.display.show(self.states, self.failures)

    def _look(self, children: list[Child]) -> None:
        self.states |= {child.name: self.reader.look(child) for child in children}

    def _start(self, child: Child) -> None:
        self._look([child])
        if self.states[child.name].word == "running":
            if child.name not in self._said:
                self._said.add(child.name)
                self.display.say(f"{child.name}: another process is training it")
            self._elsewhere.append(child)
        elif not self.states[child.name].ended(self.retry):
            self.failures.pop(child.name, None)
            self._jobs[child.name] = child, self.workers.start(child)

    def _stop(self, at_once: bool) -> None:
        """Ask all to save and leave; at once: do not wait for that."""
        for _, job in self._jobs.values():
            job.stop(at_once)

    def _ended(self, child: Child, code: int, stopping: bool) -> None:
        self._look([child])
        state = self.states[child.name]
        if code == TAKEN:
            self._elsewhere.append(child)
            return
        if state.ended():
            newest = f", {state.newest}" if state.newest else ""
            reason = f": {state.reason}" if state.reason else ""
            self.display.say(f"{child.name}: {state.word} at step {state.step}{newest}{reason}")
        elif code == LOST and self._lost[child.name] < MOST_LOST:
            self._lost[child.name] += 1
            if not stopping:
                lost = "its worker was lost; it goes on where it saved last"
                self.display.say(f"{child.name}: {lost}")
                self._waiting.append(child)
        elif not stopping:
            why = self._reason(child, code)
            if code == BAD_INPUT and not self.keep_going:
                raise UserError(f"{child.name}: {why}")
            self.failures[child.name] = why
            self.display.say(f"{child.name}: failed: {why}")
        self.recorded(self.failures)

    def _reason(self, child: Child, code: int) -> str:
        """The last line that the run's process printed, or how it was ended."""
        if code == LOST:
            return f"its worker was lost {MOST_LOST + 1} times"
        if code < 0:
            return f"killed by signal {-code}"
        try:
            said = self.reader.place.log(child.name).read_text("utf-8", "replace").splitlines()
        except OSError:
            said = []
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return last.removeprefix("msngan: error: ") or f"exit code {code}"
