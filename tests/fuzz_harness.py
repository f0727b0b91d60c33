"""One input: a clear error or a valid result, in time, and nothing half-written."""

from __future__ import annotations

import io
import random
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

from msngan.__main__ import main
from msngan.runs.folder import Failure, UserError

SECONDS = 10  # for one input
MOST_GROWTH = 512  # MiB of memory that all inputs of a kind may leave more than there was


class TooSlow(BaseException):
    """An input took longer than SECONDS."""


def command(*arguments: Any) -> Callable[[], int]:
    """A command line, in this process."""
    return lambda: main([str(each) for each in arguments])


def outcome(call: Callable[[], Any]) -> str:
    """ok, refused or failed; whatever else is raised is a defect, and is raised."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
            warnings.simplefilter("ignore")
            result = call()
        if result == 2:
            check_text(err.getvalue().strip().splitlines()[-1])
        code = result if isinstance(result, int) else 0
    except UserError as problem:
        check_text(str(problem))
        code = 2
    except Failure as problem:
        check_text(str(problem))
        code = 1
    except SystemExit as ending:
        code = int(ending.code or 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return {0: "ok", 1: "failed", 2: "refused"}[code]


def check_text(text: str) -> None:
    """An error says something, and not a book."""
    assert text.strip()
    assert len(text) < 20_000, text[:200]


def many(
    case: Callable[[random.Random], Callable[[], Any]], count: int, folder: Path, seed: str
) -> Counter[str]:
    """The outcomes of `count` inputs. case: makes one input's files, and what reads them.

    An input is known by its seed, which an error names: `case(random.Random(seed))` makes it again.
    """
    found: Counter[str] = Counter()
    before = memory()
    for number in range(count):
        name = f"{seed}/{number}"
        call = case(random.Random(name))
        try:
            found[outcome(call)] += 1
        except BaseException as problem:
            problem.args = (f"input {name!r}: {problem!r}",)
            raise
        if number % 50 == 0 or number == count - 1:
            left = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
            assert not left, f"input {name!r} or one before it left {left}"
    assert memory() - before < MOST_GROWTH
    return found


def memory() -> float:
    """The most that this process has held so far, MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform != "darwin" else most / 2**20
