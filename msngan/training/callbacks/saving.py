"""What happens when the disk does not take what a run writes: stop, or warn and go on."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from msngan.runs import distributed as processes
from msngan.runs.folder import Failure, Run

OnError = Literal["stop", "continue"]
TORCH_WRITER = "inline_container.cc"  # the source that torch names when it cannot write
LITTLE = 2**20  # bytes; a disk with less is full


class Unwritable(Failure):
    """The disk did not take something that the run cannot do without."""


class Saving:
    """Every write of a run goes through `attempt`.

    Each kind of file that fails is said once, with the step and the reason, and once more when it
    works again. Files of one kind fail by themselves: a full disk still takes a short line.

    Args:
        on_error: stop: Unwritable; continue: training goes on without the file.
    """

    def __init__(self, on_error: OnError = "stop", run: Run | None = None) -> None:
        self.on_error, self.run = on_error, run
        self.remedy = "make room and resume it"
        self.failing: dict[str, tuple[int, str]] = {}  # first step without it and why, by kind
        self.say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)

    @contextmanager
    def attempt(self, what: str, step: int, *, needed: bool = False) -> Iterator[None]:
        """Around a write of `what`, a kind of file, as of `step`.

        needed: without it what the run leaves would be wrong, so that its failure always stops.
        """
        try:
            # Not left to the write: it may well make the folder of a run that has vanished anew.
            run = self.run if processes.rank() == 0 else None  # others may be on another machine
            if run is not None and not run.config.is_file():
                raise FileNotFoundError(errno.ENOENT, f"the run's {run.config.name} is gone")
            yield
        except (OSError, RuntimeError) as problem:
            cause = reason(problem, self.run)
            if cause is None:
                raise
            if needed or self.on_error == "stop":
                raise self._unwritable(cause) from problem
            self._failed(what, step, cause)
        else:
            self._worked(what, step)

    def _failed(self, what: str, step: int, cause: str) -> None:
        if what not in self.failing:
            self.failing[what] = step, cause
            self.say(
                f"warning: step {step}: {what} cannot be written: {cause}; training goes on without"
            )

    def _worked(self, what: str, step: int) -> None:
        if (since := self.failing.pop(what, None)) is not None:
            self.say(
                f"step {step}: {what} can be written again; what was due between step {since[0]}"
                " and this one is missing"
            )

    def check(self, what: str) -> None:
        """Unwritable where the newest attempt at this kind of file has failed."""
        if what in self.failing:
            raise self._unwritable(self.failing[what][1])

    def _unwritable(self, cause: str) -> Unwritable:
        place = self.run.folder if self.run else "the run's folder"
        return Unwritable(
            f"cannot write to {place}: {cause}; what it had saved is whole: {self.remedy}"
        )


def reason(problem: BaseException, run: Run | None = None) -> str | None:
    """What a full or lost disk is called, None where the error is another."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    if TORCH_WRITER not in str(problem):
        return None
    # torch writes a checkpoint in C++ and has no error number to give
    try:
        free = shutil.disk_usage(run.folder if run else ".").free
    except OSError as gone:
        return gone.strerror
    return os.strerror(errno.ENOSPC) if free < LITTLE else "no room for a checkpoint"
