"""A user's own images: what is read from folders and zip files, and what is refused."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import hostile_data
import numpy as np
import pytest
import torch
from PIL import Image, features

from msngan.data import pictures, sources
from msngan.data.image_files import load_folder
from msngan.data.pictures import DataError

WHITE = 255


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def array(image: Image.Image) -> np.ndarray:
    """(H, W, C), whatever the mode."""
    values = np.array(image)
    return values[..., None] if values.ndim == 2 else values


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def write(root: Path, files: dict[str, Image.Image | bytes | str]) -> Path:
    """Files below `root`, or in it when its name ends in .zip, in the order given."""
    contents = {
        name: encoded(value) if isinstance(value, Image.Image) else value
        for name, value in files.items()
    }
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, value in contents.items():
                archive.writestr(name, value)
        return root
    for name, value in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.encode() if isinstance(value, str) else value)
    return root


def read(root: Path, *options: int | None, **more: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels, which some have not."""
    found = load_folder(root, *options, **more)
    return found.images, found.labels  # type: ignore[return-value]


def refusal(root: Path, size: int | None = None, channels: int | None = None) -> str:
    """The message of the DataError, which must be one line."""
    with pytest.raises(DataError, match=r"\A.*\Z") as caught:
        load_folder(root, size, channels)
    return str(caught.value)


