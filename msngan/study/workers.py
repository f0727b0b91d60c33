"""Runs side by side, each in a process of its own, and their end when the study ends.

The processes are forked from a server that has imported what training needs and done nothing else
(multiprocessing's "forkserver"): a run starts at once, and no thread or lock is copied.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from msngan.runs.folder import Failure
from msngan.study.plan import Child

PRELOADED = ["msngan.training"]


def context() -> Any:  # noqa: ANN401  one of multiprocessing's contexts
    """The server's, or where the system has none, new interpreters."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # which would unblock what is blocked below
    # A terminal sends Ctrl-C to the server and the runs too, a batch system SIGTERM. What becomes
    # of them is this process's to say: the server outlives both, a run takes them when it can.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGINT, before)
    return chosen


def ask(target: Callable[..., None], *arguments: Any) -> Any:  # noqa: ANN401  what target sends
    """What `target(connection, *arguments)` sends from a process of its own."""
    receiver, sender = context().Pipe(duplex=False)
    process = context().Process(target=target, args=(sender, *arguments), daemon=True)
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


@dataclass
class Team:
    """At most `most` processes, one a run."""

    target: Callable[..., None]
    most: int
    _running: dict[str, tuple[Child, BaseProcess]] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        return len(self._running) >= self.most

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def start(self, child: Child, *arguments: Any) -> None:  # noqa: ANN401  the target's
        process = context().Process(target=self.target, args=(child, *arguments))
        process.start()
        self._running[child.name] = child, process

    def ended(self, seconds: float) -> list[tuple[Child, int]]:
        """Those that have ended, with their exit codes, after at most this time."""
        wait([process.sentinel for _, process in self._running.values()], timeout=seconds)
        found = []
        for child, process in list(self._running.values()):
            if not process.is_alive():
                process.join()
                del self._running[child.name]
                found.append((child, process.exitcode or 0))
        return found

    def stop(self, at_once: bool = False) -> None:
        """Ask all to save and leave; at once: do not wait for that."""
        for _, process in self._running.values():
            (process.kill if at_once else process.terminate)()

    def join(self) -> None:
        for _, process in self._running.values():
            process.join()


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
