"""DATASETS: name -> loader, and the loaders of the official data sets.

A loader takes (root, split, size, channels, download) and returns uint8 images (N, C, H, W) with
labels (N,) if there are any. Torchvision reads and downloads the official files; it and PIL are
imported only when a loader runs. A new data set is one loader and one line in DATASETS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from msngan.data import hub
from msngan.data import images as convert
from msngan.data.cache import cached
from msngan.data.hub import TAKES
from msngan.data.image_files import decoded, load_folder
from msngan.data.images import Images
from msngan.data.pictures import DataError
from msngan.data.sources import Source, read_file
from msngan.runs.folder import counted

# (root, split, size, channels, download), and what Dataset.takes -> images
Loader = Callable[..., Images]


@dataclass(frozen=True)
class Dataset:
    """One entry of DATASETS.

    splits: their names; a GAN is trained on the first. () if they depend on the files.
    size, channels: what `null` in a config means; None if it depends on the files.
    classes: number of labels; 0 if there are none, or if it depends on the files.
    files: what is decoded, a folder or a file relative to the root; the images are then cached.
        None for images that are quick to read.
    takes: what the loader takes of the options of files: skip_bad, test_share, ...
    """

    load: Loader
    splits: tuple[str, ...] = ("train", "test")
    size: int | None = 32
    channels: int | None = 3
    classes: int = 10
    files: str | None = None
    takes: tuple[str, ...] = ()


ROOTS = {"folder": "a folder of images or a zip file", "hub": TAKES}  # what root has to be


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder of the official files: the argument, $MSNGAN_DATA, or the user's cache."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("MSNGAN_DATA") or Path.home() / ".cache" / "msngan" / "data")


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    download: bool = True,
    cache: Path | None = None,
    **of_files: Any,
) -> Images:
    """The images of data set `name`, in its own size and channels unless others are given.

    cache: a folder to keep decoded images in, see msngan.data.cache.
    of_files: skip_bad, test_share, labelled, ..., of `load_folder` and `load_hub`; other data sets
    have no use for them.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    if size is not None and size < 1:
        raise DataError(f"--data.size {size} is not positive")
    if channels not in (None, 1, 3):
        raise DataError(f"--data.channels {channels}: use 1 or 3")
    entry, where = DATASETS[name], _place(name, root)
    if entry.splits:
        split = split or entry.splits[0]
        if split not in entry.splits:
            listed = ", ".join(entry.splits)
            raise DataError(f"{name} has no split {split!r}; choose one of {listed}")
    size, channels = size or entry.size, channels or entry.channels
    given = {key: value for key, value in of_files.items() if key in entry.takes}

    def read(**options: Any) -> Images:
        return entry.load(where, split, size, channels, download, **given, **options)

    if "cache" in entry.takes:
        return read(cache=cache)
    if entry.files is None:
        return read()
    about = {"dataset": name, "split": split, "size": size, "channels": channels, **given}
    return cached(cache, where / entry.files, about, read)


def splits_of(
    name: str, root: str | os.PathLike[str] | None = None, download: bool = True
) -> tuple[str, ...]:
    """The names of a data set's splits, the one that is trained on first."""
    if DATASETS[name].splits:
        return DATASETS[name].splits
    where = _place(name, root)
    found = hub.splits_of(where, download)
    first = hub.chosen_split(where, found, None)
    return first, *(each for each in found if each != first)


def _place(name: str, root: str | os.PathLike[str] | None) -> Path:
    if root is None and name in ROOTS:
        raise DataError(f"data set {name!r} needs --data.root: {ROOTS[name]}")
    return data_root(root)


def official(torchvision_name: str, by_split: bool = False, classes: int = 10) -> Loader:
    """The loader of one of torchvision's data sets: CIFAR10, MNIST, SVHN, STL10, ..."""

    def loader(
        root: Path, split: str, size: int | None, channels: int | None, download: bool
    ) -> Images:
        from torchvision import datasets

        kind = getattr(datasets, torchvision_name)
        chosen: dict[str, Any] = {"split": split} if by_split else {"train": split == "train"}
        try:
            found = _read(kind, torchvision_name, root, chosen, download)
            images, labels = _as_tensors(found, None if "unlabeled" in split else classes)
        except DataError:
            raise
        except Exception as problem:  # on damaged files the readers raise nearly anything
            raise _damaged(torchvision_name, root, problem) from problem
        images = fitted(images, size or images.shape[-1])
        return Images(convert.with_channels(images, channels or images.shape[1]), labels)

    return loader