@pytest.fixture(params=["images", "images.zip"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for images: a folder, then a zip file."""
    return tmp_path / request.param


def test_images_come_whole_and_in_the_order_of_their_names(root):
    images = {f"{name}.png": noise(8, 8, seed=seed) for seed, name in enumerate("cadb")}
    found, labels = read(write(root, images), None, None)
    assert found.dtype == torch.uint8
    assert found.shape == (4, 3, 8, 8)
    assert found.is_contiguous()
    assert labels is None
    for index, name in enumerate(sorted(images)):
        np.testing.assert_array_equal(found[index].permute(1, 2, 0).numpy(), array(images[name]))


ENDINGS = {"png": "PNG", "JPEG": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}
ENDINGS |= {"tiff": "TIFF", "jfif": "JPEG", "jpe": "JPEG"}
ENDINGS |= dict.fromkeys(("ppm", "pgm", "pbm"), "PPM")
ENDINGS |= {"apng": "PNG", **({"avif": "AVIF"} if features.check("avif") else {})}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_read(ending, root):
    data = encoded(Image.new("RGB", (16, 16), (200, 100, 50)), ENDINGS[ending])
    found, _ = read(write(root, {f"a.{ending}": data}), None, 3)
    colour = found.float().mean((0, 2, 3))
    assert (colour - torch.tensor([200.0, 100.0, 50.0])).abs().max() <= 2  # JPEG, WebP are lossy


def test_hidden_files_are_skipped_silently(root):
    files = {
        "a.png": Image.new("L", (4, 4), 7),
        ".hidden.png": b"no image",
        ".git/b.png": b"no image",
        "__MACOSX/._a.png": b"no image",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, labels = read(write(root, files), None, None)
    assert found.shape == (1, 1, 4, 4)
    assert labels is None


def test_a_linked_folder_is_followed_and_a_circle_of_links_ends(tmp_path):
    write(tmp_path / "elsewhere", {"1.png": Image.new("L", (4, 4), 9)})
    root = write(tmp_path / "root", {"b/2.png": Image.new("L", (4, 4), 5)})
    (root / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(root, target_is_directory=True)
    (root / "b" / "self").symlink_to(root / "b", target_is_directory=True)
    found, labels = read(root, None, None)
    assert found[:, 0, 0, 0].tolist() == [9, 5]
    assert labels.tolist() == [0, 1]


def test_a_larger_image_is_resized_by_its_shorter_side_and_cut_at_the_centre(root):
    # Middle levels: Pillow resizes one axis after the other, in either order, clipping in between.
    wide, tall = (
        image.point(lambda level: 96 + level // 4) for image in (noise(80, 40), noise(40, 80))
    )
    found, _ = read(write(root, {"0.png": wide, "1.png": tall}), 20, None)
    lanczos = Image.Resampling.LANCZOS
    for index, image in enumerate((wide, tall)):
        whole = image.resize((image.width // 2, image.height // 2), lanczos)
        left, top = (whole.width - 20) // 2, (whole.height - 20) // 2
        want = array(whole.crop((left, top, left + 20, top + 20))).astype(int)
        got = found[index].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(got - want).max() <= 1


def test_mixed_sizes_need_a_size(root):
    write(root, {"a.png": noise(48, 32)})
    assert refusal(root) == f"images in {root} are not square (48x32 a.png); set --data.size"
    write(root, {"a.png": noise(32, 32), "b.png": noise(48, 32)})
    sizes = f"images in {root} differ in size (32x32 a.png, 48x32 b.png); set --data.size"
    assert refusal(root) == sizes
    assert read(root, 16, None)[0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("first", ["L", "RGB"])
def test_grey_and_colour_together_become_colour_which_is_said_once(first, root):
    other = {"L": "RGB", "RGB": "L"}[first]
    images = {"a.png": noise(8, 8, first), "b.png": noise(8, 8, other), "c.png": noise(8, 8, other)}
    kinds = {"L": "grey", "RGB": "colour"}
    both = f"a.png is {kinds[first]}, b.png is {kinds[other]}"
    with pytest.warns(UserWarning, match="mix") as said:
        found, _ = read(write(root, images), None, None, skip_bad=False)
    assert [str(each.message) for each in said] == [
        f"images in {root} mix grey and colour ({both}): all become colour (--data.channels 1 makes"
        " all grey)"
    ]
    want = [array(image.convert("RGB")) for image in images.values()]
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(root, None, 1)[0].shape == (3, 1, 8, 8)


def test_images_smaller_than_asked_for_are_enlarged_and_counted(root):
    images = {"a.png": noise(16, 16), "b.png": noise(12, 9), "c.png": noise(7, 30)}
    what = rf"2 of 3 images in {root} are smaller than 16x16 and are enlarged \(b.png is 12x9\)"
    with pytest.warns(UserWarning, match=rf"\A{what}\Z"):
        assert read(write(root, images), 16, None)[0].shape == (3, 3, 16, 16)


def two_pixels(mode: str) -> Image.Image:
    """One opaque black, one wholly transparent."""
    image = Image.new(mode, (2, 1), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.putpixel((1, 0), 1)
        image.info["transparency"] = 1
    else:
        image.putpixel((0, 0), (0, 255) if mode == "LA" else (0, 0, 0, 255))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_become_white(mode, channels, root):
    wide = two_pixels(mode).resize((16, 8), Image.Resampling.NEAREST)
    halves = {name: wide.crop((x, 0, x + 8, 8)) for name, x in (("a.png", 0), ("b.png", 8))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = read(write(root, halves), None, channels)
    assert found.shape == (2, channels, 8, 8)
    assert [image.unique().tolist() for image in found] == [[0], [WHITE]]


def test_sixteen_bits_are_rounded_to_eight(root):
    levels = np.array([[0, 128, 129, 257], [385, 386, 65406, 65535]], dtype=np.uint16)
    picture = Image.fromarray(np.repeat(levels, 2, 0))
    found, _ = read(write(root, {"a.png": picture}), None, None)
    assert found[0, 0, ::2].tolist() == [[0, 0, 1, 1], [1, 2, 254, 255]]
    tiff = encoded(picture, "TIFF")
    again, _ = read(write(root.with_name(f"tiff{root.suffix}"), {"a.tif": tiff}), None, 1)
    assert torch.equal(found, again)


@pytest.mark.parametrize(
    ("name", "image", "want"),
    [
        ("cmyk.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), [255, 0, 0]),
        ("one-bit.png", Image.new("1", (8, 8), 1), [255]),
        ("grey.png", Image.new("L", (8, 8), 77), [77]),
        ("grey-and-alpha.png", Image.new("LA", (8, 8), (77, 255)), [77]),
        ("int.tif", Image.new("I", (8, 8), 257 * 7), [7]),
        ("colour.png", Image.new("RGB", (8, 8), (100, 200, 50)), [100, 200, 50]),
        ("palette.png", Image.new("RGB", (8, 8), (1, 2, 3)).quantize(4), [1, 2, 3]),
    ],
)
def test_every_mode_becomes_grey_by_luma_or_colour_by_repetition(name, image, want, root):
    write(root, {name: encoded(image, "PNG" if name.endswith("png") else "TIFF")})
    luma = round(sum(w * level for w, level in zip((0.299, 0.587, 0.114), want * 3, strict=False)))
    for channels, levels in ((None, want), (1, [luma]), (3, (want * 3)[:3])):
        found, _ = read(root, None, channels)
        assert found.shape == (1, len(levels), 8, 8)
        assert found[0, :, 0, 0].tolist() == levels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation, root):
    upright = np.zeros((24, 16), np.uint8)
    upright[:8, :8] = 255  # a white patch at the top left
    turned = [  # what the camera stored, by the EXIF standard's table
        *(upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1], upright.T),
        *(np.rot90(upright), np.rot90(upright, 2).T, np.rot90(upright, -1)),
    ]
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned[orientation - 1]))
    stored.save(file, "PNG", exif=exif)
    found, _ = read(write(root, {"a.png": file.getvalue()}), 16, None)
    np.testing.assert_array_equal(found[0, 0].numpy(), upright[4:20])


def test_unreadable_exif_data_is_ignored_and_of_an_animation_the_first_frame_is_taken(root):
    exif, animation = io.BytesIO(), io.BytesIO()
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    frames[0].save(exif, "PNG", exif=b"Exif\0\0nonsense")
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    files = {"a.png": exif.getvalue(), "b.gif": animation.getvalue()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = read(write(root, files), None, 1)
    assert found.unique().tolist() == [10]


def test_subfolders_of_the_first_level_are_the_labels(root):
    """In a folder and in a zip file, in the order of whole names."""
    names = ["Dog/2", "cat-1/3", "cat/1", "cat/x/2"]
    files = {f"{name}.png": Image.new("L", (4, 4), k) for k, name in enumerate(names)}
    found, labels = read(write(root, dict(reversed(files.items()))), None, None)
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 2, 1, 1]
    assert load_folder(root, None, None).classes == ("Dog", "cat", "cat-1")


def stylegan(labels: object) -> dict[str, Image.Image | bytes | str]:
    return {
        "00001/b.png": Image.new("L", (4, 4), 2),
        "00000/a.png": Image.new("L", (4, 4), 1),
        "dataset.json": json.dumps({"labels": labels}),
    }


def test_dataset_json_gives_the_labels_or_none(root):
    pairs = [["00001/b.png", 3], ["00000\\a.png", 6], ["not/there.png", 1]]
    found, labels = read(write(root, stylegan(pairs)), None, None)
    assert found[:, 0, 0, 0].tolist() == [1, 2]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [6, 3]
    assert read(write(root, stylegan(None)), None, None)[1] is None
    write(root, stylegan(None) | {"dataset.json": "{}"})
    assert read(root, None, None)[1].tolist() == [0, 1]
    write(root, stylegan(None) | {"dataset.json": '{"labels": '})
    assert refusal(root).startswith(f"{root / 'dataset.json'} cannot be read: ")


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        ([["00000/a.png", 0]], "no label for 00001/b.png"),
        ([["00000/a.png", 0], ["00001/b.png", -1]], "00001/b.png has -1"),
        ([["00000/a.png", 0], ["00001/b.png", 0.5]], "00001/b.png has 0.5"),
        ([["00000/a.png", 0], ["00001/b.png", True]], "00001/b.png has true"),
        ([["00000/a.png", 0], ["00001/b.png", [0, 1]]], "00001/b.png has [0, 1]"),
        ([["00000/a.png", 0], ["00001/b.png", 2**70]], "00001/b.png has 118"),
        ([["00000/a.png"]], "whole number"),
        (7, "whole number"),
    ],
)
def test_labels_that_are_not_labels_are_refused(labels, word, root):
    message = refusal(write(root, stylegan(labels)))
    assert "dataset.json" in message
    assert word in message


IMAGES = ("PNG", "JPEG", "TIFF")


def zip_of(change: Callable[[bytearray], object]) -> Callable[[Path], Path]:
    """A zip file of a.png and b.png after a change of its bytes."""

    def make(place: Path) -> Path:
        path = write(place / "x.zip", {"a.png": noise(8, 8), "b.png": noise(8, 8, seed=1)})
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return make


def encrypt(data: bytearray) -> None:
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1


def linked(place: Path) -> Path:
    (place / "a.png").symlink_to(place / "nowhere.png")
    return place


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def holding(form: str, image: Image.Image, part: float = 1) -> Callable[[Path], Path]:
    """A folder of this part of the image's file."""
    data = encoded(image, form)
    return lambda place: write(place, {"a.png": data[: int(part * len(data))]})


def flip(data: bytearray) -> None:
    data[data.index(b"b.png") + 60] ^= 255


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place / "none", "{root} does not exist; "),
        (lambda place: write(place, {"a.txt": "no"}), "no images in {root}; it needs"),
        (lambda place: write(place, {"a.png": noise(8, 8)}) / "a.png", "{root} is neither a fold"),
        (linked, "{root}/a.png cannot be read: it is not a regular file"),
        (zip_of(lambda data: data.__delitem__(slice(-40, None))), "{root} cannot be"),
        (zip_of(flip), "{root}/b.png cannot be read: Bad CRC-32"),
        (zip_of(encrypt), "{root}/a.png cannot be read: File "),
        (holding("PNG", noise(8, 8), 0.01), "{root}/a.png cannot be read: it is damaged"),
        # Pillow would read it, but not under msngan
        (holding("EPS", noise(16, 16)), "{root}/a.png cannot be read: it is damaged"),
        *((holding(form, noise(64, 64), 0.5), "{root}/a.png cann") for form in IMAGES),
        (holding("TIFF", Image.new("F", (8, 8), 0.5)), "{root}/a.png cannot be read: it has mode"),
        (holding("TIFF", Image.new("I", (8, 8), 70_000)), "{root}/a.png cannot be read: it has 32"),
        (lambda place: pipe(place / "pipe"), "{root} is neither a folder nor a zip file"),
        (lambda place: pipe(place / "a.png").parent, "{root}/a.png cannot be read: it is not a"),
    ],
    ids=[
        *("missing", "no images", "an image", "link", "cut zip", "flip", "password", "text", "EPS"),
        *(f"half a {form}" for form in IMAGES),
        *("floats", "32 bits", "a pipe", "a pipe in it"),
    ],
)
def test_a_root_is_refused(make, words, tmp_path):
    root = make(tmp_path)
    assert refusal(root).startswith(words.format(root=root))


