"""How far a benchmark is: a bar on a terminal's stderr, elsewhere a line now and then."""

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
    """To be called with the measurements done and measurements in all."""

    def __init__(self, benchmark: str, bar: Bar | None) -> None:
        self.benchmark, self.bar = benchmark, bar
        self._task = bar.add_task(benchmark, total=None) if bar else None
        self._start = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.bar and self._task is not None:
            self.bar.update(self._task, completed=done, total=total)
        elif now - self._shown >= HEARTBEAT_SECONDS:
            self._shown = now
            left = clock((now - self._start) / done * (total - done))
            sys.stderr.write(f"bench {self.benchmark}: {done}/{total} measurements, {left} left\n")


@contextmanager
def progress(benchmark: str) -> Iterator[Progress]:
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Progress(benchmark, None)
        return
    columns = (
        TextColumn("bench {task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, expand=True) as bar:
        yield Progress(benchmark, bar)
