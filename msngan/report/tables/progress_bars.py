"""How far a study is: on a terminal a table on stderr, elsewhere a line now and then."""

from __future__ import annotations

import statistics
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from msngan.runs.folder import clock, counted
from msngan.runs.progress_bar import HEARTBEAT_SECONDS
from msngan.study.plan import Study
from msngan.study.study_files import FINISHED, State, steps

ORDER = ("running", "failed", "diverged", "part", "collapsed", "done", "to do")


class StudyProgress:
    """The states of a study's runs, of which `jobs` are trained at the same time."""

    def __init__(self, study: Study, jobs: int) -> None:
        self._study, self._jobs = study, jobs
        self._console = Console(file=sys.stderr)
        self._live: Live | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> StudyProgress:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, states: dict[str, State], failures: dict[str, str]) -> None:
        if self._live:
            self._live.update(self._table(states, failures), refresh=True)
        elif time.monotonic() - self._shown >= HEARTBEAT_SECONDS:
            self._shown = time.monotonic()
            running = [
                f"{name} {steps(state)} {state.newest}".rstrip()
                for name, state in states.items()
                if state.word == "running"
            ]
            self.say("; ".join([self._whole(states, failures), *running]))

    def _whole(self, states: dict[str, State], failures: dict[str, str]) -> str:
        """'study NAME: 12 of 63 runs done, 1 diverged, 1:02:03 left'."""
        words = [word_of(name, state, failures) for name, state in states.items()]
        parts = [
            f"{words.count('done') + words.count('collapsed')} of {counted(len(words), 'run')} done"
        ]
        parts += [f"{words.count(each)} {each}" for each in ("diverged", "failed") if each in words]
        left = study_seconds_left(list(states.values()), self._jobs)
        parts += [] if left is None else [f"{clock(left)} left"]
        return f"study {self._study.name}: {', '.join(parts)}"

    def _table(self, states: dict[str, State], failures: dict[str, str]) -> Table:
        drawn = Table(title=Text(self._whole(states, failures)), title_justify="left", box=None)
        for name in ("run", "state", "step", "steps/s", "newest", "left"):
            drawn.add_column(name, justify="left" if name in ("run", "state") else "right")
        words = {name: word_of(name, state, failures) for name, state in states.items()}
        order = sorted(states, key=lambda name: ORDER.index(words[name]))
        most = max(self._console.height - 5, 3)
        for name in order[:most]:
            state, speed, left = states[name], "", ""
            if state.word == "running" and state.speed:
                speed, seconds = f"{state.speed:.1f}", seconds_left(state)
                left = "" if seconds is None else clock(seconds)
            short = name.removeprefix(f"{self._study.name}-")  # the title says the rest
            cells = [short, words[name], steps(state), speed, state.newest, left]
            drawn.add_row(*map(Text, cells))
        if len(order) > most:
            drawn.add_row(Text(f"… and {len(order) - most} more"))
        return drawn


def word_of(name: str, state: State, failures: dict[str, str]) -> str:
    """The state, or that the run failed since the study was started."""
    return "failed" if name in failures and state.word not in FINISHED else state.word


def seconds_left(state: State) -> float | None:
    """Of training this run; None while it is not known."""
    if state.word in FINISHED:
        return 0.0
    if state.total is None or not state.speed:
        return None
    return max(state.total - state.step, 0) / state.speed


def study_seconds_left(states: list[State], jobs: int) -> float | None:
    """Of the study; a run that has not begun counts as the average of the others."""
    whole = [each.total / each.speed for each in states if each.total and each.speed]
    if not whole:
        return None
    typical = statistics.fmean(whole)
    left = [seconds_left(each) for each in states]
    return sum(typical if each is None else each for each in left) / jobs