def test_damaged_images_are_read_or_named_but_raise_nothing_else(tmp_path):
    draw = np.random.default_rng(0)
    messages, shapes = [], []
    for index in range(60):
        form = pictures.FORMATS[index % len(pictures.FORMATS)]
        data = bytearray(encoded(noise(24, 24, seed=index), form))
        for place in draw.integers(0, len(data), 12):
            data[place] = draw.integers(0, 256)
        write(tmp_path, {"a.png": bytes(data)})
        try:
            shapes.append(read(tmp_path, 8, 3)[0].shape)
        except DataError as problem:
            messages.append(str(problem))
    assert set(shapes) == {(1, 3, 8, 8)}
    assert len(messages) > 5
    assert all(message.startswith(f"{tmp_path / 'a.png'} cannot be read: ") for message in messages)
    assert not any("\n" in message for message in messages)


@pytest.mark.quick
def test_all_bad_images_are_counted_and_the_first_are_named_or_skipped(root):
    files: dict[str, Image.Image | bytes | str] = {
        f"{i % 2}/{i:03d}.png": Image.new("L", (4, 4), i) for i in range(40)
    }
    bad = [f"{i % 2}/{i:03d}.png" for i in (*range(0, 20, 2), 31, 33)]
    files |= dict.fromkeys(bad, b"")
    reason = "it is empty"
    what = f"12 of 40 images in {root} cannot be read"
    named = f"{', '.join(f'{name} ({reason})' for name in bad[:10])} and 2 more"
    assert refusal(write(root, files)) == f"{what}: {named}; repair or remove them"
    with pytest.warns(UserWarning, match="are skipped") as said:
        found, labels = read(root, None, None, skip_bad=True)
    assert [str(each.message) for each in said] == [f"{what} and are skipped: {named}"]
    kept = [name for name in sorted(files) if name not in bad]
    assert found[:, 0, 0, 0].tolist() == [int(name[2:5]) for name in kept]
    assert labels.tolist() == [int(name[0]) for name in kept]


