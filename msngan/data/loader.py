"""An in-memory loader whose place in the data is a function of the step, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from msngan.runs import rng


class Indexed(Protocol):
    """Images, or images with labels: what is at an index tensor is what a step gets."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Any: ...  # noqa: ANN401  Tensor or a tuple of them


class StepLoader:
    """Yields for each step, without end, the uint8 images (with labels) of its updates.

    Each epoch is a new permutation, derived from (seed, epoch); the images left over at its end are
    too few for a step and are skipped. Epoch and place in it follow from the step that
    iteration starts at (`step` is asked), so there is no state to save: a resumed run sees the next
    image. With several processes each takes its own share of every update's images: together they
    see what one process would.

    It has no length on purpose: Lightning then sees a single epoch, whose bookkeeping on resume
    cannot go wrong.
    """

    def __init__(
        self,
        images: Indexed,
        chunk: int,
        seed: int,
        step: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ) -> None:
        """chunk: images of a step, per process, for `parts` updates of the same size."""
        assert chunk % parts == 0
        assert 0 < chunk * world_size <= len(images)
        self.images, self.chunk, self.seed, self.step = images, chunk, seed, step
        self.rank, self.world_size, self.parts = rank, world_size, parts

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // (self.chunk * self.world_size)

    def __iter__(self) -> Iterator[Any]:
        epoch, place = divmod(self.step(), self.steps_per_epoch)
        while True:
            draw = rng.generator(self.seed, epoch, 0, "order")
            order = torch.randperm(len(self.images), generator=draw)
            for index in range(place, self.steps_per_epoch):
                whole = order[index * self.chunk * self.world_size :][
                    : self.chunk * self.world_size
                ]
                each = whole.view(self.parts, self.world_size, -1)
                yield self.images[each[:, self.rank].flatten()]
            epoch, place = epoch + 1, 0
