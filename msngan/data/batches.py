"""From a data set in memory to the batches of steps: where its images lie, and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from msngan.data.images import Images
from msngan.runs import rng
from msngan.runs.hardware import free_memory

Place = Literal["auto", "cpu", "device"]
SHARE = 0.25  # of a device's free memory, that images take at most where the place is "auto"


@dataclass(eq=False)
class StepLoader:
    """Yields the uint8 images (with labels, if any) of one step after another, without end.

    Each epoch is a new permutation, derived from (seed, epoch); the images left over at its end are
    too few for a step and are skipped. Iteration starts at the step that `step()` returns, from
    which epoch and position follow. So there is no state to save, and a resumed run sees the next
    image. With several processes each takes its own share of every update's images; together they
    see what one process would.

    It has no length on purpose: under `fit` Lightning then sees a single epoch, whose bookkeeping
    on resume cannot go wrong.

    chunk: images of a step, per process, for `parts` updates of the same size. endless: go on from
    epoch to epoch, as under `fit`; otherwise iteration ends with the epoch.
    """

    images: Tensor | Images
    chunk: int
    seed: int
    step: Callable[[], int]
    rank: int = 0
    world_size: int = 1
    parts: int = 1
    endless: bool = True

    def __post_init__(self) -> None:
        assert self.chunk % self.parts == 0
        assert 0 < self.chunk * self.world_size <= len(self.images)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // (self.chunk * self.world_size)

    def __iter__(self) -> Iterator[Any]:
        epoch, place = divmod(self.step(), self.steps_per_epoch)
        whole = self.chunk * self.world_size
        while True:
            draw = rng.generator(self.seed, epoch, 0, "order")
            order = moved(torch.randperm(len(self.images), generator=draw), self.images.device)
            for index in range(place, self.steps_per_epoch):
                step = order[index * whole : (index + 1) * whole]
                own = step.view(self.parts, self.world_size, -1)[:, self.rank]
                yield self.images[own.flatten()]
            if not self.endless:
                return
            epoch, place = epoch + 1, 0


def placed(data: Tensor | Images, place: Place, device: torch.device) -> Tensor | Images:
    """The data on `device`, or as they are: see `device` in the options of ImageData."""
    if place == "cpu" or device.type == "cpu":
        return data
    images, labels = (data.images, data.labels) if isinstance(data, Images) else (data, None)
    free = free_memory(device)
    if place == "auto" and (free is None or math.prod(images.shape) > SHARE * free):
        return data
    images = images[:].to(device)
    return images if labels is None else Images(images, labels.to(device))


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Small values of the CPU on `device`, without a wait for it."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
