"""What is measured of a training loop: the time of a step, its operations, its launches and waits.

On a GPU a time is that between two events on the stream: the host waits before the first and after
the last step that is timed, and never between. What the host does is timed apart, in steps that
begin with an idle GPU; later its launches wait for room in the queue.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from msngan.bench.timing import Clock
from msngan.networks.step_graph import WARM_UP

Done = Callable[[int], bool]
# Plays steps and calls done(step), counted from 1, at the end of each, until that is true.
Play = Callable[[Done], None]

RECORDING = WARM_UP + 1  # the step in which a CUDA graph is recorded, and played once
PROFILED = 2  # steps whose calls are counted
PRODUCT = 8192  # rows and columns of the matrices
MARK = "msngan: counted from here, or to here"
# Calls that give the GPU something to do, and calls that return when it is done.
LAUNCH = re.compile("cuda(Launch|GraphLaunch|Memcpy|Memset)|cu(Launch|GraphLaunch|Memcpy|Memset)")
WAIT = re.compile("cuda(Stream|Device|Event)Synchronize|cu(Stream|Ctx|Event)Synchronize")


@dataclass(frozen=True)
class Steps:
    """Of one measurement: first those that are not timed, then those that are."""

    discarded: int
    measured: int


# A GPU's graph is recorded, its convolutions are chosen and its memory is allocated in the first
# steps; its clock rate rises.
STEPS = {"cpu": Steps(1, 3), "cuda": Steps(20, 100)}


class Times(NamedTuple):
    """Seconds of a step; the rest on a GPU only.

    launching: median time that the host takes to launch a step. If it is close to `step`, the GPU
    waits for launches. recording: of the step in which a graph is recorded, if one is.
    """

    step: float
    launching: float | None = None
    recording: float | None = None


def timed(play: Play, steps: Steps, clock: Clock, device: str) -> Times:
    """The times of a step in one measurement; `clock` is used on a CPU only."""
    return _timed_on_gpu(play, steps) if device == "cuda" else _timed(play, steps, clock)


def _timed(play: Play, steps: Steps, clock: Clock) -> Times:
    read: list[float] = []

    def done(step: int) -> bool:
        if step in (steps.discarded, steps.discarded + steps.measured):
            read.append(clock.read())
        return len(read) == 2

    play(done)
    return Times((read[1] - read[0]) / steps.measured)


def _timed_on_gpu(play: Play, steps: Steps) -> Times:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    launching: list[float] = []  # of the discarded steps but the first
    finished: list[float] = []  # when each discarded step was

    def done(step: int) -> bool:
        if step <= steps.discarded:
            if finished:
                launching.append(time.perf_counter() - finished[-1])
            torch.cuda.synchronize()
            finished.append(time.perf_counter())
        if step == steps.discarded:
            first.record()
        if step == steps.discarded + steps.measured:
            last.record()
            return True
        return False

    play(done)
    last.synchronize()
    return Times(
        first.elapsed_time(last) / 1000 / steps.measured,
        median(launching[RECORDING - 1 :]),  # of the steps after it
        finished[RECORDING - 1] - finished[RECORDING - 2],
    )


def flops_of_step(play: Play) -> int:
    """Floating-point operations of products and convolutions in the second step.

    A multiply-add counts as two. The first step may settle estimates.
    """
    totals: list[int] = []
    with FlopCounterMode(display=False) as counter:

        def done(step: int) -> bool:
            totals.append(counter.get_total_flops())
            return step == 2

        play(done)
    return totals[1] - totals[0]


class Calls(NamedTuple):
    """A step's calls of CUDA: launches of kernels, graphs, copies and fills, and waits."""

    launches: float
    waits: float


def calls_of_step(play: Play, discarded: int) -> Calls | None:
    """The calls of CUDA in a step after `discarded` ones; None if the profiler does not see them.

    A profiler slows down what comes after it in the process.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no notices in the terminal
    profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    with ExitStack() as stack:

        def mark() -> None:
            with record_function(MARK):
                pass

        def done(step: int) -> bool:
            if step == discarded:
                stack.enter_context(profiler)
                mark()
            elif step == discarded + PROFILED:
                mark()
                stack.close()
                return True
            return False

        play(done)
    return calls_between_marks(profiler.events() or [])


def calls_between_marks(events: Iterable[Any], steps: int = PROFILED) -> Calls | None:
    """Per step, of a profiler's events: it waits for the GPU itself before and after the marks."""
    found = sorted((each.time_range.start, each.name) for each in events)
    marks = [index for index, (_, name) in enumerate(found) if name == MARK]
    names = [name for _, name in found[marks[0] : marks[-1]]] if marks else []
    launches = sum(bool(LAUNCH.match(name)) for name in names)
    waits = sum(bool(WAIT.match(name) or name == "cudaMemcpy") for name in names)
    return Calls(launches / steps, waits / steps) if launches else None


def multiply(precision: str, device: str, done: Done) -> None:
    """A loop of products of two large square matrices in float32 or bfloat16, to be played.

    Their speed is the peak that a step is compared with. float32 takes TF32 here if it may in
    convolutions.
    """
    a, b = torch.randn(2, PRODUCT, PRODUCT, device=device).to(getattr(torch, precision))
    made = torch.empty_like(a)
    backends: Any = torch.backends
    products, before = backends.cuda.matmul, backends.cuda.matmul.fp32_precision
    products.fp32_precision = backends.cudnn.conv.fp32_precision
    try:
        for step in count(1):
            torch.mm(a, b, out=made)
            if done(step):
                return
    finally:
        products.fp32_precision = before
