"""Images of any tool's making: what is read, and one line for all that is not."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

from msngan.data import image_arrays
from msngan.data.image_arrays import load_images
from msngan.data.image_files import load_folder
from msngan.data.pictures import DataError
from msngan.runs import safe_read
from msngan.runs.folder import UserError


def pixels(count: int = 5, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """uint8 (N, H, W, C)."""
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def pictures(root: Path, array: np.ndarray) -> Path:
    """The images as PNG files, in their order."""
    root.mkdir()
    for index, image in enumerate(array):
        flat = image[..., 0] if image.shape[2] == 1 else image
        Image.fromarray(flat).save(root / f"{index:03d}.png")
    return root


def zipped(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, str(file.relative_to(root)))
    return path


def saved(path: Path, **arrays: Any) -> Path:
    """An .npz of the arrays, or an .npy of the only one."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        np.save(path, *arrays.values(), allow_pickle=True)
    return path


def refusal(path: Path, option: str = "--samples", **options: int) -> str:
    """The message of the DataError: one line that names option and path, none of `fit`'s."""
    with pytest.raises(DataError, match=rf"\A{option}.*\Z") as caught:
        load_images(path, option=option, **options)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert str(path) in message
    assert "--data" not in message
    return message


@pytest.mark.parametrize("channels", [1, 3])
def test_every_layout_of_the_same_images_is_the_same_tensor(tmp_path, channels):
    array = pixels(channels=channels)
    want = nchw(array)
    layouts = {"nhwc": array, "nchw": array.transpose(0, 3, 1, 2)}
    if channels == 1:
        layouts["nhw"] = array[..., 0]
    paths = [pictures(tmp_path / "x", array), zipped(tmp_path / "x")]
    for name, layout in layouts.items():
        paths.append(saved(tmp_path / f"{name}.npy", x=layout))
        paths.append(saved(tmp_path / f"{name}.npz", arr_0=layout))
        paths.append(saved(tmp_path / f"{name}-f.npy", x=np.asfortranarray(layout)))
        np.savez_compressed(tmp_path / f"{name}-c.npz", layout)
        paths.append(tmp_path / f"{name}-c.npz")
    for path in paths:
        found = load_images(path).images
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, want), path.name


def test_the_arrays_name_is_one_of_the_usual_or_the_only_one(tmp_path):
    first, second = pixels(), pixels()[::-1]
    labels = np.arange(5)
    path = tmp_path / "x.npz"
    for arrays in (
        {"arr_0": first, "arr_1": labels},  # guided-diffusion's samples
        {"mu": np.zeros(3), "sigma": np.eye(3), "arr_0": first},  # its reference batches
        {"y": labels, "images": first},
        {"samples": first, "z": second},
        {"x": first, "other": second},
        {"fakes": first},
        {"images": second, "arr_0": first},
        {"samples": second, "images": first},
        {"x": second, "samples": first},
    ):
        saved(path, **arrays)
        assert torch.equal(load_images(path).images, nchw(first)), list(arrays)


@pytest.mark.parametrize(
    ("height", "width", "size", "have", "want"),
    [(16, 16, 8, 1, None), (8, 8, 8, 3, 1), (8, 8, 12, 1, 3), (12, 20, 8, 3, None)],
)
def test_an_array_is_converted_as_the_same_png_files(tmp_path, height, width, size, have, want):
    array = pixels(40, height, width, have)  # more than one thread takes at a time
    root = pictures(tmp_path / "x", array)
    found = load_images(saved(tmp_path / "x.npy", x=array), size, want).images
    assert found.shape == (40, want or have, size, size)
    assert torch.equal(found, load_folder(root, size, want).images)
    assert torch.equal(found, load_images(root, size, want).images)


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((5, 8, 8, 3), 0.5, np.float32), "float32 from 0.5 to 0.5"),
        (np.linspace(-1, 1, 5 * 192).reshape(5, 8, 8, 3), "float64 from -1 to 1"),
        (np.linspace(-1, 1, 5 * 192).reshape(5, 3, 8, 8), "numpy.rint((x + 1) * 127.5)"),
        (np.full((5, 8, 8, 3), np.nan, np.float16), "holds NaN"),
        (np.where(np.arange(960) == 7, np.nan, 0.5).reshape(5, 8, 8, 3), "holds NaN"),
        (np.zeros((5, 8, 8, 3), np.int64), "is int64, and images are uint8"),
        (np.zeros((5, 8, 8, 3), np.int8), "is int8"),
        (np.zeros((5, 8, 8, 3), np.uint16), "is uint16"),
        (np.zeros((5, 8, 8, 3), bool), "is bool"),
        (np.zeros((5, 8, 8, 3), np.complex64), "is complex64"),
        (np.zeros((5, 8, 8, 3), "S3"), "is |S3"),
        (np.zeros((5, 8, 8, 3), [("r", "u1")]), "[('r', 'u1')]"),
        (np.empty((5, 8, 8, 3), object), "Python objects"),
        (np.zeros((5, 2048), np.float32), "has shape (5, 2048)"),
        (np.zeros((), np.uint8), "has shape ()"),
        (np.zeros((2, 5, 8, 8, 3), np.uint8), "has shape (2, 5, 8, 8, 3)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "holds no pixels"),
        (np.zeros((5, 0, 0, 3), np.uint8), "holds no pixels"),
        (np.zeros((5, 8, 8, 4), np.uint8), "neither the second nor the last axis"),
        (np.zeros((5, 3, 8, 3), np.uint8), "either the second or the last axis"),
        (np.zeros((8, 8, 3), np.uint8), "one image, or grey ones?"),
        (np.zeros((3, 8, 8), np.uint8), "one image, or grey ones?"),
        (np.zeros((1, 8, 8, 3), np.uint8), "holds one image; a score needs at least 2"),
        (np.zeros((5, 8, 6, 3), np.uint8), "is not square (6x8); set --size"),
        (np.zeros((5, 1, 8, 6), np.uint8), "is not square (6x8); set --size"),
        (np.zeros((5, 8, 6), np.uint8), "is not square (6x8); set --size"),
    ],
    ids=lambda value: f"{value.dtype.str}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_an_array_that_holds_no_images_is_named_with_its_remedy(tmp_path, array, words, ending):
    assert words in refusal(saved(tmp_path / f"x.{ending}", arr_0=array))


