"""Damaged and odd inputs: bytes with errors in them, scalars that nobody expects, JSON and YAML."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# As they stand in YAML, JSON or on a command line.
WORDS = r"""
.inf -.inf .nan NaN Infinity 1e400 -1e400 1e-400 0x1F 0b101 017 0o17 1_000 1:30:00 2026-11-28
2026-11-28T01:02:03Z ~ null Null yes no on off true False << = ! !! !!null !!binary !local @ ` % ? :
%YAML , :: - -- --- ... [ ] { } [] {} [[]] [{}] {a:1} [1,2,3] ' " '' "" "\x00" "\ud800" "\u2028" é
🦆 0 -0 -1 1 2 3 7 8 9 16 64 1.5 -1.5 9223372036854775807 9223372036854775808 -9223372036854775809
99999999999999999999999999999999 1e3 1e9 1e18 1e308 00 +1 ++1 1. .5 . mean_spectral spectral none
batch hinge digits folder cpu gpu cuda:0 auto paper ema ../.. / ~/x /dev/null /dev/full con nul
$HOME ${x} {{x}} %s \n \t | > |+ >- # #x a#b None Ellipsis lambda &a *a
"""
SCALARS = [*WORDS.split(), "", " ", "\t", "x" * 5000, "9" * 5000, "[" * 60 + "]" * 60, "a b"]
SCALARS += ["!!set {a, b}", "!!python/object/apply:os.system ['true']", "!!python/name:os.system"]
SCALARS += ["a: b: c", "\x00", "!!binary aGVsbG8=", "!!float x", "!!int x", "!!timestamp x"]
SCALARS += ["&a [*a]", "!!omap [a: 1]", "{? [a] : b}", "\u202e", "\x1b[31m", "[" * 3000]

NUMBERS = [0, -0.0, -1, 1, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 0.5]
VALUES: list[Any] = [*NUMBERS, None, True, False, "", "x", [], {}, [[]], [None], {"": None}]
VALUES += [float("nan"), float("inf"), -float("inf"), "\x00", "\ud800", "é🦆\u2028", "1e5", "nan"]
VALUES += ["<script>", "a" * 3000, [0] * 300, {"mean": None}, {"mean": {}}, [{}], 10**400]

SIZES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63)  # for binary formats
NAMES = ["../x.png", "/abs.png", "a/b/c.png", "", ".", "..", ".hidden.png", "\\x\\y.png", "version"]
NAMES += ["dataset.json", "x" * 300 + ".png", "é.png", "x\x00y.png"]


def damaged(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """A few errors in some bytes: bits, cuts, repeats, splices with others, odd values."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + draw.choice((1, 2, 4, 16, 64, 1024)))
        part, start, width = data[at:end], draw.randrange(len(other) + 1), draw.choice((1, 2, 4, 8))
        size = (draw.choice(SIZES) % 2 ** (8 * width)).to_bytes(width, "little")
        flipped = bytes([data[at] ^ 1 << draw.randrange(8)]) if at < len(data) else b""
        data = draw.choice(
            (
                data[:at],
                data[:at] + data[end:],
                data[:at] + flipped + data[at + 1 :],
                data[:at] + part * draw.choice((2, 3, 20)) + data[end:],
                data[:at] + other[start : start + draw.choice((1, 8, 64, 512))] + data[end:],
                data[:at] + draw.randbytes(end - at) + data[end:],
                data[:at] + draw.choice((b"\x00", b"\xff", b"\x80")) * (end - at) + data[end:],
                data[:at] + size + data[at + width :],
                data[:at] + draw.choice(SCALARS).encode(errors="surrogatepass") + data[end:],
            )
        )
    return data


def changed(value: Any, draw: random.Random, odd: list[Any] = VALUES) -> Any:
    """A JSON value with one place of it changed: replaced, removed, doubled or renamed."""
    if not value or not isinstance(value, (dict, list)) or draw.random() < 0.15:
        return draw.choice(odd)
    kind = draw.randrange(8)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        inner = [value[at]] * 4 if kind == 1 else [changed(value[at], draw, odd)]
        return value[:at] + (inner if kind else []) + value[at + 1 :]
    key = draw.choice(list(value))
    name = str(draw.choice(odd))[:40]
    if kind == 0:
        return {each: value[each] for each in value if each != key}
    if kind == 1:
        return {name if each == key else each: value[each] for each in value}
    return value | (
        {name: draw.choice(odd)} if kind == 2 else {key: changed(value[key], draw, odd)}
    )


def json_text(value: Any) -> str:
    """JSON as Python writes it, NaN and lone surrogates included."""
    try:
        return json.dumps(value)
    except ValueError:  # an integer of more digits than Python prints
        return "9" * 5000


def damaged_lines(records: list[Any], draw: random.Random) -> bytes:
    """A .jsonl file in which records, lines or bytes are wrong."""
    records = list(records)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(records))
        records[at] = changed(records[at], draw)
    lines = [json_text(each).encode() for each in records]
    at = draw.randrange(len(lines))
    kind = draw.randrange(5)
    if kind == 0:
        lines.insert(at, draw.choice((draw.choice(SCALARS).encode(), b"[" * 100_000)))
    elif kind == 1:
        lines[at] = damaged(lines[at], draw, lines[0])
    text = draw.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + b"\n"
    if kind == 2:
        return text[: -draw.randrange(1, len(lines[-1]) + 2)]  # cut in the last line
    return damaged(text, draw) if kind == 3 else text


def odd_yaml(value: Any, draw: random.Random) -> bytes:
    """YAML with one value of it replaced by a scalar as it stands, or by a JSON value."""
    mark = "0123marked0123"
    try:
        text = yaml.safe_dump(changed(value, draw, [mark, *[{"x": mark}, [mark]]]), sort_keys=False)
        return text.replace(mark, draw.choice(SCALARS)).encode(errors="replace")
    except yaml.YAMLError:
        return b"{}"


def damage_file(path: Path, whole: bytes, records: list[Any] | None, draw: random.Random) -> None:
    """Write a damaged form of a file, which is lines, JSON, YAML or bytes."""
    kind = draw.random()
    if records is not None:
        made = damaged_lines(records, draw) if kind < 0.9 else damaged(whole, draw, whole)
    elif path.suffix == ".json" and kind < 0.6:
        made = json_text(changed(json.loads(whole), draw)).encode()
    elif path.suffix == ".yaml" and kind < 0.6:
        made = odd_yaml(yaml.safe_load(whole), draw)
    else:
        made = damaged(whole, draw, whole)
    path.write_bytes(made)


def zip_of(content: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, held in content:
            archive.writestr(zipfile.ZipInfo(name or "x"), held)
    return made.getvalue()


def damaged_zip(data: bytes, draw: random.Random, members: Callable[[bytes], bytes]) -> bytes:
    """A zip file whose members or whose own structure is wrong; members: makes one wrong."""
    kind = draw.randrange(5)
    if kind < 2:
        return damaged(data, draw, data)
    if kind == 2:  # its index at the end
        at = max(data.rfind(b"PK\x01\x02", 0, draw.randrange(len(data)) + 4), 0)
        return data[:at] + damaged(data[at:], draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        content = [(each.filename, source.read(each)) for each in source.infolist()]
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(content))
        name, held = content[at]
        changes = [[(draw.choice([*NAMES, name.upper()]), held)], [(name, members(held))]]
        changes += [[content[at], (name, members(held))]]
        content[at : at + 1] = draw.choice(changes + [[]] * (len(content) > 1))
    return zip_of(content, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
