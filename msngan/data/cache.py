"""Decoded images, kept in a file that later starts map into memory instead of decoding again.

A file of the cache is an .npy array, uint8 (N, C, H, W), which numpy.load(file, mmap_mode="r")
reads, followed by the labels, the warnings about the images and a checksum. Its name is the hash of
what the images depend on: the names, sizes and times of all files of the data set, the size and
channels asked for, and the versions of the decoders. All processes of a machine share its pages,
and the system can drop them at any time, so a data set may be larger than memory.

A loader allocates its images by `empty`, so that they are not in its own memory, leaves some out by
`kept`, and calls `tell` for the progress bar. What any other loader returns is copied to the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msngan.data.images import Images
from msngan.runs import distributed
from msngan.runs.atomic import replacing
from msngan.runs.folder import lock
from msngan.runs.safe_read import read_json

VERSION = 1  # raise it when the same files come to be decoded to other pixels
HEADER = 128  # bytes before the images
TAIL = struct.Struct("<8sQ")  # the last bytes of a file: MAGIC and the length of the record
MAGIC = b"msngan-1"
MOST_RECORD = 2**24  # bytes
BLOCKS, BLOCK = 64, 4096  # the bytes that are checked before a file is used
WAIT_SECONDS = 0.1
PART = 4096  # images that are copied or hashed at a time


def user_cache(kind: str) -> Path:
    """$MSNGAN_CACHE, or the user's cache, with /kind."""
    return Path(os.environ.get("MSNGAN_CACHE") or Path.home() / ".cache" / "msngan") / kind


def folder_of(option: str | None) -> Path | None:
    """What --data.cache means: a folder; `none`: None; null: the user's cache."""
    if option is None:
        return user_cache("images")
    return None if option == "none" else Path(option).expanduser()


def cached(
    folder: Path | None,
    source: Path,
    about: Mapping[str, Any],
    make: Callable[[], Images],
    called: str | None = None,
) -> Images:
    """The images of the files in `source`: from the cache in `folder`, or by `make`.

    source: a folder, or one file. about: what else the images depend on. folder: None to decode
    without a cache. called: the source in messages, if not by its path. Of several programs that
    want the same images one decodes and the others wait. A damaged file is made anew; a folder that
    cannot be written is a warning. The warnings of `make` are repeated whenever its images are
    opened, by the first process only.
    """
    name = None if folder is None else _name(source, about)
    source = Path(called or source)
    if folder is None or name is None:
        return _made(source, make)
    path = folder / name
    if (found := _known(path, source)) is not None:
        return found
    try:
        with _turn(path, source):
            return _known(path, source) or _written(path, source, make)
    except OSError as problem:  # of the lock
        _warn(folder, problem)
        return _made(source, make)


def empty(*shape: int) -> Tensor:
    """uint8 memory for the images of a loader: of the cache's file where there is one.

    Processes that are forked from this one share it.
    """
    making = _now.get()
    if making is not None and (images := making.allocated(shape)) is not None:
        return images
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)


def has_room(size: int) -> bool:
    """Whether the images of a loader, of so many bytes, can go to a file."""
    making = _now.get()
    if making is None or making.file is None:
        return False
    return shutil.disk_usage(making.file.parent).free > size


def kept(images: Tensor, places: Tensor) -> Tensor:
    """The images at ascending places, moved to the front of the same memory."""
    for at in range(0, len(places), PART):
        part = places[at : at + PART]
        images[at : at + len(part)] = images[part]
    return images[: len(places)]


def tell(done: int, total: int) -> None:
    """Report how many images are decoded."""
    if (making := _now.get()) is not None and making.tell is not None:
        making.tell(done, total)


def is_mapped(images: Tensor) -> bool:
    """Whether these are all images of a file of the cache."""
    return hasattr(images, "pixels_sha256")