def test_files_that_are_left_out_are_counted_by_kind_and_not_all_images_are_skipped(root):
    files = {"a.png": Image.new("L", (4, 4), 7), "b.HEIC": b"", "c.svg": b"", "x/d.heic": b""}
    files |= {"LICENSE": b"", "dataset.json": b"{}"}
    with pytest.warns(UserWarning, match="other") as said:
        assert len(read(write(root, files), None, None)[0]) == 1
    assert [str(each.message) for each in said] == [
        f"4 other files in {root} are left out: 2 .heic, 1 without ending, 1 .svg; images in"
        " another format can be converted to PNG"
    ]
    write(root, {"a.png": b"", "b.png": b""})
    for skip in (False, True):
        with pytest.raises(DataError, match=r"2 of 2 images .* cannot be read"):
            load_folder(root, None, None, skip_bad=skip)


@pytest.mark.parametrize(
    ("problem", "words"), [(OSError("two\n  lines"), "two lines"), (EOFError(), "EOFError")]
)
def test_a_reason_is_one_line_and_never_empty(problem, words, root, monkeypatch):
    def fail(data: bytes) -> Image.Image:
        raise problem

    monkeypatch.setattr(sources, "picture", fail)
    message = refusal(write(root, {"a.png": b""}))
    assert message == f"{root / 'a.png'} cannot be read: {words}; repair or remove it"


