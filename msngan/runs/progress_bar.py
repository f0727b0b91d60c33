"""How far a command is: on a terminal a bar on stderr, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from msngan.runs.folder import clock

HEARTBEAT_SECONDS = 30


@contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """A function to call with how many units are done and how many there are.

    On a terminal the bar disappears at the end.
    """
    console = Console(file=sys.stderr)
    start = shown = time.monotonic()

    def speed_of(done: int) -> float:
        return done / max(time.monotonic() - start, 1e-9)

    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(f"{unit}{{task.fields[speed]}},"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, console=console, transient=True, expand=True) as bar:
            task = bar.add_task(what, total=None, speed="")
            yield lambda done, total: bar.update(
                task, completed=done, total=total, speed=in_words(speed_of(done), unit)
            )
        return

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown < HEARTBEAT_SECONDS:
            return
        shown, speed = time.monotonic(), speed_of(done)
        left = clock((total - done) / max(speed, 1e-9))
        words = f"{done:,}/{total:,} {unit}{in_words(speed, unit)}, {left} left"
        print(f"{what}: {words}", file=sys.stderr)

    yield tell


def in_words(speed: float, unit: str) -> str:
    """', 310 images/s'; nothing for less than one a second."""
    return f", {speed:,.0f} {unit}/s" if speed >= 1 else ""
