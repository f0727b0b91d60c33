"""Parts that share no image, and batches whose place in the data follows from the step alone."""

from __future__ import annotations

from itertools import islice, product
from types import SimpleNamespace

import pytest
import torch

from msngan.data import LabelledData
from msngan.data import images as convert
from msngan.data.batches import StepLoader
from msngan.runs import rng


def digits(**options: object) -> LabelledData:
    options = {"batch_size": 8, "validation": 200, **options}
    return LabelledData("digits", **options)  # type: ignore[arg-type]


def test_the_parts_are_the_training_split_and_share_no_image():
    data, other = digits(test_limit=50), digits()
    train, held, whole = data.images_of("train"), data.images_of("validation"), data.images("train")
    assert len(held.images) == 200
    assert len(train.images) + 200 == len(whole.images)
    places = data._places["validation"]
    both = [*data._places["train"].tolist(), *places.tolist()]
    assert sorted(both) == [*range(len(whole.images))]
    assert torch.equal(whole.images[places], held.images)
    assert torch.equal(whole.labels[places], held.labels)
    data.seed, other.seed = 0, 1  # the same images for every seed, and not the first ones
    assert torch.equal(data._places["validation"], other._places["validation"])
    assert data._places["validation"].max() > 1000
    assert data._places["validation"].min() < 100
    official = data.images("test")
    assert torch.equal(data.images_of("test").images, official.images[:50])
    assert torch.equal(data.images_of("test").labels, official.labels[:50])
    all_of_them = digits(validation=0)
    assert len(all_of_them.real) == len(whole.images)
    assert len(all_of_them.images_of("validation").images) == 0


def test_labels_stay_with_their_images_through_a_batch():
    data = digits()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    given = {"global_rank": 0, "world_size": 1, "strategy": strategy}
    data.trainer = SimpleNamespace(global_step=3, **given)  # type: ignore
    images, labels = next(iter(data.train_dataloader()))
    part = data.images_of("train")
    for image, label in zip(images, labels, strict=True):
        same = (part.images == image).flatten(1).all(1)
        assert label in part.labels[same]


def test_prepared_images_have_mean_zero_and_deviation_one_or_torchvision_s_values_for_given_ones():
    from torchvision.transforms import functional as reference

    data = digits(channels=3)
    prepared = data.prepared(data.real).double()
    assert prepared.mean((0, 2, 3)).abs().max() < 1e-5
    assert (prepared.std((0, 2, 3)) - 1).abs().max() < 1e-4
    mean, sd = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    wanted = reference.normalize(data.real[:5].float() / 255, mean, sd)
    found = digits(channels=3, mean=mean, sd=sd).prepared(data.real[:5])
    torch.testing.assert_close(found, wanted)


def test_a_crop_is_a_window_of_the_bordered_image_another_at_each_step_and_the_same_again():
    data = digits(crop=2)
    images = data.real[:64]
    cropped, again, other = (data._augmented(images, step) for step in (5, 5, 6))
    assert torch.equal(cropped, again)
    assert not torch.equal(cropped, other)
    bordered = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = {
        (top, left): bordered[:, :, top : top + 32, left : left + 32]
        for top, left in product(range(5), range(5))
    }
    places = [
        {place for place, window in windows.items() if torch.equal(window[index], made)}
        for index, made in enumerate(cropped)
    ]
    assert all(places)
    assert len(set().union(*places)) > 15  # of 25: each image has a draw of its own


def test_half_of_the_images_are_mirrored_by_coins_of_their_own():
    data = digits(mirror=True)
    images = data.real[:200]
    made = data._augmented(images, 0)
    flipped = (made == images.flip(3)).flatten(1).all(1)
    kept = (made == images).flatten(1).all(1)
    assert (flipped | kept).all()
    assert 60 < int((flipped & ~kept).sum()) < 140
    coin = torch.rand(200, generator=rng.generator(0, 0, 0, "flip")) < 0.5
    assert torch.equal(flipped | ~coin, torch.ones(200, dtype=torch.bool))


def test_a_window_is_what_slicing_gives():
    padded = torch.arange(2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    top, left = torch.tensor([0, 2]), torch.tensor([1, 0])
    made = convert.windows(padded, top, left, 4, torch.tensor([False, True]))
    assert torch.equal(made[0], padded[0, :, 0:4, 1:5])
    assert torch.equal(made[1], padded[1, :, 2:6, 0:4].flip(2))


def test_mnist_is_28_pixels_wide_here_and_a_set_without_labels_is_refused():
    assert LabelledData("mnist").size == 28
    assert LabelledData("fashion").size == 28
    assert LabelledData("mnist", size=32).size == 32
    with pytest.raises(ValueError, match="labels and a test split.* of digits, mnist, [^/]*hub$"):
        LabelledData("celeba")


@pytest.mark.data
def test_the_real_mnist_splits_into_55000_5000_and_10000():
    data = LabelledData("mnist")
    assert data.shape == (1, 28)
    counts = [len(data.images_of(part).images) for part in ("train", "validation", "test")]
    assert counts == [55_000, 5_000, 10_000]
    mean, sd = (each.item() for each in data.scale)
    assert mean == pytest.approx(0.1307, abs=5e-4)  # torchvision's published constants
    assert sd == pytest.approx(0.3081, abs=5e-4)


IMAGES = torch.arange(23, dtype=torch.uint8).view(-1, 1, 1, 1)


def take(start: int, count: int, chunk: int = 5, rank: int = 0, world: int = 1) -> list[list[int]]:
    loader = StepLoader(IMAGES, chunk, 3, lambda: start, rank, world)
    return [batch.flatten().tolist() for batch in islice(loader, count)]


@pytest.mark.quick
def test_an_epoch_shows_no_image_twice_and_the_next_and_another_seed_are_in_another_order():
    first, second = take(0, 4), take(4, 4)  # 4 steps of 5 are an epoch of 23
    for epoch in (first, second):
        assert len(set(sum(epoch, []))) == 20
    assert first != second
    assert first[0] != next(iter(StepLoader(IMAGES, 5, 4, lambda: 0))).flatten().tolist()


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
