"""Images that any tool made: a folder or zip file of image files, or an .npz or .npy file.

Arrays are laid out as in guided-diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233: `arr_0`, uint8
(N, H, W, C), beside labels and statistics), as by `msngan sample --format npz`, or (N, C, H, W) as
in PyTorch. Pickles are not opened.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msngan.data import images as convert
from msngan.data.image_files import MOST_BYTES, load_folder
from msngan.data.images import Images
from msngan.data.parallel import in_chunks
from msngan.data.pictures import DataError, pixels, reading
from msngan.runs.safe_read import read_npy, read_npz

ARRAYS = (".npz", ".npy")
NAMES = ("arr_0", "images", "samples", "x")  # of the images in an .npz file, the first one there is
STATISTICS = {"mu", "sigma"}
CHANNELS = (1, 3)
MOST_RATIO = 200  # of an array's bytes to what they are compressed to; few colours make it high
MOST_UNSUSPECTED = 2**28  # bytes
WHAT = "a folder, or a .zip, .npz or .npy file, of images"
LAYOUTS = "(N, H, W, C), (N, C, H, W) or, if grey, (N, H, W)"


def load_images(
    path: str | os.PathLike[str],
    size: int | None = None,
    channels: int | None = None,
    option: str = "--against",
) -> Images:
    """All images at `path`, at least 2, uint8 (N, C, H, W), in the order of names or of the array.

    An array is uint8, (N, H, W, C), (N, C, H, W) or (N, H, W), C being 1 or 3; a shape that can be
    read in two ways is refused. In an .npz file it is the first of NAMES, or the only one. size:
    the shorter side is resized to it (Lanczos) and the centre cut out; None if all images are
    squares of one size. channels: 1 or 3; None for the images' own. Any other input is a DataError;
    option: the option of `msngan evaluate` that its message names.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise DataError(f"{option} {path}: {reason}; give {WHAT}") from problem
    ending = path.suffix.lower()
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and ending == ".zip"):
        try:
            found = load_folder(path, size, channels)
        except DataError as problem:  # it names the options of `fit`
            raise DataError(f"{option}: {str(problem).replace('--data.', '--')}") from problem
    elif stat.S_ISREG(mode) and ending in ARRAYS:
        with reading(f"{option} {path}"):
            what, array = _array(path, f"{option} {path}")
            found = Images(_images(array, what, size, channels))
    else:
        raise DataError(f"{option} {path} is of an unknown kind; give {WHAT}")
    if len(found.images) < 2:
        raise DataError(f"{option} {path} holds one image; a score needs at least 2")
    return found


def _array(path: Path, what: str) -> tuple[str, np.ndarray]:
    """The array of images, after what to call it in messages; what: the option and the path."""
    if path.suffix.lower() == ".npy":
        return what, read_npy(path, MOST_BYTES)
    with zipfile.ZipFile(path) as archive:
        name = _chosen(archive.namelist(), what)
        for member in archive.infolist():
            size, packed = member.file_size, member.compress_size
            if size > MOST_UNSUSPECTED and size > MOST_RATIO * packed:
                raise DataError(
                    f"{what} inflates to {size:,} bytes from {packed:,}, as no images do; use"
                    " numpy.savez"
                )
    return f"{what}: {name!r}", read_npz(path, MOST_BYTES)[name]


def _chosen(members: list[str], what: str) -> str:
    """The name of the images among an archive's members."""
    names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    if known := [name for name in NAMES if name in names]:
        return known[0]
    if set(names) >= STATISTICS:
        raise DataError(
            f"{what} holds statistics (mu, sigma) and no images; another extractor's statistics say"
            " nothing here: give the images themselves"
        )
    if len(names) != 1:
        held = f"{', '.join(map(repr, names))[:200]}" if names else "no arrays"
        raise DataError(f"{what} holds {held}; save the images in it as one array called 'images'")
    return names[0]


def _images(array: np.ndarray, what: str, size: int | None, channels: int | None) -> Tensor:
    """The array as uint8 (N, C, H, W); DataError if it cannot be images."""
    shape, kind = array.shape, array.dtype
    if len(shape) not in (3, 4):
        raise DataError(f"{what} has shape {shape}; images are {LAYOUTS}")
    if min(shape) < 1:
        raise DataError(f"{what} has shape {shape}, which holds no pixels")
    height, width = _sides(shape, what)
    if kind.kind == "f":
        raise DataError(_of_floats(array, what))
    if kind != np.uint8:
        raise DataError(
            f"{what} is {kind}, and images are uint8, 0 to 255; if its values are these, save"
            " x.astype(numpy.uint8)"
        )
    if size is None and height != width:
        raise DataError(f"{what} is not square ({width}x{height}); set --size")
    side = size or height
    need = shape[0] * (channels or 1) * side * side
    if need > MOST_BYTES:
        raise DataError(
            f"{what} needs {need / 2**30:.0f} GiB of memory, over {MOST_BYTES / 2**30:.0f};"
            " give fewer images"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif shape[3] in CHANNELS:
        array = np.moveaxis(array, 3, 1)
    return _converted(torch.from_numpy(np.ascontiguousarray(array)), size, channels)


def _sides(shape: tuple[int, ...], what: str) -> tuple[int, int]:
    """Height and width; DataError if the shape can be read in two ways, or in none."""
    if len(shape) == 3:
        if shape[0] in CHANNELS or shape[2] in CHANNELS:
            raise DataError(
                f"{what} has shape {shape}: one image, or grey ones? Save one image as one of many,"
                " and grey ones as (N, H, W, 1)"
            )
        return shape[1], shape[2]
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        problem = "either the second or the last" if first else "neither the second nor the last"
        raise DataError(
            f"{what} has shape {shape}: {problem} axis can be 1 or 3 channels; images are {LAYOUTS}"
        )
    return (shape[2], shape[3]) if first else (shape[1], shape[2])


def _of_floats(array: np.ndarray, what: str) -> str:
    low, high = float(array.min()), float(array.max())  # NaN wherever there is one
    if math.isnan(low):
        return f"{what} holds NaN; the generator that made it has diverged"
    return (
        f"{what} is {array.dtype} from {low:.4g} to {high:.4g}, and images are uint8; only you know"
        " its range: save numpy.rint((x + 1) * 127.5) of [-1, 1], numpy.rint(x * 255) of [0, 1] or"
        " numpy.rint(x) of [0, 255], with .clip(0, 255).astype(numpy.uint8)"
    )


def _converted(images: Tensor, size: int | None, channels: int | None) -> Tensor:
    """uint8 (N, C, H, W), each as the same pixels in a PNG file would be."""
    count, have, height, width = images.shape
    side, channels = size or height, channels or have
    if (have, height, width) == (channels, side, side):
        return images
    made = torch.empty((count, channels, side, side), dtype=torch.uint8)

    def fill(chunk: range) -> None:
        for index in chunk:
            made[index] = pixels(convert.to_pil(images[index]), channels, side)

    in_chunks(fill, count)
    return made
