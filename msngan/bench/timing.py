"""Clocks, rounds in which the variants take turns, and the ratios of their times."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Action = Callable[[], object]
Progress = Callable[[int, int], None]  # measurements done, measurements in all
LEAST_SECONDS = 0.02  # of one measurement; a shorter action is repeated
MOST_REPEATS = 50
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Clock:
    """read() returns the time in seconds; `name` says which time that is."""

    name: str
    read: Callable[[], float]

    def seconds(self, action: Action) -> float:
        start = self.read()
        action()
        return self.read() - start

    def repeated(self, action: Action) -> Callable[[], float]:
        """A measurement of `action`, which repeats it until it takes long enough to be timed."""
        action()
        repeats = math.ceil(LEAST_SECONDS / max(self.seconds(action), 1e-9))
        repeats = min(max(repeats, 1), MOST_REPEATS)

        def several() -> None:
            for _ in range(repeats):
                action()

        return lambda: self.seconds(several) / repeats


def clock_of(device: str, threads: int) -> Clock:
    """The processor time of the thread where there is one thread, which other load does not affect.

    On a GPU and with several threads it is the wall-clock time; a GPU is synchronised first.
    """
    if device == "cuda":
        return Clock("wall-clock time, GPU synchronised", _synchronised)
    if threads == 1:
        return Clock("processor time of the only thread", time.thread_time)
    return Clock(f"wall-clock time, {threads} threads", time.perf_counter)


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    measures: Mapping[str, Callable[[], float]], rounds: int, progress: Progress, warm_up: int = 1
) -> dict[str, list[float]]:
    """The seconds of every variant in each round, in an order that differs from round to round.

    Each measure runs once a round. The first `warm_up` rounds are not kept.
    """
    total = (rounds + warm_up) * len(measures)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + warm_up):
        order = list(measures)
        random.Random(number).shuffle(order)
        for place, name in enumerate(order, start=1):
            seconds = measures[name]()
            if number >= warm_up:
                found[name].append(seconds)
            progress(number * len(measures) + place, total)
    return found


def ratio(seconds: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Statistics of the ratios of two lists of times > 0, one of each a round, in the same order.

    median, q1, q3: median and quartiles of the ratios. low, high: 95% interval of the median, by
    bootstrap over rounds. of_minima: smallest time over the baseline's smallest, which other load
    on the machine affects least. ValueError for lists of different lengths and for empty ones.
    """
    if len(seconds) != len(baseline) or not seconds:
        raise ValueError(f"cannot compare {len(seconds)} times with {len(baseline)}")
    ratios = np.divide(seconds, baseline)
    resampled = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    q1, middle, q3 = np.quantile(ratios, [0.25, 0.5, 0.75])
    found = {"median": middle, "low": low, "high": high, "q1": q1, "q3": q3}
    found["of_minima"] = min(seconds) / min(baseline)
    return {name: float(value) for name, value in found.items()}
