"""Malicious configs, records, images, arrays and extractors; see hostile.py for checkpoints."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile import payload, zipped
from PIL import Image, PngImagePlugin

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


def configs(canary: Path) -> dict[str, bytes]:
    """YAML that is a program, grows, or says one thing twice."""
    call = f"!!python/object/apply:os.mkdir ['{canary}']"
    texts = {
        "python object": f"model: {call}",
        "python name": "model: {norm: !!python/name:os.system }",
        "python module": "!!python/module:os {}",
        "own tag": "steps: !evil 3",
        "class path": "model: {class_path: os.system, init_args: {command: id}}",
        "class path of data": "data: {class_path: subprocess.Popen, init_args: {args: id}}",
        "class path of a callback": "scores: {class_path: os.system}",
        "trainer plugins": "trainer: {plugins: [{class_path: os.system}]}",
        "trainer logger": "trainer: {logger: {class_path: pytorch_lightning.loggers.CSVLogger}}",
        "profiler": "trainer: {profiler: {class_path: os.system}}",
        "billion laughs": LAUGHS + "model: *a11",
        "billion laughs in a value": LAUGHS + "model: {norm_options: *a11}",
        "billion laughs in a text": "model: {norm_options: '{"
        + LAUGHS.replace("\n", ", ")
        + "b: *a11}'}",
        "one alias": "steps: &x 3\nseed: *x",
        "merge keys": "steps: 3\nmodel: {<<: {norm: batch}}",
        "key twice": "steps: 3\nsteps: 4",
        "inner key twice": "model: {norm: batch, norm: none}",
        "list as key": "{[1, 2]: 3}",
        "deep lists": "model: {norm_layers: " + "[" * 20_000 + "]" * 20_000 + "}",
        "deep mappings": "{a: " * 5_000 + "1" + "}" * 5_000,
        "NUL": "steps: 3\0\n",
        "endless number": "steps: " + "9" * 20_000,
        "hexadecimal number": "steps: 0x" + "f" * 4_000,
        "sexagesimal number": "steps: " + ":".join(["59"] * 2_000),
        "long value": "run: " + "x" * 20_000,
        "width a billion": "model: {width: 1000000000}",
        "width of 40 GB": "model: {width: 5000}\ndata: {dataset: digits, size: 32}",
        "another file": "model: /dev/zero",
        "a pipe in place of options": "model: pipe",
        "another config": "config: /etc/passwd",
        "run elsewhere": "run: ../../evil",
        "no mapping": "- 1\n- 2",
        "two documents": "steps: 3\n---\nsteps: 4",
        "directive": "%YAML 9.9\n---\nsteps: 3",
        "bell": "steps: \x07",
        "NaN": "model: {slope: .nan, critic_lr: .inf}",
    }
    made = {name: text.encode() for name, text in texts.items()}
    return made | {
        "no UTF-8": b"steps: \xff\xfe\x00",
        "100 MB": b"# " + b"x" * 100_000_000,
        "100 MB of lines": b"a:\n" * 33_000_000,
    }


def records() -> dict[str, bytes]:
    """JSON of a run that is none."""
    return {
        "deep": b"[" * 1_000_000,
        "deep objects": b'{"a":' * 100_000,
        "number of 10**6 digits": b'{"threads": ' + b"9" * 1_000_000 + b"}",
        "infinite": b'{"threads": 1e999, "status": NaN}',
        "list": b"[1, 2]",
        "text": b'"x"',
        "key twice": b'{"threads": 1, "threads": 2}',
        "no UTF-8": b'{"a": "\xff\xfe"}',
        "one line of 100 MB": b'{"a": "' + b"x" * 100_000_000 + b'"}',
        "NUL": b"\0" * 1000,
        "threads of text": b'{"threads": "x\\u001b[2J", "config": [1]}',
    }


def png(width: int, height: int, rows: bytes | None = None, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of 8-bit grey with the given chunks before its pixels; rows: compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * 8)) if rows is None else rows)
    middle = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + middle + pixels + chunk(b"IEND", b"")


def images(canary: Path) -> dict[str, tuple[str, bytes]]:
    """Name -> file name and bytes, of images that are programs or far larger than their files."""
    bomb = zlib.compress(bytes(100_000_000), 9)
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({canary}) (w) file\n".encode()
    tiff = io.BytesIO()
    Image.new("L", (8, 8)).save(tiff, "TIFF")
    wide = bytearray(tiff.getvalue())
    at = wide.find(struct.pack("<H", 256))
    wide[at + 8 : at + 12] = struct.pack("<I", 2**31 - 1)
    gif = b"GIF89a" + struct.pack("<2H3B", 65535, 65535, 0, 0, 0)
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "y" * 2_000_000, zip=True)
    much = io.BytesIO()
    Image.new("L", (8, 8)).save(much, "PNG", pnginfo=text)
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2
    return {
        "100,000 x 100,000": ("a.png", png(100_000, 100_000)),
        "9,000 x 9,000": ("a.png", png(9_000, 9_000, bomb)),
        "2**31 x 1": ("a.png", png(2**31 - 1, 1)),
        "no pixels": ("a.png", png(8, 8, b"")),
        "width 0": ("a.png", png(0, 8)),
        "more pixels than its header says, cut": ("a.png", png(8, 8, bomb[:1000])[:900]),
        "ICC of 100 MB": ("a.png", png(8, 8, b"", (b"iCCP", b"x\0\0" + bomb))),
        "text of 100 MB": ("a.png", png(8, 8, b"", (b"zTXt", b"x\0\0" + bomb))),
        "text of 2 MB": ("a.png", much.getvalue()),
        "EPS as PNG": ("a.png", eps),
        "PDF as JPEG": ("a.jpg", b"%PDF-1.4\n1 0 obj <</S /Launch /F (/bin/sh)>> endobj"),
        "EPS": ("a.eps", eps),
        "SVG as PNG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "wide TIFF": ("a.tif", bytes(wide)),
        "wide GIF": ("a.gif", gif + b";"),
        "wide WEBP": ("a.webp", webp),
        "pickle as PNG": ("a.png", pickle.dumps(payload(canary))),
        "empty": ("a.png", b""),
    }


def small() -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), 128).save(out, "PNG")
    return out.getvalue()


def archives(canary: Path) -> dict[str, bytes]:
    """Zip files of images."""
    image = small()
    lying = bytearray(zipped({"a.png": bytes(200_000_000), "b.png": image}, zipfile.ZIP_DEFLATED))
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = lying.find(mark)
        lying[place + at : place + at + 4] = struct.pack("<I", 1000)
    link = zipfile.ZipInfo("a.png")
    link.external_attr = 0o120777 << 16
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    deep = b'{"labels": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    return {
        "name that leads up": zipped({"../../a.png": image}),
        "absolute name": zipped({"/tmp/a.png": image}),
        "backslashes that lead up": zipped({"..\\..\\a.png": image}),
        "drive": zipped({"C:/a.png": image}),
        "link": linked.getvalue(),
        "member of 300 MB": zipped({"a.png": bytes(300_000_000)}, zipfile.ZIP_DEFLATED),
        "lzma": zipped({"a.png": bytes(100_000_000)}, zipfile.ZIP_LZMA),
        "bzip2": zipped({"a.png": bytes(100_000_000)}, zipfile.ZIP_BZIP2),
        "size that lies": bytes(lying),
        "deep labels": zipped({"a.png": image, "dataset.json": deep}),
        "labels of 10**6 digits": zipped(
            {"a.png": image, "dataset.json": b'{"labels": [["a.png", ' + b"9" * 10**6 + b"]]}"}
        ),
        "zip in zip": zipped({"a.png": zipped({"b.png": image})}),
        "program": zipped({"a.png": pickle.dumps(payload(canary))}),
        "no images": zipped({"a.txt": b"x"}),
        "cut": zipped({"a.png": image})[:40],
    }


def header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def arrays(canary: Path) -> dict[str, tuple[str, bytes]]:
    objects = io.BytesIO()
    np.save(objects, np.array([payload(canary)], dtype=object), allow_pickle=True)
    bomb = zipped({"images.npy": header("(400000, 32, 32, 1)") + bytes(409_600_000)}, 8)
    return {
        "pickle": ("a.npy", pickle.dumps(payload(canary))),
        "pickle as npz": ("a.npz", pickle.dumps(payload(canary))),
        "objects": ("a.npy", objects.getvalue()),
        "objects in npz": ("a.npz", zipped({"images.npy": objects.getvalue()})),
        "a petabyte": ("a.npy", header("(1000000000000, 32, 32, 1)")),
        "60 GB": ("a.npy", header("(20000000, 32, 32, 3)")),
        "negative": ("a.npy", header("(-5, 32, 32, 3)")),
        "overflow": ("a.npy", header("(9223372036854775807, 2, 2, 3)")),
        "call in the header": ("a.npy", header("__import__('os').system('id')")),
        "deep header": ("a.npy", header("(" * 9000)),
        "bomb": ("a.npz", bomb),
        "lzma bomb": ("a.npz", zipped({"images.npy": header("(9,9,9,1)") + bytes(10**8)}, 14)),
        "cut": ("a.npy", header("(4, 8, 8, 1)") + bytes(10)),
    }


def tensors_file(header: Any, body: bytes = b"", length: int | None = None) -> bytes:  # noqa: ANN401
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def safetensors(canary: Path, sound: bytes) -> dict[str, bytes]:
    """sound: a file of the right kind."""
    size = int.from_bytes(sound[:8], "little")
    head, body = json.loads(sound[8 : 8 + size]), sound[8 + size :]
    names = [name for name in head if name != "__metadata__"]

    def changed(change: Callable[[Any], object]) -> bytes:
        copy = json.loads(json.dumps(head))
        change(copy)
        return tensors_file(copy, body)

    def metadata(**values: object) -> bytes:
        return changed(lambda copy: copy["__metadata__"].update(values))

    first, second = names[:2]
    twice = json.dumps(head).replace("{", '{"' + first + '": {"dtype": "F32", ', 1).encode()
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    return {
        "pickle": pickle.dumps(payload(canary)),
        "empty": b"",
        "header of 2**60": tensors_file(head, body, 2**60),
        "header of nothing": tensors_file(head, body, 0),
        "header of 2**63": tensors_file(head, body, 2**64 - 1),
        "long header": tensors_file(b" " * 2_000_000),
        "deep header": tensors_file(b"[" * 100_000),
        "list": tensors_file([1]),
        "shape of a terabyte": changed(lambda c: c.update({first: entry})),
        "negative shape": changed(lambda c: c[first].update(shape=[-8, 2])),
        "overlapping": changed(lambda c: c[second].update(data_offsets=c[first]["data_offsets"])),
        "offsets behind the end": changed(lambda c: c[first].update(data_offsets=[10**9, 10**9])),
        "other dtype": changed(lambda c: c[first].update(dtype="I64")),
        "unknown dtype": changed(lambda c: c[first].update(dtype="PICKLE")),
        "key twice": tensors_file(twice, body),
        "metadata of numbers": metadata(version=3),
        "no metadata": changed(lambda c: c.pop("__metadata__")),
        "tensor too few": changed(lambda c: c.pop(first)),
        "body cut": tensors_file(head, body[:-5]),
        "body too long": tensors_file(head, body + b"x" * 64),
        "format of another": metadata(format="evil-2"),
    }


def special(folder: Path) -> list[str]:
    """Names of things in `folder` that are no files: a pipe, links to a device, to itself."""
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    (folder / "folder").mkdir()
    return ["pipe", "zero", "loop", "gone", "folder"]
