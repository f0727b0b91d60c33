"""A user's own images: a folder or a zip file of them, as one uint8 tensor.

The zip file may be one that StyleGAN2-ADA's dataset_tool.py wrote (Karras et al. 2020,
arXiv:2006.06676): images, and a dataset.json whose "labels" pairs their names with classes.
Nothing is written, and nothing is extracted to disk.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msngan.data import decode, zipped
from msngan.runs.folder import UserError
from msngan.runs.safe_files import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_FILE_BYTES = 2**28
MOST_BYTES = 2**36
CHUNK = 32


class DataError(UserError):
    """Images that are missing, damaged or unfit: one line with the remedy."""


@dataclass(frozen=True)
class Source:
    """names: all files but hidden ones, sorted, '/' between parts; read: the bytes of one."""

    root: Path
    names: list[str]
    read: Callable[[str], bytes]


@dataclass(frozen=True)
class Look:
    """What is compared of two images, without their pixels."""

    width: int
    height: int
    grey: bool

    @classmethod
    def of(cls, image: Image) -> Look:
        return cls(image.width, image.height, decode.is_grey(image))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def load_folder(root: Path, size: int | None, channels: int | None) -> tuple[Tensor, Tensor | None]:
    """Images, uint8 (N, C, H, W), in the order of their names, and labels, int64 (N,), or None.

    size: the shorter side is resized to it (Lanczos) and the centre cut out; None where all images
    are squares of one size. channels: 1 or 3; None where all are grey or all in colour.
    Labels come from dataset.json where it has "labels" (null: none), else from the subfolders of
    the first level, in order of name, when every image lies in one. All else is a DataError.
    """
    root = Path(root)
    with _opened(root) as source, decode.strict():
        names = [name for name in source.names if name.lower().endswith(ENDINGS)]
        if not names:
            raise DataError(f"no images in {root}; it needs files ending in {' '.join(ENDINGS)}")
        labels = _labels(source, names)
        first = _look(source, names[0])
        images = torch.empty(_shape(source, names, first, size, channels), dtype=torch.uint8)

        def fill(chunk: range) -> None:
            for index in chunk:
                name = names[index]
                with _naming(root / name), decode.picture(source.read(name)) as image:
                    _check_alike(root, size, channels, (names[0], first), (name, Look.of(image)))
                    images[index] = decode.pixels(image, *images.shape[1:3])

        chunks = [range(at, min(at + CHUNK, len(names))) for at in range(0, len(names), CHUNK)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(fill, chunks):  # raises the first error, in order of name
                pass
    return images, labels


def _shape(
    source: Source, names: list[str], first: Look, size: int | None, channels: int | None
) -> tuple[int, int, int, int]:
    if size is None and first.width != first.height:
        what = f"not square ({first} {names[0]})"
        raise DataError(f"images in {source.root} are {what}; set --data.size")
    side, channels = size or first.width, channels or (1 if first.grey else 3)
    need = len(names) * channels * side * side
    if need > MOST_BYTES:
        raise DataError(
            f"{len(names)} images from {source.root} at {side}x{side} need {need / 2**30:.0f} GiB"
            f" of memory, over {MOST_BYTES / 2**30:.0f}; set a smaller --data.size or give fewer"
        )
    return len(names), channels, side, side


def _check_alike(
    root: Path, size: int | None, channels: int | None, *pair: tuple[str, Look]
) -> None:
    (_, first), (_, other) = pair
    if size is None and str(first) != str(other):
        both = ", ".join(f"{look} {name}" for name, look in pair)
        raise DataError(f"images in {root} differ in size ({both}); set --data.size")
    if channels is None and first.grey != other.grey:
        kinds = ((name, "grey" if look.grey else "colour") for name, look in pair)
        both = ", ".join(f"{name} is {kind}" for name, kind in kinds)
        raise DataError(f"images in {root} mix grey and colour ({both}); set --data.channels")


def _look(source: Source, name: str) -> Look:
    with _naming(source.root / name), decode.picture(source.read(name)) as image:
        return Look.of(image)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever fails inside is a DataError about the file at `path`."""
    try:
        yield
    except DataError:
        raise
    except Exception as problem:  # damaged files make zlib, json and Pillow raise nearly anything
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise DataError(f"cannot read {path}: {reason}; repair or remove it") from problem


@contextmanager
def _opened(root: Path) -> Iterator[Source]:
    if os.path.isdir(root):
        try:
            names = sorted(_walk(str(root)))
        except OSError as problem:
            raise DataError(f"cannot list {problem.filename}: {problem.strerror}") from problem
        yield Source(root, names, lambda name: _read_file(root / name))
    elif not os.path.exists(root):
        raise DataError(f"{root} does not exist; --data.root takes a folder or zip file of images")
    elif not (os.path.isfile(root) and (root.suffix == ".zip" or zipfile.is_zipfile(root))):
        raise DataError(f"{root} is neither a folder nor a zip file of images")
    else:
        with _naming(root):
            zipped.check_index(root)
            archive = zipfile.ZipFile(root)
        with archive:
            yield _zipped(root, archive)


def _zipped(root: Path, archive: zipfile.ZipFile) -> Source:
    files = {
        member.filename.replace("\\", "/"): member
        for member in archive.infolist()
        if not member.filename.endswith("/")
    }
    for name, member in files.items():
        if why := zipped.unfit(name, member):
            raise DataError(
                f"{root} holds {name[:80]!r}, {why}; make the file anew, of images only"
            )
    members = {name: member for name, member in files.items() if not _hidden(name)}
    turn = threading.Lock()  # ZipFile counts its open members without one

    def read(name: str) -> bytes:
        _check_bytes(members[name].file_size)
        with turn:
            return zipped.read(archive, members[name])

    return Source(root, sorted(members), read)


def _walk(folder: str, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up would be followed for ever
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _read_file(path: Path) -> bytes:
    if not path.is_file():  # reading a pipe would wait for ever
        raise OSError("no regular file, or a link to nothing")
    _check_bytes(path.stat().st_size)
    return path.read_bytes()


def _check_bytes(count: int) -> None:
    if count > MOST_FILE_BYTES:
        raise OSError(f"{count} bytes are more than the {MOST_FILE_BYTES} allowed")


def _labels(source: Source, names: list[str]) -> Tensor | None:
    if "dataset.json" in source.names:
        where = source.root / "dataset.json"
        with _naming(where):
            record = read_json(source.read("dataset.json"))
        if isinstance(record, dict) and "labels" in record:
            return None if record["labels"] is None else _listed(where, record["labels"], names)
    if not all("/" in name for name in names):
        return None
    folders = [name.split("/", 1)[0] for name in names]
    number = {folder: label for label, folder in enumerate(sorted(set(folders)))}
    return torch.tensor([number[folder] for folder in folders])


def _listed(where: Path, pairs: Any, names: list[str]) -> Tensor:  # noqa: ANN401  any JSON value
    form = '"labels" must be null or [[name, whole number from 0 up], ...]'
    try:
        labels = {str(name).replace("\\", "/"): label for name, label in pairs}
    except (TypeError, ValueError) as problem:
        raise DataError(f"{where}: {form}") from problem
    for name in names:
        if name not in labels:
            raise DataError(f'{where} has no label for {name}; add it, or set "labels" to null')
        if type(labels[name]) is not int or not 0 <= labels[name] < 2**63:
            raise DataError(f"{where}: {form}; {name} has {json.dumps(labels[name])[:60]}")
    return torch.tensor([labels[name] for name in names])
