"""What the arms' runs have on record, which layers and moments a figure shows, and its captions."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msngan.report.figures.arms import Arm, Source
from msngan.report.figures.quantities import WINDOW
from msngan.report.figures.style import Style
from msngan.runs.folder import UserError, counted, did_you_mean
from msngan.runs.jsonl import read_lines
from msngan.runs.safe_read import object_or_empty
from msngan.training.dynamics import Dynamics, first_middle_last

NEAR = 0.02  # of the longest run's steps: measurements as near as this are of the same moment
MEANS = "their mean, with a band of one sd to each side, as far as all of them go"
FIRST_THEN_MEANS = f"(a) the first; otherwise {MEANS}"


class Unavailable(ValueError):
    """A figure that cannot be drawn of these runs; the text says why and what to do."""


@dataclass(frozen=True)
class Layer:
    """index: in the record's list; shape: of the weight."""

    index: int
    name: str
    shape: tuple[int, ...]

    def words(self, letters: int) -> str:
        """Its index, name and shape, in two lines if one of `letters` letters is too short."""
        shape = f"({'linear' if len(self.shape) == 2 else 'conv'} {'x'.join(map(str, self.shape))})"
        whole = f"layer {self.index}, {self.name} {shape}"
        if len(whole) <= letters:
            return whole
        name = self.name
        if len(name) > letters:
            half = letters // 2 - 1
            name = f"{name[:half]}…{name[-half:]}"
        return f"layer {self.index} {shape}\n{name}"


@dataclass(frozen=True)
class Recorded:
    """An arm's runs that have a record: (source, record) in order of seed, at least one."""

    arm: Arm
    runs: tuple[tuple[Source, Any], ...]

    @property
    def first(self) -> Any:  # noqa: ANN401  a record
        return self.runs[0][1]


def with_dynamics(arms: Sequence[Arm]) -> tuple[list[Recorded], list[str]]:
    """The runs with a dynamics.npz, and a line on those without; Unavailable if none has one."""
    how = "train with --dynamics.every N (0 records none)"
    return _with(arms, lambda source: source.dynamics, "dynamics.npz", how)


def with_accuracy(arms: Sequence[Arm]) -> tuple[list[Recorded], list[str]]:
    """The runs with accuracies of epochs, and a line on those without."""
    how = "a classifier's run writes it at the end of each epoch; a GAN's has scores instead"
    return _with(arms, _accuracy, "accuracy.jsonl", how)


def _with(
    arms: Sequence[Arm], read: Callable[[Source], Any], name: str, how: str
) -> tuple[list[Recorded], list[str]]:
    found, missing, remarks = [], [], []
    for arm in arms:
        runs = []
        for source in arm.sources:
            try:
                record = read(source)
            except (OSError, ValueError) as problem:
                remarks.append(str(problem))
                continue
            if record:
                runs.append((source, record))
            else:
                missing.append(source.name)
        if runs:
            found.append(Recorded(arm, tuple(runs)))
    if missing:
        who = f"{', '.join(missing[:4])}{f' and {len(missing) - 4} more' if missing[4:] else ''}"
        remarks.append(f"no {name} in {who}; {how}")
    if not found:
        raise Unavailable("; ".join(remarks))
    return found, remarks


def _accuracy(source: Source) -> list[dict[str, Any]]:
    """The lines in order of step, without those that lack a number."""
    needed = ("step", "epoch", "test_accuracy")
    lines = [
        line
        for line in read_lines(source.run.accuracy)
        if all(isinstance(line.get(name), int | float) for name in needed)
    ]
    return sorted(lines, key=lambda line: line["step"])


def status(source: Source) -> str:
    """done, diverged or collapsed; unfinished where no result is written."""
    return str(object_or_empty(source.run.result).get("status", "unfinished"))


