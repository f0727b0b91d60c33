"""What benchmarks share: times in rounds, their ratios and the record; operations; live bytes."""

from __future__ import annotations

import math
import random
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msngan.bench.settings import Settings
from msngan.runs.hardware import cuda, hardware, software

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
        enough = math.ceil(LEAST_SECONDS / max(self.seconds(action), 1e-9))
        repeats = min(max(enough, 1), MOST_REPEATS)

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


def record(
    benchmark: str,
    settings: Settings,
    run: Callable[[Any, Clock, Progress], dict[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    """Measure, and return the whole result as a JSON object: times in seconds, memory in bytes.

    run: the benchmark's own, which returns `baseline`, `results` and what else it has to say.
    """
    clock = clock_of(settings.device, settings.threads)
    found = run(settings, clock, progress)
    about = software()
    return {
        "format": 1,
        "benchmark": benchmark,
        "command": about["command"],
        "time": about["time"],
        "hardware": hardware(),
        "cuda": cuda() if settings.device == "cuda" else None,
        "versions": {"msngan": about["msngan"], "python": about["python"], **about["versions"]},
        "threads": settings.threads,
        "clock": clock.name,
        "rounds": settings.rounds,
        "settings": {
            **asdict(settings),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        **found,
    }


NO_WORK = {"_unsafe_view"}  # computes nothing and is not marked as a view


class Observer(TorchDispatchMode):
    """What is computed inside.

    operations: how often each operation is dispatched, by name, including the backward pass. Views
    and queries of types compute nothing and are not counted; one on a list of tensors counts once.
    live: after each operation, the bytes of all storages that operations inside have made and that
    are still alive. Memory that an operation allocates and frees internally is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.live: list[int] = []
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        inputs, outputs = _storages((args, kwargs)), _storages(made)
        name = operation.name().partition(".")[0].removeprefix("aten::")
        if not operation.is_view:
            if name not in NO_WORK and (inputs or outputs):
                self.operations[name] += 1
            for key in outputs.keys() - inputs.keys() - self._known:
                size = outputs[key].nbytes()
                self._known.add(key)
                self._now += size
                weakref.finalize(outputs[key], self._remove, key, size)
        self.live.append(self._now)
        return made

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    found = (each.untyped_storage() for each in tree_leaves(values) if isinstance(each, Tensor))
    return {storage._cdata: storage for storage in found}


def observed(action: Action) -> Observer:
    with Observer() as found:
        action()
    return found
