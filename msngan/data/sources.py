"""The files of a folder or zip file, by name. Nothing is extracted to disk."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msngan.data import cache
from msngan.data.pictures import DataError, centred, picture, reading

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FILE_BYTES = 2**28
ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates others without a bound
MOST_RATIO = 100  # of a member's size to its compressed size; images are compressed already
SMALL = 2**20  # bytes; no ratio is checked for smaller members


@dataclass(frozen=True)
class Source:
    """Encoded images by name. names: in their order; read: the bytes of one.

    centre: side of the square at the centre that is all that counts of each; None: the whole.
    Of a folder or zip file: all files but hidden ones, sorted, '/' between the parts of a name.
    begin: to be called in a forked process before it reads.
    """

    root: Path
    names: list[str]
    read: Callable[[str], bytes]
    begin: Callable[[], None] = lambda: None
    centre: int | None = None

    @contextmanager
    def picture(self, name: str) -> Iterator[Image]:
        """As `picture`; UnreadableError if it cannot be read."""
        with reading(os.path.join(self.root, name)), picture(self.read(name)) as image:
            yield image if self.centre is None else centred(image, self.centre)


@contextmanager
def opened(root: Path) -> Iterator[Source]:
    if os.path.isdir(root):
        try:
            names = sorted(name for name, _ in cache.files(str(root)))
        except OSError as problem:
            raise DataError(f"cannot list {problem.filename}: {problem.strerror}") from problem
        yield Source(root, names, lambda name: read_file(os.path.join(root, name)))
    elif not os.path.exists(root):
        raise DataError(f"{root} does not exist; --data.root takes a folder or zip file of images")
    elif not (os.path.isfile(root) and (root.suffix == ".zip" or zipfile.is_zipfile(root))):
        raise DataError(f"{root} is neither a folder nor a zip file of images")
    else:
        with reading(root):
            archive = zipfile.ZipFile(root)
        with archive:
            yield _zipped(root, archive)


def read_file(path: str | Path) -> bytes:
    if not os.path.isfile(path):  # reading a pipe would wait for ever
        raise OSError("it is not a regular file, or a link to nothing")
    with open(path, "rb", buffering=0) as file:
        _check_bytes(os.fstat(file.fileno()).st_size)
        return file.readall()


def _check_bytes(count: int) -> None:
    if count > MOST_FILE_BYTES:
        raise OSError(f"{count} bytes are more than the {MOST_FILE_BYTES} allowed")


def _zipped(root: Path, archive: zipfile.ZipFile) -> Source:
    members = {}
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        if why := _unfit(name, member):
            raise DataError(
                f"{root} holds {name[:80]!r}, {why}; make the file anew, of images only"
            )
        if not any(part.startswith(".") for part in PurePosixPath(name).parts):
            members[name] = member
    turn = threading.Lock()  # ZipFile counts its open members without one

    def read(name: str) -> bytes:
        size = members[name].file_size
        _check_bytes(size)
        with turn, archive.open(members[name]) as file:
            data = file.read(size)  # zipfile inflates no more than it is asked for
            if file.read(1):
                raise OSError("it is larger than the file's index says")
            return data

    def begin() -> None:  # a file's place is shared with the process that opened it
        archive.fp = open(root, "rb")  # noqa: SIM115  closed with the archive

    return Source(root, sorted(members), read, begin)


def _unfit(name: str, member: zipfile.ZipInfo) -> str | None:
    """Why a member cannot belong to a data set; None if it can."""
    if name.startswith("/") or name[1:2] == ":" or ".." in PurePosixPath(name).parts:
        return "a name that leads out of it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.compress_type not in ZIP_KINDS:
        return "compressed in a way that is not read (deflate is)"
    if member.file_size > SMALL and member.file_size > MOST_RATIO * member.compress_size:
        return f"which inflates to {member.file_size:,} bytes from {member.compress_size:,}"
    return None
