"""The ranges of images, the way between them, resizing, channels, and grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from msngan.data import images
from msngan.runs.folder import Diverged

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def test_the_way_out_rounds_to_the_nearest_level():
    level = 2 / 255
    near = torch.tensor([-1 + 0.49 * level, -1 + 0.51 * level, 1 - 0.49 * level, 1 - 0.51 * level])
    assert images.to_uint8(near).tolist() == [0, 1, 255, 254]


def test_truncation_takes_every_level_down_to_the_one_below():
    for fraction in (0.01, 0.49, 0.51, 0.99):
        between = images.to_float(LEVELS) + fraction * 2 / 255
        assert torch.equal(images.to_uint8(between, truncate=True), LEVELS)
    for fraction in (0.51, 0.99):  # where rounding takes all but the last up
        between = images.to_float(LEVELS) + fraction * 2 / 255
        assert torch.equal(images.to_uint8(between).int(), (LEVELS.int() + 1).clamp(max=255))


def test_every_level_survives_the_way_in_and_out_and_arguments_are_left_alone():
    levels = LEVELS.clone()
    there = images.to_float(levels)
    assert there.dtype == torch.float32
    assert torch.equal(levels, LEVELS)
    for exact in (torch.arange(256) / 127.5 - 1, there.flatten()):
        for truncate in (False, True):
            kept = exact.clone()
            back = images.to_uint8(exact, truncate)
            assert back.dtype == torch.uint8
            assert back.tolist() == list(range(256))
            assert torch.equal(exact, kept)


def test_both_ways_out_saturate_and_refuse_nan():
    outside = torch.tensor([-1.01, 1.01, -100.0, 100.0, -float("inf"), float("inf"), 0.9999])
    for truncate in (True, False):
        found = images.to_uint8(outside, truncate).tolist()
        assert found == [0, 255, 0, 255, 0, 255, 254 if truncate else 255]
        with pytest.raises(Diverged, match="NaN"):
            images.to_uint8(torch.tensor([float("nan")]), truncate)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_come_out_as_their_float32_values(dtype):
    values = torch.linspace(-1, 1, 1001).to(dtype)
    assert torch.equal(images.to_uint8(values), images.to_uint8(values.float()))


def noise(count: int, channels: int, size: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize(("before", "after"), [(8, 32), (28, 32), (32, 28), (64, 32), (96, 32)])
def test_resizing_agrees_with_pillow(before, after):
    given = noise(2, 3, before)
    found = images.resize(given, after)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 3, after, after)
    for index in range(2):
        for channel in range(3):
            plane = Image.fromarray(given[index, channel].numpy().astype(np.float32))
            exact = np.asarray(plane.resize((after, after), Image.Resampling.BICUBIC))
            want = torch.from_numpy(exact.copy()).clamp(0, 255)
            assert (found[index, channel] - want).abs().max() <= 0.501  # rounding, no more


def test_resizing_keeps_flat_images_flat_and_in_order():
    levels = (torch.arange(5000) % 256).to(torch.uint8)  # more images than are resized at once
    given = levels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found = images.resize(given, 8)
    assert torch.equal(found, levels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8))


def test_colour_becomes_grey_by_luma_grey_colour_by_repetition_and_others_are_refused():
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 200, 50]])
    grey = images.with_channels(colours.to(torch.uint8).view(4, 3, 1, 1), 1)
    assert grey.dtype == torch.uint8
    assert grey.flatten().tolist() == [76, 150, 29, 153]  # 76.245, 149.685, 29.07, 153.0
    given = noise(2, 1, 4)
    found = images.with_channels(given, 3)
    assert found.is_contiguous()
    assert torch.equal(found, given.expand(-1, 3, -1, -1))
    for have, want in ((1, 2), (3, 4), (4, 3)):
        with pytest.raises(ValueError, match=f"{have} channels? into {want}"):
            images.with_channels(noise(1, have, 2), want)


def test_a_grid_is_laid_out_row_by_row_with_gaps():
    given = torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 1, 2)
    picture = images.tile(given, columns=2, gap=1)
    light = 235
    assert picture.dtype == torch.uint8
    assert picture[0].tolist() == [
        [light] * 7,
        [light, 1, 1, light, 2, 2, light],
        [light] * 7,
        [light, 3, 3, light, light, light, light],
        [light] * 7,
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_keeps_its_pixels_and_is_enlarged_by_whole_ones(channels):
    given = noise(1, channels, 4)[0]
    found = np.array(images.to_pil(given, scale=3)).reshape(12, 12, channels)
    want = given.permute(1, 2, 0).numpy().repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(("size", "scale"), [(8, 8), (32, 2), (64, 1), (128, 1)])
def test_a_saved_grid_is_the_tiled_images_enlarged(size, scale, tmp_path):
    given = noise(2, 3, size)
    path = tmp_path / "new" / "grid.png"
    images.save_grid(given, path, columns=1)
    with Image.open(path) as image:
        found = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(found[:, ::scale, ::scale], images.tile(given, columns=1))
    assert found.shape == (3, scale * (2 * (size + 2) + 2), scale * (size + 4))


@pytest.mark.parametrize(("size", "target"), [(32, 299), (32, 31), (64, 32), (300, 224)])
def test_clean_resizing_is_pillow_s_of_each_channel_as_float32(size, target):
    """clean-fid's, within a hundredth of a grey level: flat colours, edges and noise."""
    pictures = noise(3, 3, size)
    pictures[1, :, : size // 2] = 255
    pictures[2] = pictures[2, :, :1, :1]
    expected = [
        [
            np.asarray(
                Image.fromarray(channel.numpy().astype(np.float32)).resize(
                    (target, target), Image.Resampling.BICUBIC
                )
            )
            for channel in picture
        ]
        for picture in pictures
    ]
    found = images.clean_resize(pictures, target)
    assert found.dtype == torch.float32
    assert found.shape == (3, 3, target, target)
    assert np.abs(found.numpy() - np.clip(expected, 0, 255)).max() < 0.01
    assert torch.equal(images.clean_resize(pictures, size), pictures.float())
