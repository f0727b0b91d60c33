"""A study's runs, one after another or side by side, until all have ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msngan.runs.folder import UserError
from msngan.study.plan import Child, Study
from msngan.study.state import FINISHED, Reader, State
from msngan.study.workers import Signals, Team

BAD_INPUT = 2
TAKEN = 75  # exit code of a process that found its run being trained by another; EX_TEMPFAIL
LOOK_SECONDS = 0.5
STOPPING = "stopping: the runs finish their step, save and leave (again leaves at once)"


class Display(Protocol):
    def show(self, states: dict[str, State], failures: dict[str, str]) -> None: ...

    def say(self, line: str) -> None: ...


@dataclass
class Scheduler:
    """retry: train diverged runs again. keep_going: past a run that was refused its options.

    target: what a process does, of (child, place, threads, jobs, retry). recorded: called with the
    failures so far (run -> reason) after every run that ended.
    """

    study: Study
    reader: Reader
    jobs: int
    threads: int | None
    retry: bool
    keep_going: bool
    target: Callable[..., None]
    display: Display
    recorded: Callable[[dict[str, str]], None]
    states: dict[str, State] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _waiting: list[Child] = field(default_factory=list)
    _elsewhere: list[Child] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def run(self) -> int:
        """0: every run has ended; 1: some failed; 128 + n: stopped by signal n.

        A run that diverged has ended: that is its result. UserError where a run was refused its
        options.
        """
        self.states = {child.name: self.reader.look(child) for child in self.study.children}
        self._waiting = [child for child in self.study.children if self._wanted(child)]
        team = Team(self.target, self.jobs)
        with Signals() as signals:
            try:
                self._loop(team, signals)
            finally:
                team.stop(at_once=signals.count > 1)
                team.join()
        self._look(self.study.children)
        self.recorded(self.failures)
        if signals.number is not None:
            return 128 + signals.number
        return 1 if self.failures else 0

    def _wanted(self, child: Child) -> bool:
        word = self.states[child.name].word
        return word not in FINISHED or (self.retry and word == "diverged")

    def _loop(self, team: Team, signals: Signals) -> None:
        looked, told = 0.0, 0
        while self._waiting or self._elsewhere or team.running:
            while self._waiting and not team.full and signals.number is None:
                self._start(team, self._waiting.pop(0))
            if signals.count > told:
                told = signals.count
                self.display.say(STOPPING)
                team.stop(at_once=told > 1)
            if signals.number is not None and not team.running:
                return
            for child, code in team.ended(LOOK_SECONDS):
                self._ended(child, code, stopping=signals.number is not None)
            if not (self._waiting or team.running) and self._elsewhere:
                time.sleep(LOOK_SECONDS)
                self._waiting, self._elsewhere = self._elsewhere, []
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self._look([child for child in self.study.children if child.name in team.running])
                self.display.show(self.states, self.failures)

    def _look(self, children: list[Child]) -> None:
        self.states |= {child.name: self.reader.look(child) for child in children}

    def _start(self, team: Team, child: Child) -> None:
        self._look([child])
        if self.states[child.name].word == "running":
            if child.name not in self._said:
                self._said.add(child.name)
                self.display.say(f"{child.name}: another process is training it")
            self._elsewhere.append(child)
        elif self._wanted(child):
            self.failures.pop(child.name, None)
            team.start(child, self.reader.place, self.threads, self.jobs, self.retry)

    def _ended(self, child: Child, code: int, stopping: bool) -> None:
        self._look([child])
        state = self.states[child.name]
        if code == TAKEN:
            self._elsewhere.append(child)
            return
        if state.word in FINISHED:
            self.display.say(f"{child.name}: {state.word}{_at(state)}")
        elif not stopping:
            reason = self._reason(child, code)
            if code == BAD_INPUT and not self.keep_going:
                raise UserError(f"{child.name}: {reason}")
            self.failures[child.name] = reason
            self.display.say(f"{child.name}: failed: {reason}")
        self.recorded(self.failures)

    def _reason(self, child: Child, code: int) -> str:
        """The last line that the run's process has said, or how it was ended."""
        if code < 0:
            return f"killed by signal {-code}"
        said = last_line(self.reader.place.log(child.name))
        return said.removeprefix("msngan: error: ") or f"exit code {code}"


def _at(state: State) -> str:
    newest = f", {state.newest}" if state.newest else ""
    return f" at step {state.step}{newest}" + (f": {state.reason}" if state.reason else "")


def last_line(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
