"""How far an evaluation is: a bar on a terminal's stderr, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from msngan.training.callbacks.progress import clock

HEARTBEAT_SECONDS = 30


class Progress:
    """To be called with images done and images in all; it works out speed and time left."""

    def __init__(self, what: str, bar: Bar | None) -> None:
        self._what, self._bar = what, bar
        self._task = bar.add_task(what, total=None, speed="") if bar else None
        self._start = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        speed = done / max(now - self._start, 1e-9)
        text = f"{speed:,.0f} images/s"
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, speed=text)
        elif now - self._shown >= HEARTBEAT_SECONDS:
            self._shown = now
            left = clock((total - done) / max(speed, 1e-9))
            sys.stderr.write(f"{self._what}: {done:,}/{total:,} images, {text}, {left} left\n")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """One thing's progress, gone from the terminal when it is done."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Progress(what, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[speed]},"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console, transient=True, expand=True) as bar:
        yield Progress(what, bar)