def choose(record: Dynamics, wanted: Sequence[str], name: str) -> list[Layer]:
    """The layers of `wanted`, by index or pattern of names, each once and in that order.

    By default the first, middle and last convolution, of a GAN those of its critic. UserError names
    the run `name` and its layers if a wanted one is not among them.
    """
    layers = [
        Layer(index, *each)
        for index, each in enumerate(zip(record.layers, record.shapes, strict=True))
    ]
    if not wanted:
        critic = [layer for layer in layers if layer.name.startswith("critic.")]
        pool = [each for each in critic or layers if len(each.shape) > 2] or critic or layers
        places = sorted({0, len(pool) // 2, len(pool) - 1})
        return [pool[place] for place in places] if pool else []
    chosen: dict[int, Layer] = {}
    for word in wanted:
        if word.lstrip("-").isdigit():
            found = [layer for layer in layers if layer.index == int(word)]
        else:
            found = [layer for layer in layers if fnmatch.fnmatchcase(layer.name, word)]
            found = found or [layer for layer in layers if word in layer.name]
        if not found:
            near = did_you_mean(word, list(record.layers))
            listed = ", ".join(f"{layer.index} {layer.name}" for layer in layers[:20])
            more = " ..." if layers[20:] else ""
            raise UserError(
                f"--layers {word}: no such layer in run {name!r}{near}; it has {listed}{more}"
            )
        chosen |= {layer.index: layer for layer in found}
    return list(chosen.values())


def shared_layers(recorded: Sequence[Recorded], wanted: Sequence[str]) -> list[Layer]:
    """The layers to compare; Unavailable if they are not the same layer in every run.

    The same: of one shape, and at one place of equal networks or under one name. A norm that is a
    module of its own may change names, but not places.
    """
    (first, record), *others = [run for each in recorded for run in each.runs]
    chosen = choose(record, wanted, first.name)
    for source, other in others:
        same = other.shapes == record.shapes
        here, there = (
            [(layer.index, layer.shape, same or layer.name) for layer in layers]
            for layers in (choose(other, wanted, source.name), chosen)
        )
        if here != there:
            raise Unavailable(
                f"{first.name} and {source.name} have different networks, whose layers are not"
                " comparable; draw them apart, or choose layers of one name, shape and place with"
                " --layers"
            )
    return chosen


def moments(
    recorded: Sequence[Recorded], measured: Callable[[Dynamics], NDArray[np.bool_] | np.bool_]
) -> list[int]:
    """The steps of the first, middle and last measurement of the longest run.

    measured: (T,) which of a record's measurements count. Fewer steps where there are fewer.
    """
    longest = max((r for each in recorded for _, r in each.runs), key=lambda r: int(r.step[-1]))
    steps = longest.step[measured(longest)]
    if not len(steps):
        return [int(longest.step[-1])]
    return [int(steps[place]) for place in first_middle_last(steps)]


def at(record: Dynamics, step: int) -> int | None:
    """The measurement at that step or near it; None if the run ended before."""
    place = int(np.abs(record.step - step).argmin())
    return place if abs(int(record.step[place]) - step) <= NEAR * max(step, 1) else None


def entries(arms: Sequence[Arm], recorded: Sequence[Recorded]) -> list[tuple[str, Style]]:
    """The legend: each arm with its number of runs, and how many of them failed or are unfinished.

    It includes arms without a record, which may have diverged before there was one.
    """
    drawn = {each.arm.label: len(each.runs) for each in recorded}
    made = []
    for arm in arms:
        count, every = drawn.get(arm.label, 0), len(arm.sources)
        words = arm.label
        if every > 1:
            words += f" ({every} runs)" if count == every else f" ({count} of {every} runs)"
        elif not count:
            words += ", no record"
        for state in ("diverged", "collapsed", "unfinished"):
            if number := sum(status(source) == state for source in arm.sources):
                words += f", {number} {state}" if every > 1 else f", {state}"
        made.append((words, arm.look))
    return made


def subject(arms: Sequence[Arm]) -> str:
    """What all arms have in common: the data set and the network."""
    options = [source.options for arm in arms for source in arm.sources]
    words: list[str] = []
    for name, other in (("data.dataset", ""), ("model.network", "model.critic")):
        values = {str(each.get(name, each.get(other))) for each in options}
        words += values if len(values) == 1 and "None" not in values else ()
    return f" ({', '.join(words)})" if words else ""


def smooths(recorded: Sequence[Recorded]) -> bool:
    """Whether the released panels are smoothed: those of all arms or of none, to compare."""
    lengths = [len(each.first) for each in recorded]
    return min(lengths) >= WINDOW and max(lengths) >= 3 * WINDOW


def smoothing(recorded: Sequence[Recorded]) -> str:
    """What the running mean of the released panels spans."""
    records = sorted((each.first for each in recorded), key=len)
    if not smooths(recorded):
        found = " to ".join(map(str, dict.fromkeys([len(records[0]), len(records[-1])])))
        return f"Too few measurements ({found}) for the authors' running mean of {WINDOW}."
    apart = np.diff(records[-1].step)
    every = int(np.median(apart))
    if np.abs(apart[1:-1] - every).max(initial=0) > every / 2:
        return f"Running mean of {WINDOW} measurements, unevenly spaced; see --dynamics.every."
    return f"Running mean of {WINDOW} measurements, {counted(every, 'step')} apart."


def seeds(recorded: Sequence[Recorded], panels: str = FIRST_THEN_MEANS) -> list[str]:
    """What is drawn where an arm has several runs."""
    if all(len(each.runs) == 1 for each in recorded):
        return []
    return [f"Several runs of an arm differ in their seed; of these: {panels}."]
