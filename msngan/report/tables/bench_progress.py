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
    """Measurements done, measurements in all, time left."""

    def __init__(self, benchmark: str, bar: Bar | None) -> None:
        self.benchmark, self.bar = benchmark, bar
        self._task = bar.add_task(benchmark, total=None) if bar else None
        self._total = self._done = 0
        self._start = self._shown = time.monotonic()

    def expect(self, parts: int) -> None:
        self._total, self._start = parts, time.monotonic()
        if self.bar and self._task is not None:
            self.bar.update(self._task, total=parts)

    def tick(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self.bar and self._task is not None:
            self.bar.update(self._task, completed=self._done)
        elif now - self._shown >= HEARTBEAT_SECONDS:
            self._shown = now
            left = (now - self._start) / self._done * (self._total - self._done)
            sys.stderr.write(
                f"bench {self.benchmark}: {self._done}/{self._total} measurements,"
                f" {clock(left)} left\n"
            )


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
