"""What a file must be before torch opens it: a zip file as torch.save writes it, of plain values.

torch.load(weights_only=True) runs no code, but it unpacks whatever a file claims. A file that
passes here makes it take no more memory than a small multiple of the file's own size.
"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from msngan.runs.safe_files import is_regular

MOST_MEMBERS = 20_000
MOST_PICKLE = 2**22  # bytes of all that is no tensor; a large network's has 2**19
NAME = re.compile(r"data\.pkl|byteorder|version|\.(format_version|storage_alignment)|data/\d{1,9}")
EXTRA = ".data/serialization_id"
# What a checkpoint's pickle is made of: values, containers, tensors.
OPCODES = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINPERSID", "REDUCE", "BUILD"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "GLOBAL"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET"),
    "LONG_BINGET",
}
KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
GLOBALS |= {f"torch {kind}Storage" for kind in KINDS}

END = struct.Struct("<4s4H2LH")  # of a zip file, its last bytes
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")


def check_archive(path: Path) -> int:
    """The size of the file in bytes; ValueError, in words, for what torch.save does not write."""
    if not is_regular(path):
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise ValueError("it is cut or of another program")
        _check_index(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = file.seek(0, 2)
            pickle = _check_members(members, size)
            if pickle.file_size > MOST_PICKLE:
                raise ValueError(f"its data.pkl has {pickle.file_size:,} bytes")
            _check_pickle(archive.read(pickle))
    return size


def _check_index(file: BinaryIO) -> None:
    """Judge how many members there are before any is listed, and that there is one index only."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size - LOCATOR.size))
    tail = file.read()
    if len(tail) < END.size + LOCATOR.size:
        raise ValueError("it is cut or of another program")
    mark, _, _, _, count, length, _, comment = END.unpack(tail[LOCATOR.size :])
    if mark != b"PK\5\6" or comment:
        raise ValueError("it is cut or of another program")
    locator, _, place, _ = LOCATOR.unpack(tail[: LOCATOR.size])
    if locator == b"PK\6\7":
        file.seek(min(place, size))
        found = file.read(END_64.size)
        if len(found) < END_64.size or not found.startswith(b"PK\6\6"):
            raise ValueError("its index is damaged")
        count, length = max(count, END_64.unpack(found)[7]), max(length, END_64.unpack(found)[8])
    if count > MOST_MEMBERS or (length > 512 * MOST_MEMBERS and length != 2**32 - 1):
        raise ValueError(f"its index lists {count:,} members in {length:,} bytes")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> zipfile.ZipInfo:
    """The member that is the pickle, where all are such as torch writes."""
    prefix = members[0].filename.partition("/")[0] if members else ""
    by_name = {}
    for member in members:
        start, _, name = member.filename.partition("/")
        if start != prefix or not (NAME.fullmatch(name) or name == EXTRA):
            raise ValueError(f"it holds {member.filename[:80]!r}, which no checkpoint does")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{name} in it is compressed, which no checkpoint is")
        if member.flag_bits & 0x1:
            raise ValueError(f"{name} in it is encrypted")
        by_name[name] = member
    if len(by_name) < len(members):
        raise ValueError("a member is there twice")
    if "data.pkl" not in by_name:
        raise ValueError("it is cut or of another program")
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < end:
            raise ValueError("members of it overlap")
        end = member.header_offset + 30 + len(member.filename.encode()) + member.file_size
    if end > size:
        raise ValueError("it is cut or of another program")
    return by_name["data.pkl"]


def _check_pickle(data: bytes) -> None:
    for code, value, _ in pickletools.genops(data):
        if code.name not in OPCODES:
            raise ValueError(f"its pickle uses {code.name}, which no checkpoint does")
        if code.name == "GLOBAL" and value not in GLOBALS:
            name = str(value).replace(" ", ".")[:80]
            raise ValueError(f"it names {name!r}: it is a program, or of another one")