def fitted(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) at size x size, as for all data sets but folders.

    28 pixels become 32 by a black border, which continues the digits' own.
    """
    if images.shape[-1] == 28 and size == 32:
        return F.pad(images, (2, 2, 2, 2))
    return convert.resize(images, size)


def _read(
    kind: Callable[..., Any], name: str, root: Path, chosen: dict[str, Any], download: bool
) -> Any:  # noqa: ANN401  a torchvision data set; they share no useful base
    try:
        return kind(str(root), download=False, **chosen)
    except RuntimeError as problem:
        if "not found" not in str(problem):  # torchvision has no exception type for it
            raise
        missing = problem
    remedy = f"give --data.root or MSNGAN_DATA a folder that holds torchvision's {name} files"
    if not download:
        raise DataError(f"no whole {name} in {root}; {remedy}, or allow the download") from missing
    try:
        return kind(str(root), download=True, **chosen)
    except Exception as problem:  # CelebA's downloader has exceptions of its own
        cause = f"no whole {name} in {root}, and it cannot be downloaded ({_reason(problem)})"
        raise DataError(f"{cause}; {remedy}") from problem


def _damaged(name: str, root: Path, problem: Exception) -> DataError:
    return DataError(
        f"the {name} files in {root} are damaged ({_reason(problem)}); remove them and get them"
        " again"
    )


def _reason(problem: Exception) -> str:
    """The last line of what an exception says: torchvision puts the cause there."""
    lines = str(problem).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), type(problem).__name__)


def _as_tensors(data: Any, classes: int | None) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
    """Torchvision's raw arrays, whose layout differs from class to class, as (N, C, H, W).

    classes: None for images without labels.
    """
    raw = data.data
    labels = torch.as_tensor(np.asarray(data.labels if hasattr(data, "labels") else data.targets))
    if isinstance(raw, Tensor):  # MNIST and FashionMNIST: (N, H, W)
        images = raw.unsqueeze(1)
    elif raw.shape[1] == 3:  # SVHN and STL-10: (N, C, H, W)
        images = torch.from_numpy(raw)
    else:  # CIFAR: (N, H, W, C)
        images = torch.from_numpy(raw).permute(0, 3, 1, 2)
    if len(images) != len(labels):
        raise ValueError(f"{counted(len(images), 'image')}, {counted(len(labels), 'label')}")
    if images.dtype != torch.uint8 or (
        classes is not None and not 0 <= labels.min() <= labels.max() < classes
    ):
        raise ValueError(f"{images.dtype} images, labels {labels.min()} to {labels.max()}")
    return images.contiguous(), None if classes is None else labels.long()


def load_celeba(
    root: Path, split: str, size: int | None, channels: int | None, download: bool
) -> Images:
    """CelebA's aligned faces, 178x218: the 148x148 pixels at the centre, resized (Lanczos).

    That is the crop of most papers' 64x64 faces. There are no labels: its 40 attributes are not
    classes.
    """
    from torchvision.datasets import CelebA

    try:
        found = _read(CelebA, "CelebA", root, {"split": split, "target_type": []}, download)
    except DataError:
        raise
    except Exception as problem:
        raise _damaged("CelebA", root, problem) from problem
    folder = root / CelebA.base_folder / "img_align_celeba"
    faces = Source(folder, list(found.filename), lambda name: read_file(folder / name), centre=148)
    return Images(decoded(faces, size or 64, channels or 3)[0])


def load_digits(
    root: Path, split: str, size: int | None, channels: int | None, download: bool
) -> Images:
    """The 1,797 handwritten digits (8x8, 16 grey levels) that scikit-learn carries.

    Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998. Every fifth image is
    in "test" and not in "train"; "all" is both. No file and no download is needed.
    """
    from sklearn.datasets import load_digits as read

    data = read()
    images = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(data.target).long()
    held_out = torch.arange(len(images)) % 5 == 4
    keep = {"all": torch.ones_like(held_out), "train": ~held_out, "test": held_out}[split]
    images = convert.resize(images[keep], size or 8)
    return Images(convert.with_channels(images, channels or 1), labels[keep])


def folder(
    root: Path,
    split: str,
    size: int | None,
    channels: int | None,
    download: bool,
    *,
    skip_bad: bool = False,
    **options: Any,
) -> Images:
    """A folder or zip file of images: see msngan.data.image_files."""
    return load_folder(root, size, channels, skip_bad, split, **options)


OF_FILES = ("skip_bad", "test_share", "labelled")
OF_COLUMNS = ("image_column", "label_column", "cache")

DATASETS: dict[str, Dataset] = {
    "digits": Dataset(load_digits, splits=("all", "train", "test"), channels=1),
    "mnist": Dataset(official("MNIST"), channels=1),
    "fashion": Dataset(official("FashionMNIST"), channels=1),
    "cifar10": Dataset(official("CIFAR10")),
    "svhn": Dataset(official("SVHN", by_split=True)),
    "cifar100": Dataset(official("CIFAR100", classes=100), classes=100),
    "stl10": Dataset(
        official("STL10", by_split=True),
        splits=("train", "test", "unlabeled", "train+unlabeled"),
        size=48,
    ),
    "celeba": Dataset(
        load_celeba,
        splits=("train", "test", "valid", "all"),
        size=64,
        classes=0,
        files="celeba",
    ),
    "folder": Dataset(
        folder,
        splits=("all", "train", "test"),
        size=None,
        channels=None,
        classes=0,
        files=".",
        takes=OF_FILES,
    ),
    "hub": Dataset(
        hub.load_hub,
        splits=(),
        size=None,
        channels=None,
        classes=0,
        takes=(*OF_FILES, *OF_COLUMNS),
    ),
}

if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[tuple(DATASETS)]