def pixels_sha256(images: Tensor) -> str:
    """Hash of uint8 images (N, C, H, W), their shape and order included.

    That of a whole data set from the cache is known.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"reference images must be uint8, not {images.dtype}")
    known: str | None = getattr(images, "pixels_sha256", None)
    if known is not None:
        return known
    digest = hashlib.sha256("x".join(map(str, images.shape)).encode())
    for part in images.split(PART):
        digest.update(part.cpu().contiguous().numpy())
    return digest.hexdigest()


# The name


def _name(source: Path, about: Mapping[str, Any]) -> str | None:
    """Hashes of the place and of the content; None if the files cannot be listed."""
    import PIL

    versions = {"version": VERSION, "pillow": PIL.__version__}
    asked = json.dumps({**about, **versions}, sort_keys=True).encode()
    place = hashlib.sha256(os.path.realpath(source).encode(errors="surrogateescape") + asked)
    content = hashlib.sha256(asked)
    try:
        if source.is_dir():
            for line in sorted(_line(name, _stat(entry)) for name, entry in files(str(source))):
                content.update(line)
        else:
            content.update(_line(source.name, source.stat()))
    except OSError:
        return None
    return f"{place.hexdigest()[:12]}-{content.hexdigest()[:32]}.npy"


def files(
    folder: str, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Each file below a folder that is not hidden, after its name within the folder."""
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up would be followed for ever
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files(entry.path, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name, entry


def _stat(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link to nothing
        return entry.stat(follow_symlinks=False)


def _line(name: str, about: os.stat_result) -> bytes:
    return f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape")


# Decoding


class _Making:
    """The images that a loader is decoding. file: where they go; None for memory alone."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.parts: dict[Path, Tensor] = {}  # files beside it: a loader may begin again
        self.problem: OSError | None = None  # why a file cannot hold the images
        self.said: list[str] = []  # warnings
        self.tell: Callable[[int, int], None] | None = None

    def allocated(self, shape: tuple[int, ...]) -> Tensor | None:
        """Memory of a new file; None without a file or room for it."""
        if self.file is None or self.problem is not None:
            return None
        part = self.file.with_name(f"{self.file.name}.{len(self.parts)}.tmp")
        try:
            self.parts[part] = _allocated(part, shape)
            return self.parts[part]
        except OSError as problem:
            part.unlink(missing_ok=True)
            self.problem = problem
        return None

    def run(self, source: Path, make: Callable[[], Images]) -> Images:
        """The images; a progress bar is shown meanwhile."""
        from msngan.runs.progress_bar import progress

        token = _now.set(self)
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                progress(f"decoding {source}") as bar,
            ):
                warnings.simplefilter("always")
                self.tell = bar
                return make()
        finally:
            _now.reset(token)
            self.said = [str(each.message) for each in caught if each.category is UserWarning]
            for text in self.said:
                _say(text)

    def take(self, images: Tensor) -> bool:
        """Make `file` of the part that begins with these images; whether there is one."""
        for part, whole in self.parts.items():
            alike = images.is_contiguous() and images.shape[1:] == whole.shape[1:]
            if self.file is not None and alike and images.data_ptr() == whole.data_ptr():
                os.replace(part, self.file)
                return True
        return False

    def close(self) -> None:
        for part in self.parts:
            part.unlink(missing_ok=True)


_now: ContextVar[_Making | None] = ContextVar("making", default=None)


def _say(text: str) -> None:
    if distributed.rank() == 0:
        warnings.warn(text, stacklevel=5)


def _made(source: Path, make: Callable[[], Images]) -> Images:
    return _Making().run(source, make)


def _allocated(file: Path, shape: tuple[int, ...]) -> Tensor:
    """uint8 memory that is the file's; OSError where the disk has no room for it.

    Without room that is reserved, writing to a full disk would end the process.
    """
    size = HEADER + math.prod(shape)
    with open(file, "x+b") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        else:
            opened.truncate(size)
    return torch.from_numpy(np.memmap(file, np.uint8, "r+", HEADER, shape))


def _written(path: Path, source: Path, make: Callable[[], Images]) -> Images:
    """Decode into a file of the cache, and open it."""
    made: Images | None = None
    try:
        for left in path.parent.glob(f".{path.name}.*"):  # of a program that was killed
            left.unlink(missing_ok=True)
        with replacing(path) as temporary:
            making = _Making(temporary)
            try:
                made = making.run(source, make)
                if making.problem is not None:
                    raise making.problem
                said = [text.replace(str(source), "{source}") for text in making.said]
                _write(temporary, made, said, there=making.take(made.images))
            finally:
                making.close()
        for other in path.parent.glob(f"{path.name.partition('-')[0]}-*.npy"):
            if other != path:  # of the same place before its files changed
                other.unlink(missing_ok=True)
    except OSError as problem:
        _warn(path.parent, problem)
        return made or _made(source, make)
    found = _opened(path)
    return made if found is None else found[0]


def _warn(folder: Path, problem: OSError) -> None:
    _say(
        f"decoded images are not kept in {folder} ({problem.strerror or problem}); set --data.cache"
        " to a writable folder with room, or every start decodes them again"
    )


@contextmanager
def _turn(path: Path, source: Path) -> Iterator[None]:
    """Wait until no other program decodes these images, and keep others waiting."""
    turn, said = path.with_suffix(".lock"), distributed.rank() > 0
    made = [each for each in turn.parents if not each.exists()]
    while (descriptor := lock(turn)) is None:
        if not said:
            sys.stderr.write(f"waiting for another process, which is decoding {source}\n")
            said = True
        time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        with suppress(OSError):
            turn.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # not empty, as after images that were decoded
            for each in made:
                each.rmdir()


# The file


def _header(shape: tuple[int, ...]) -> bytes:
    """Of an .npy file, of a fixed length: the number of images is known at the end."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    start = np.lib.format.magic(1, 0) + struct.pack("<H", HEADER - 10)
    return start + text.ljust(HEADER - 11).encode() + b"\n"


def _write(file: Path, made: Images, said: list[str], *, there: bool) -> None:
    """Complete a file. there: whether it holds the images already."""
    shape = tuple(made.images.shape)
    end = HEADER + made.images.numel()
    with open(file, "r+b") as opened:
        opened.write(_header(shape))
        if not there:
            for part in made.images.split(PART):
                opened.write(part.contiguous().numpy().tobytes())
        opened.truncate(end)
        opened.seek(end)
        if made.labels is not None:
            opened.write(made.labels.numpy().astype("<i8").tobytes())
        opened.flush()
        record = {
            "shape": shape,
            "labels": made.labels is not None,
            "classes": made.classes,
            "warnings": said,
            "sha256": pixels_sha256(made.images),
            "blocks": _sample(file, opened.tell()),
        }
        text = json.dumps(record).encode()
        opened.write(text + TAIL.pack(MAGIC, len(text)))


def _sample(file: Path, end: int) -> str:
    """Hash of blocks spread over the first `end` bytes: a hole is seen, reading all takes long."""
    digest = hashlib.sha256(str(end).encode())
    with open(file, "rb") as opened:
        for at in sorted({*np.linspace(0, max(end - BLOCK, 0), BLOCKS).astype(int).tolist()}):
            opened.seek(at)
            digest.update(opened.read(min(BLOCK, end - at)))
    return digest.hexdigest()


def _known(path: Path, source: Path) -> Images | None:
    """The images of these files from the cache; None if they are not in it, whole."""
    content = path.name.partition("-")[2]
    for each in {path, *path.parent.glob(f"*-{content}")}:  # of the same files in another place
        if (found := _opened(each)) is not None:
            images, said = found
            for text in said:
                _say(text.replace("{source}", str(source)))
            return images
    return None


def _opened(path: Path) -> tuple[Images, list[str]] | None:
    """The images of a file, and the warnings about them; None if it is absent, cut or damaged."""
    try:
        with open(path, "rb") as file:
            size = file.seek(-TAIL.size, os.SEEK_END) + TAIL.size
            magic, length = TAIL.unpack(file.read(TAIL.size))
            if magic != MAGIC or length > MOST_RECORD:
                return None
            end = file.seek(size - TAIL.size - length)
            record = read_json(file.read(length))
            shape, pixels = tuple(record["shape"]), HEADER + math.prod(record["shape"])
            file.seek(0)
            there = file.read(HEADER) == _header(shape) and record["blocks"] == _sample(path, end)
            if not there or end != pixels + 8 * shape[0] * record["labels"]:
                return None
            file.seek(pixels)
            labels = np.fromfile(file, "<i8", shape[0]) if record["labels"] else None
        # Copy on write: nothing that is done to the images reaches the file.
        images = torch.from_numpy(np.memmap(path, np.uint8, "c", HEADER, shape))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    images.pixels_sha256 = record["sha256"]  # type: ignore[attr-defined]
    known = None if labels is None else torch.from_numpy(labels)
    return Images(images, known, tuple(record["classes"])), record["warnings"]
