"""What a zip file of images may be: judged by its index, before anything in it is inflated."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates the others without a bound
MOST_INDEX = 2**27  # bytes; two million images
MOST_RATIO = 100  # of a member's size to what it is compressed to; images are compressed already
SMALL = 2**20  # bytes, of which no ratio is asked


def check_index(path: Path) -> None:
    """OSError for a zip file of so many members that listing them takes more than a GiB."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + 22:
            return  # zipfile says what it is not
        length = int.from_bytes(tail[at + 12 : at + 16], "little")
        place = at - 20
        if place >= 0 and tail[place : place + 4] == b"PK\6\7":  # of a large file, another says it
            file.seek(min(size, int.from_bytes(tail[place + 8 : place + 16], "little")))
            length = max(length % (2**32 - 1), int.from_bytes(file.read(56)[40:48], "little"))
    if length > MOST_INDEX:
        raise OSError(f"an index of {length:,} bytes is longer than the {MOST_INDEX:,} allowed")


def unfit(name: str, member: zipfile.ZipInfo) -> str | None:
    """What makes a member none of a data set's, None for others."""
    if name.startswith("/") or name[1:2] == ":" or ".." in PurePosixPath(name).parts:
        return "a name that leads out of it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.compress_type not in KINDS:
        return "compressed in a way that is not read (deflate is)"
    if member.file_size > SMALL and member.file_size > MOST_RATIO * member.compress_size:
        return f"which inflates to {member.file_size:,} bytes from {member.compress_size:,}"
    return None


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes; OSError where it inflates to more than the index says.

    Asked for a number of bytes zipfile inflates no more; asked for all, whatever is there.
    """
    with archive.open(member) as file:
        data = file.read(member.file_size)
        if file.read(1):
            raise OSError("it is larger than the file's index says")
        return data
