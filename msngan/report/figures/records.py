"""What the chosen runs have on record, and the layers of it that a figure shows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from msngan.report.figures.arms import Arm
from msngan.report.figures.sources import Source
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.jsonl import read_lines
from msngan.runs.safe_read import object_or_empty
from msngan.training import dynamics
from msngan.training.dynamics import Dynamics

HOW = "train with --dynamics.every N (0 records none)"


class Unavailable(ValueError):
    """A figure that cannot be drawn of these runs; the text says why, and what would help."""


@dataclass(frozen=True)
class Layer:
    """index: in the record's list; shape: of the weight."""

    index: int
    name: str
    shape: tuple[int, ...]

    def words(self, letters: int) -> str:
        """Its index, name and shape, in two lines where one has too few letters for them."""
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


def with_dynamics(arms: Sequence[Arm]) -> tuple[list[Recorded], list[str]]:
    """The runs with a dynamics.npz, and a line on those without; Unavailable if none has one."""
    return _with(arms, _dynamics, "dynamics.npz", HOW)


def with_accuracy(arms: Sequence[Arm]) -> tuple[list[Recorded], list[str]]:
    """The runs with accuracies of epochs, and a line on those without."""
    how = "a run of task: classifier writes it at the end of each epoch, a GAN has scores instead"
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
            except ValueError as problem:
                remarks.append(str(problem))
                continue
            except OSError as problem:
                remarks.append(f"{name} of {source.name} cannot be read: {problem.strerror}")
                continue
            if record is None:
                missing.append(source.name)
            else:
                runs.append((source, record))
        if runs:
            found.append(Recorded(arm, tuple(runs)))
    if missing:
        who = f"{', '.join(missing[:4])}{f' and {len(missing) - 4} more' if missing[4:] else ''}"
        remarks.append(f"no {name} in {who}; {how}")
    if not found:
        raise Unavailable("; ".join(remarks))
    return found, remarks


def _dynamics(source: Source) -> Dynamics | None:
    path = source.run.dynamics
    if not path.exists():
        return None
    stat = path.stat()
    record = _read(path, stat.st_mtime_ns, stat.st_size)
    return record if len(record) else None


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> Dynamics:
    return dynamics.read(path)


def _accuracy(source: Source) -> list[dict[str, Any]] | None:
    """The whole lines, in order of step; one of a form that no run writes is left out."""
    needed = ("step", "epoch", "test_accuracy")
    lines = [
        line
        for line in read_lines(source.run.accuracy)
        if all(isinstance(line.get(name), int | float) for name in needed)
    ]
    return sorted(lines, key=lambda line: line["step"]) or None


def status(source: Source) -> str:
    """done, diverged or collapsed; unfinished where no result is written."""
    return str(object_or_empty(source.run.result).get("status", "unfinished"))


def choose(record: Dynamics, wanted: Sequence[str], name: str) -> list[Layer]:
    """The layers that `wanted` means, by index or pattern of names, each once and in their order.

    By default the first, middle and last convolution, of a GAN those of its critic. UserError names
    the run `name` and its layers where a wanted one is not among them.
    """
    layers = [
        Layer(index, str(each), tuple(shape))
        for index, (each, shape) in enumerate(zip(record.layers, record.shapes, strict=True))
    ]
    if not wanted:
        return _default(layers)
    chosen: dict[int, Layer] = {}
    for word in wanted:
        if word.lstrip("-").isdigit():
            found = [layer for layer in layers if layer.index == int(word)]
        else:
            found = [layer for layer in layers if fnmatch.fnmatchcase(layer.name, word)]
            found = found or [layer for layer in layers if word in layer.name]
        if not found:
            names = [layer.name for layer in layers]
            listed = ", ".join(f"{layer.index} {layer.name}" for layer in layers[:20])
            more = " ..." if layers[20:] else ""
            raise UserError(
                f"--layers {word}: no such layer in run {name!r}{did_you_mean(word, names)};"
                f" it has {listed}{more}"
            )
        chosen |= {layer.index: layer for layer in found}
    return list(chosen.values())


def _default(layers: list[Layer]) -> list[Layer]:
    critic = [layer for layer in layers if layer.name.startswith("critic.")]
    of_network = critic or layers
    pool = [layer for layer in of_network if len(layer.shape) > 2] or of_network
    places = sorted({0, len(pool) // 2, len(pool) - 1})
    return [pool[place] for place in places] if pool else []


def shared_layers(recorded: Sequence[Recorded], wanted: Sequence[str]) -> list[Layer]:
    """The layers to compare; Unavailable where they are not the same layer in every run.

    The same: of one shape, at one place of equal networks or under one name. A norm of its own
    module may move names, not places.
    """
    runs = [run for each in recorded for run in each.runs]
    first_source, first = runs[0]
    chosen = choose(first, wanted, first_source.name)
    for source, record in runs[1:]:
        other = choose(record, wanted, source.name)
        same = [tuple(each) for each in record.shapes] == [tuple(each) for each in first.shapes]
        here = [(layer.index if same else layer.name, layer.shape) for layer in other]
        if here != [(layer.index if same else layer.name, layer.shape) for layer in chosen]:
            raise Unavailable(
                f"{first_source.name} and {source.name} have different networks, whose layers are"
                " not comparable; draw them apart, or choose layers of one name and shape with"
                " --layers"
            )
        if [layer.index for layer in other] != [layer.index for layer in chosen]:
            raise Unavailable(
                f"the chosen layers stand at other places in {source.name} than in"
                f" {first_source.name}; draw them apart"
            )
    return chosen