@pytest.mark.parametrize("side", [10_000, 30_000])  # Pillow only warns of the first
def test_a_decompression_bomb_is_refused_without_lasting_changes(side, root):
    before = warnings.filters[:], Image.MAX_IMAGE_PIXELS
    message = refusal(write(root, {"a.png": hostile_data.png(side, side)}), 8, 1)
    assert "decompression bomb" in message
    assert str(root / "a.png") in message
    assert (warnings.filters[:], Image.MAX_IMAGE_PIXELS) == before


def test_files_and_data_sets_above_their_bounds_are_refused_unread(root, monkeypatch):
    write(root, {"a.png": noise(8, 8), "b.png": b"never looked at"})
    message = refusal(root, 200_000, 3)  # 2 * 3 * 200,000^2 bytes
    for part in ("224 GiB", "over 64", "--data.size"):
        assert part in message
    monkeypatch.setattr(sources, "MOST_FILE_BYTES", 1999)
    for name in ("a.png", "dataset.json"):
        write(root, {"a.png": noise(8, 8), "b.png": noise(8, 8), name: b"0" * 2000})
        message = refusal(root)
        assert message.startswith(
            f"{root / name} cannot be read: 2000 bytes are more than the 1999"
        )


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    write(tmp_path, {"a/1.png": noise(8, 8), "b/2.png": noise(8, 8)})
    listing = os.scandir

    def scandir(path: str) -> object:  # root, who runs tests in containers, may list everything
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refusal(tmp_path) == f"cannot list {tmp_path / 'b'}: Permission denied"


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "x/../../evil2.png", "C:\\evil.png"])
def test_a_name_that_leads_out_of_a_zip_file_is_refused_and_goes_nowhere(tmp_path, name):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    path = write(inside / "x.zip", {"good.png": noise(8, 8), name: noise(8, 8)})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="a name that leads out of it"):
        load_folder(path, None, None)
    assert sorted(tmp_path.rglob("*")) == before
