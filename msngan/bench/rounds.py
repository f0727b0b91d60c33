"""Clocks, and rounds in which the variants take turns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Action = Callable[[], object]
LEAST_SECONDS = 0.02  # of one measurement; a shorter action is repeated
MOST_REPEATS = 50


@dataclass(frozen=True)
class Clock:
    """seconds(action) runs it once; `name` says which time that is."""

    name: str
    seconds: Callable[[Action], float]

    def repeated(self, action: Action) -> Callable[[], float]:
        """A measurement of `action`, repeated until a single one is long enough to be timed."""
        action()
        repeats = math.ceil(LEAST_SECONDS / max(self.seconds(action), 1e-9))
        repeats = min(max(repeats, 1), MOST_REPEATS)

        def several() -> None:
            for _ in range(repeats):
                action()

        return lambda: self.seconds(several) / repeats


def clock_of(device: str, threads: int) -> Clock:
    """CUDA events on a GPU; the thread's own processor time where there is one thread.

    With several threads it is the time on the wall, which whatever else runs disturbs.
    """
    if device == "cuda":
        return Clock("CUDA events", _cuda_seconds)
    name, read = reader_of(device, threads)
    return Clock(name, _by(read))


def reader_of(device: str, threads: int) -> tuple[str, Callable[[], float]]:
    """A clock that is read before and after: what it is called, and its time in seconds."""
    if device == "cuda":
        return "time on the wall, the GPU waited for", _waited
    if threads == 1:
        return "processor time of the only thread", time.thread_time
    return f"time on the wall, {threads} threads", time.perf_counter


def _waited() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _by(read: Callable[[], float]) -> Callable[[Action], float]:
    def seconds(action: Action) -> float:
        start = read()
        action()
        return read() - start

    return seconds


def _cuda_seconds(action: Action) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


class Watcher(Protocol):
    """Is told how much there is to do, and each time that a part of it is done."""

    def expect(self, parts: int) -> None: ...

    def tick(self) -> None: ...


def interleaved(
    measures: Mapping[str, Callable[[], float]], rounds: int, watcher: Watcher, warm_up: int = 1
) -> dict[str, list[float]]:
    """The seconds of every variant in each round, in an order that differs from round to round.

    The first `warm_up` rounds are not kept. Each measure runs once a round.
    """
    watcher.expect((rounds + warm_up) * len(measures))
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + warm_up):
        order = list(measures)
        random.Random(number).shuffle(order)
        for name in order:
            seconds = measures[name]()
            if number >= warm_up:
                found[name].append(seconds)
            watcher.tick()
    return found