def test_an_npz_file_without_images_says_what_it_holds(tmp_path):
    path = tmp_path / "x.npz"
    statistics = saved(path, mu=np.zeros(4), sigma=np.eye(4))
    assert "holds statistics (mu, sigma) and no images" in refusal(statistics)
    two = saved(path, a=pixels(), b=pixels())
    assert "holds 'a', 'b'; save the images in it as one array" in refusal(two)
    assert "holds no arrays; save" in refusal(saved(path))


def test_the_remedy_for_floats_gives_the_images_back(tmp_path):
    array = pixels()
    x = array / 127.5 - 1  # as a generator gives them
    message = refusal(saved(tmp_path / "x.npy", x=x))
    formula = message.split("save ")[1].split(" of [-1, 1]")[0]
    ending = message.split("with ")[1]
    found = eval(f"({formula}){ending}", {"numpy": np, "x": x})
    np.testing.assert_array_equal(found, array)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "four bytes": lambda data: data[:4],
    "cut in the header": lambda data: data[:40],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "a byte flipped": lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:],
    "text": lambda data: b"no images here, only words " * 20,
}


@pytest.mark.parametrize("ending", ["npy", "npz", "zip"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, ending, damage):
    path = tmp_path / f"x.{ending}"
    if (ending, damage) == ("npy", "a byte flipped"):
        return  # a pixel, without a checksum
    if ending == "zip":
        zipped(pictures(tmp_path / "x", pixels()))
    else:
        saved(path, arr_0=pixels())
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert "cannot" in refusal(path)


@pytest.mark.parametrize("version", [b"\3\0", b"\x09\x09"])
def test_a_format_for_other_things_is_refused(tmp_path, version):
    path = saved(tmp_path / "x.npy", x=pixels())
    data = path.read_bytes()
    path.write_bytes(data[:6] + version + data[8:])
    assert f"cannot be read: version {version[0]}.{version[1]} of NumPy's" in refusal(path)


def header(shape: str) -> bytes:
    """The start of an .npy file that claims an array of this shape, and nothing after it."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(99999999, 64, 64, 3)", "(10**9, 8, 8, 3)", "(-5, 8, 8, 3)"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_header_is_judged_before_anything_is_read(tmp_path, shape, ending, monkeypatch):
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    path = tmp_path / f"x.{ending}"
    if ending == "npy":
        path.write_bytes(header(shape))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", header(shape))
    message = refusal(path)
    assert any(words in message for words in ("GiB of memory, over 64", "no pixels", "be read"))


def test_too_many_pixels_are_refused_after_resizing_too(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.npy", x=pixels(5, 8, 8, 1))
    size = path.stat().st_size
    monkeypatch.setattr(image_arrays, "MOST_BYTES", size)
    assert len(load_images(path).images) == 5
    assert "memory" in refusal(path, size=10)
    assert "memory" in refusal(path, channels=3)
    monkeypatch.setattr(image_arrays, "MOST_BYTES", size - 1)
    assert "larger than" in refusal(path)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_file_that_may_not_be_read_says_so(tmp_path, ending, monkeypatch):
    path = saved(tmp_path / f"x.{ending}", arr_0=pixels())

    def refuse(*_: object, **__: object) -> NoReturn:  # permissions mean nothing to root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(safe_read, "open", refuse, raising=False)
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    assert "Permission denied" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_or_folder_of_a_known_kind_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nothing")
    for name in ("pipe.npz", "pipe.npy", "pipe.zip", "pipe"):
        os.mkfifo(tmp_path / name)  # reading one would wait for ever
    for name in ("x.tar", "x.pt", "x.npz.bak", "x"):
        saved(tmp_path / "x.npz", arr_0=pixels()).rename(tmp_path / name)
    for name in ("pipe.npz", "pipe.npy", "pipe.zip", "pipe", "x.tar", "x.pt", "x.npz.bak", "x"):
        assert "is of an unknown kind; give a folder, or a .zip" in refusal(tmp_path / name)
    assert "No such file" in refusal(tmp_path / "missing")
    assert "No such file" in refusal(tmp_path / "gone.npz")
    assert "give a folder" in refusal(tmp_path / "loop")
    assert "give a folder" in refusal(tmp_path / ("long" * 100))


def test_a_folder_of_pictures_is_refused_in_the_words_of_evaluate(tmp_path):
    root = tmp_path / "x"
    root.mkdir()
    assert "no images in" in refusal(root)
    Image.new("RGB", (8, 6)).save(root / "a.png")
    assert "set --size" in refusal(root)
    Image.new("RGB", (8, 8)).save(root / "a.png")
    assert "one image" in refusal(root)
    Image.new("RGB", (9, 9)).save(root / "b.png")
    assert "set --size" in refusal(root)
    (root / "b.png").write_bytes(b"no image")
    assert "b.png" in refusal(root)
    (root / "b.png").unlink()
    (root / "b.png").symlink_to(root / "b.png")
    assert "b.png" in refusal(root)
