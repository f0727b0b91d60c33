"""The loader's place in the data follows from the step alone."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from msngan.data.datamodules import StepLoader

IMAGES = torch.arange(23, dtype=torch.uint8).view(-1, 1, 1, 1)


def take(start: int, count: int, chunk: int = 5, rank: int = 0, world: int = 1) -> list[list[int]]:
    loader = StepLoader(IMAGES, chunk, 3, lambda: start, rank, world)
    return [batch.flatten().tolist() for batch in islice(loader, count)]


@pytest.mark.quick
def test_an_epoch_shows_no_image_twice_and_the_next_is_in_another_order():
    first, second = take(0, 4), take(4, 4)  # 4 steps of 5 are an epoch of 23
    for epoch in (first, second):
        seen = [image for batch in epoch for image in batch]
        assert len(set(seen)) == 20
    assert first != second


def test_over_many_epochs_every_image_is_seen_about_as_often():
    seen = torch.tensor(take(0, 400)).flatten().bincount(minlength=23)
    assert seen.min() > 70  # 2,000 draws over 23 images
    assert seen.max() <= 100


@pytest.mark.parametrize("start", range(13))
def test_starting_at_a_step_goes_on_as_if_from_the_beginning(start):
    assert take(start, 5) == take(0, start + 5)[start:]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_a_step_s_images_among_them(world):
    whole = take(0, 12, chunk=4)
    shares = [take(0, 12, chunk=4 // world, rank=rank, world=world) for rank in range(world)]
    assert whole == [sum(parts, []) for parts in zip(*shares, strict=True)]


def test_another_seed_is_another_order():
    other = next(iter(StepLoader(IMAGES, 5, 4, lambda: 0))).flatten().tolist()
    assert take(0, 1) != [other]
