"""Disturbances: what each does to images, and that a distance notices every one of their levels."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from toy_extractor import photographs, protocol_of

from msngan import data
from msngan.scores import core, responses
from msngan.scores.disturbances import DISTURBANCES, disturb
from msngan.scores.floors import summary
from msngan.scores.reference import Reference
from msngan.scores.responses import Response, Row
from msngan.scores.shipped import EmbeddedExtractor, shipped

every = pytest.mark.parametrize("name", sorted(DISTURBANCES))
SPOIL = ("blur", "jpeg", "noise")  # every image; the others choose among whole images


def structured(count: int, channels: int) -> tuple[Tensor, Tensor]:
    """Images with edges and texture, and labels from 0 to 4."""
    images = photographs(count, channels, 16)
    images[:, :, 4:9, 6:] = 255 - images[:, :, 4:9, 6:]
    return images, torch.arange(count) % 5


def rows_of(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


@every
@pytest.mark.parametrize("channels", [1, 3])
def test_every_level_gives_as_many_uint8_images_of_the_same_shape(name: str, channels: int) -> None:
    images, labels = structured(40, channels)
    before = images.clone()
    levels = DISTURBANCES[name].levels(40, 5)
    assert levels
    for level in levels:
        found = disturb(name, images, labels, level)
        assert (found.dtype, found.shape) == (torch.uint8, images.shape)
        assert not torch.equal(found, images)
    assert torch.equal(images, before)


@every
def test_the_same_call_gives_the_same_images_and_leaves_every_global_stream_alone(
    name: str,
) -> None:
    images, labels = structured(40, 3)
    level = DISTURBANCES[name].levels(40, 5)[0]
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = disturb(name, images, labels, level)
    torch.manual_seed(5)
    assert torch.equal(disturb(name, images, labels, level), first)
    torch.set_rng_state(state[0])
    disturb(name, images, labels, level)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert random.getstate() == state[2]


@every
def test_another_draw_differs_wherever_draws_are_averaged(name: str) -> None:
    images, labels = structured(40, 3)
    level = DISTURBANCES[name].levels(40, 5)[0]
    first, second = (disturb(name, images, labels, level, draw) for draw in (0, 1))
    if DISTURBANCES[name].draws > 1:
        assert not torch.equal(first, second)
    if name in ("blur", "jpeg"):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", SPOIL)
def test_a_stronger_level_takes_each_image_further_from_itself(name: str) -> None:
    images, labels = structured(40, 3)
    levels = DISTURBANCES[name].levels(40, 5)
    errors = [
        (disturb(name, images, labels, level).double() - images).square().mean() for level in levels
    ]
    assert all(mild < strong for mild, strong in zip(errors[:-1], errors[1:], strict=True))


@pytest.mark.parametrize("name", sorted(set(DISTURBANCES) - set(SPOIL)))
def test_a_stronger_level_keeps_fewer_whole_images_all_of_which_a_milder_one_kept(
    name: str,
) -> None:
    images, labels = structured(40, 3)
    kept = [set(rows_of(images))]
    kept += [
        set(rows_of(disturb(name, images, labels, n))) for n in DISTURBANCES[name].levels(40, 5)
    ]
    assert all(strong < mild for mild, strong in zip(kept[:-1], kept[1:], strict=True))


def test_blur_spreads_a_point_as_worked_out_by_hand() -> None:
    point = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    point[0, 0, 3, 3] = 200
    # weights 1, e^-2, e^-8 at 0, 1, 2 pixels, in all 1.27134: 0.78657, 0.10645, 0.00026
    expected = torch.zeros(7, 7, dtype=torch.uint8)
    expected[2:5, 2:5] = torch.tensor([[2, 17, 2], [17, 124, 17], [2, 17, 2]])
    assert torch.equal(disturb("blur", point, None, 0.5)[0, 0], expected)


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 4])
def test_blur_is_scipys_with_edges_that_go_on(sigma: float) -> None:
    images, _ = structured(3, 3)
    expected = ndimage.gaussian_filter(
        images.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4
    )
    found = disturb("blur", images, None, sigma)
    assert np.array_equal(found.numpy(), np.rint(expected).astype(np.uint8))


def test_noise_has_its_sd_in_grey_levels_and_saturates_at_both_ends() -> None:
    grey = torch.full((50, 1, 32, 32), 128, dtype=torch.uint8)
    off = disturb("noise", grey, None, 8).double() - 128
    assert off.std() == pytest.approx((64 + 1 / 12) ** 0.5, rel=0.02)  # 1/12: of rounding
    assert abs(off.mean()) < 0.2  # sd of the mean 0.035
    white = disturb("noise", torch.full_like(grey, 255), None, 8)
    black = disturb("noise", torch.zeros_like(grey), None, 8)
    assert white.min() > 200
    assert black.max() < 55
    assert float((white == 255).double().mean()) == pytest.approx(0.525, abs=0.02)  # off > -0.5
    twice = disturb("noise", grey, None, 16).double() - 128
    assert float((twice - 2 * off).abs().max()) <= 1.5  # one draw, twice as strong


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_writes_and_reads(channels: int) -> None:
    images, _ = structured(3, channels)
    found = disturb("jpeg", images, None, 30)
    for image, each in zip(images, found, strict=True):
        array = image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=30, subsampling=2)
        expected = torch.from_numpy(np.array(Image.open(file)))
        expected = expected[None] if channels == 1 else expected.permute(2, 0, 1)
        assert torch.equal(each, expected)


def test_jpeg_leaves_a_plain_colour_nearly_as_it_is() -> None:
    red = torch.tensor([200, 30, 40], dtype=torch.uint8)
    found = disturb("jpeg", red.view(1, 3, 1, 1).expand(2, 3, 8, 8), None, 90)
    assert (found.int() - red.view(1, 3, 1, 1)).abs().max() <= 4


def test_dropping_classes_keeps_only_the_first_ones_and_as_many_images() -> None:
    labels = torch.tensor([7, 3, 9, 3, 7, 9, 9, 3])
    images = labels.to(torch.uint8).view(8, 1, 1, 1) * 10 + torch.arange(8).view(8, 1, 1, 1)
    images = images.to(torch.uint8)
    two = Counter(disturb("classes", images, labels, 2).flatten().tolist())
    # 31, 33 and 37 are of class 3, 70 and 74 of class 7: five for eight places, three of them twice
    assert sorted(two) == [31, 33, 37, 70, 74]
    assert sorted(two.values()) == [1, 1, 2, 2, 2]
    one = Counter(disturb("classes", images, labels, 1).flatten().tolist())
    assert sorted(one) == [31, 33, 37]
    assert sorted(one.values()) == [2, 3, 3]
    assert len(set(disturb("classes", images, labels, 3).flatten().tolist())) == 8


def test_a_collapse_repeats_few_images_equally_often() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    three = Counter(disturb("collapse", images, None, 3).flatten().tolist())
    assert sorted(three.values()) == [3, 3, 4]
    assert sorted(disturb("collapse", images, None, 10).flatten().tolist()) == list(range(10))
    assert len(set(disturb("collapse", images, None, 1).flatten().tolist())) == 1


@pytest.mark.parametrize(
    ("images", "classes", "kept_classes", "kept_images"),
    [
        (2000, 10, (9, 7, 5, 3, 1), (1000, 500, 250, 125, 62, 31, 10)),
        (359, 10, (9, 7, 5, 3, 1), (179, 89, 44, 22, 10)),
        (2000, 100, (99, 70, 50, 30, 10), (1000, 500, 250, 125, 62, 31, 10)),
        (12, 3, (2, 1), (6,)),
        (40, 2, (1,), (20, 10)),
        (2, 1, (), (1,)),
        (1, 1, (), ()),
    ],
)
def test_levels_that_make_no_sense_are_left_out(
    images: int, classes: int, kept_classes: tuple[int, ...], kept_images: tuple[int, ...]
) -> None:
    assert DISTURBANCES["classes"].levels(images, classes) == kept_classes
    assert DISTURBANCES["collapse"].levels(images, classes) == kept_images


WHOLE = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
LABELS = torch.tensor([0, 0, 1, 1])


@every
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (WHOLE.float(), "must be uint8, not torch.float32"),
        (WHOLE[0], r"must have shape \(N, C, H, W\), C 1 or 3, not \(3, 8, 8\)"),
        (WHOLE[:0], r"not \(0, 3, 8, 8\)"),
        (WHOLE[:, :2], r"not \(4, 2, 8, 8\)"),
    ],
    ids=["float", "one image", "none", "two channels"],
)
def test_images_of_another_kind_are_refused(name: str, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        disturb(name, images, LABELS, 1)


@pytest.mark.parametrize(
    ("name", "labels", "level", "message"),
    [
        ("blur", None, 0, "sigma must be above 0, not 0"),
        ("blur", None, float("inf"), "sigma must be above 0, not inf"),
        ("noise", None, -4, "sd must be above 0, not -4"),
        ("noise", None, float("nan"), "sd must be above 0, not nan"),
        ("jpeg", None, 0, "whole number from 1 to 95, not 0"),
        ("jpeg", None, 96, "whole number from 1 to 95, not 96"),
        ("jpeg", None, 50.5, "whole number from 1 to 95, not 50.5"),
        ("classes", None, 1, "needs a label for each image, not labels None"),
        ("classes", LABELS[:3], 1, r"needs a label for each image, not labels \(3,\)"),
        ("classes", LABELS, 0, "of 2 classes 1 to 2 can be kept, not 0"),
        ("classes", LABELS, 3, "of 2 classes 1 to 2 can be kept, not 3"),
        ("classes", LABELS, 1.5, "not 1.5"),
        ("collapse", None, 0, "of 4 images 1 to 4 can be kept, not 0"),
        ("collapse", None, 5, "of 4 images 1 to 4 can be kept, not 5"),
        ("collapse", None, 2.5, "not 2.5"),
        ("collapse", None, float("inf"), "not inf"),
        ("jpeg", None, float("nan"), "not nan"),
        ("blurr", None, 1, "unknown disturbance 'blurr'; choose one of blur, noise, jpeg"),
    ],
)
def test_levels_and_labels_without_a_meaning_are_refused(
    name: str, labels: Tensor | None, level: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        disturb(name, WHOLE, labels, level)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddedExtractor, Reference]:
    extractor = EmbeddedExtractor.load(shipped()["digits"])
    train = data.load("digits", split="train", size=32).images
    return extractor, Reference.of(train, extractor, tmp_path_factory.mktemp("references"))


@every
def test_the_distance_of_real_digits_rises_with_every_level(
    name: str, digits: tuple[EmbeddedExtractor, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor, reference = digits
    test = data.load("digits", split="test", size=8)
    assert test.labels is not None
    monkeypatch.setattr(responses, "DISTURBANCES", {name: DISTURBANCES[name]})
    found, *others = responses.responses(
        extractor, reference, protocol_of(extractor, reference), test.images, test.labels
    )
    assert not others
    levels = DISTURBANCES[name].levels(len(test.images), 10)
    assert [row.level for row in found.rows] == [None, *levels]
    distances = [row.numbers["frechet"]["mean"] for row in found.rows]
    assert all(mild < strong for mild, strong in zip(distances[:-1], distances[1:], strict=True))
    assert distances[0] == pytest.approx(reference.frechet(extractor.features(test.images).pool))
    assert found.falls == []
    assert found.rows[-1].numbers["score"]["mean"] < found.rows[0].numbers["score"]["mean"]
    assert (
        found.rows[-1].numbers["coverage"]["mean"] < 0.3 < found.rows[0].numbers["coverage"]["mean"]
    )


def test_a_rows_numbers_are_those_of_its_disturbed_images(
    digits: tuple[EmbeddedExtractor, Reference],
) -> None:
    extractor, reference = digits
    images = data.load("digits", split="test", size=8).images[:60]
    labels = torch.arange(60) % 3
    found = responses.responses(
        extractor, reference, protocol_of(extractor, reference), images, labels
    )
    assert [each.name for each in found] == list(DISTURBANCES)
    order = responses.in_random_order(60)
    for each in found:
        row, kind = each.rows[1], DISTURBANCES[each.name]
        assert row.level is not None
        values = []
        for draw in range(kind.draws):
            disturbed = disturb(each.name, images[order], labels[order], row.level, draw)
            features = extractor.features(disturbed)
            values.append((reference.frechet(features.pool), core.inception_score(features.logits)))
        frechet, score = zip(*values, strict=True)
        assert row.numbers["frechet"]["values"] == pytest.approx(frechet, rel=1e-5)
        assert row.numbers["score"]["values"] == pytest.approx(score, rel=1e-5)


def test_a_disturbance_without_levels_is_left_out(
    digits: tuple[EmbeddedExtractor, Reference],
) -> None:
    extractor, reference = digits
    images = data.load("digits", split="test", size=8).images[:20]
    found = responses.responses(
        extractor, reference, protocol_of(extractor, reference), images, torch.zeros(20).long()
    )
    assert [each.name for each in found] == [name for name in DISTURBANCES if name != "classes"]


def test_only_some_of_many_images_are_disturbed(
    digits: tuple[EmbeddedExtractor, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor, reference = digits
    test = data.load("digits", split="test", size=8)
    assert test.labels is not None
    monkeypatch.setattr(responses, "IMAGES", 30)
    monkeypatch.setattr(responses, "DISTURBANCES", {"collapse": DISTURBANCES["collapse"]})
    (found,) = responses.responses(
        extractor, reference, protocol_of(extractor, reference), test.images, test.labels
    )
    assert [row.level for row in found.rows] == [None, 10]
    some = test.images[responses.in_random_order(len(test.images))[:30]]
    expected = reference.frechet(extractor.features(some).pool)
    assert found.rows[0].numbers["frechet"]["mean"] == pytest.approx(expected, rel=1e-5)


def test_a_distance_that_does_not_rise_to_the_digits_shown_is_said_to_fall() -> None:
    values = [0.1, 0.20001, 0.20002, 0.3, 0.25]
    rows = [Row(None if i == 0 else i, {"frechet": summary([v])}) for i, v in enumerate(values)]
    falls = Response("blur", rows).falls
    assert [(mild.level, strong.level) for mild, strong in falls] == [(1, 2), (3, 4)]
    assert Response("blur", rows[:2]).falls == []


def test_a_blur_after_enlarging_is_measured_only_of_images_that_are_enlarged(
    digits: tuple[EmbeddedExtractor, Reference],
) -> None:
    extractor, reference = digits
    small, large = (data.load("digits", split="test", size=size).images for size in (8, 32))
    assert responses.enlarged_blur(extractor, reference, large) is None
    found = responses.enlarged_blur(extractor, reference, small)
    blurred = disturb("blur", large, None, 1)
    expected = reference.frechet(extractor.features(blurred).pool)
    assert found == pytest.approx(expected, rel=1e-5)
