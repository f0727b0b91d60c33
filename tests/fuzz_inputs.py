"""Damaged and odd inputs: bytes with errors in them, scalars that nobody expects, JSON and YAML."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

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

TEXT = st.one_of(st.text(max_size=8), st.sampled_from(SCALARS))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from(VALUES)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def damaged(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """A few errors in some bytes: bits, cuts, repeats, splices with others, odd values."""
    made = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        size = len(made)
        at, end = sorted((draw.randrange(size + 1), draw.randrange(size + 1)))
        end = min(end, at + draw.choice((1, 2, 4, 16, 64, 1024)))
        kind = draw.randrange(9)
        if kind == 0 and size:
            made[min(at, size - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            del made[at:end]
        elif kind == 3:
            made[at:at] = made[at:end] * draw.choice((1, 2, 20))
        elif kind == 4:
            start = draw.randrange(len(other) + 1)
            made[at:end] = other[start : start + draw.choice((1, 8, 64, 512))]
        elif kind == 5:
            made[at:end] = draw.randbytes(end - at)
        elif kind == 6:
            made[at:end] = draw.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * (end - at)
        elif kind == 7:
            number = draw.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63))
            width = draw.choice((1, 2, 4, 8))
            made[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
        else:
            made[at:end] = draw.choice(SCALARS).encode(errors="surrogatepass")
    return bytes(made)


def changed(value: Any, draw: random.Random, odd: list[Any] = VALUES) -> Any:
    """A JSON value with one place of it changed: replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.randrange(8)
        rest = {name: each for name, each in value.items() if name != key}
        if kind == 0:
            return rest
        if kind == 1:
            return rest | {str(draw.choice(odd))[:40]: value[key]}
        if kind == 2:
            return value | {str(draw.choice(odd))[:40]: draw.choice(odd)}
        return {
            name: changed(each, draw, odd) if name == key else each for name, each in value.items()
        }
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        kind = draw.randrange(4)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return value[:at] + [value[at]] * 3 + value[at:]
        return [
            changed(each, draw, odd) if index == at else each for index, each in enumerate(value)
        ]
    return draw.choice(odd)


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
    kind = draw.randrange(6)
    if kind == 0:
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(SCALARS).encode())
    elif kind == 1:
        at = draw.randrange(len(lines))
        lines[at] = damaged(lines[at], draw, lines[0])
    elif kind == 2:
        lines[-1] = lines[-1][: draw.randrange(len(lines[-1]) + 1)]
        return b"\n".join(lines)
    elif kind == 3:
        return damaged(b"\n".join(lines) + b"\n", draw)
    elif kind == 4:
        lines.insert(0, b"[" * draw.choice((10, 1000, 100_000)))
    return draw.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + b"\n"


def damaged_zip(data: bytes, draw: random.Random, members: Callable[[bytes], bytes]) -> bytes:
    """A zip file whose members or whose own structure is wrong; members: makes one wrong."""
    kind = draw.randrange(5)
    if kind < 2:
        return damaged(data, draw, data)
    if kind == 2:  # its index at the end
        at = data.rfind(b"PK\x01\x02", 0, draw.randrange(len(data)) + 4)
        at = max(at, 0)
        return data[:at] + damaged(data[at:], draw, data)
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        content = [(each.filename, source.read(each)) for each in source.infolist()]
    for _ in range(draw.choice((1, 1, 3))):
        at = draw.randrange(len(content))
        name, held = content[at]
        odd = ["../x.png", "/abs.png", "a/b/c.png", "", ".", "..", ".hidden.png", "\\x\\y.png"]
        odd += ["dataset.json", "x" * 300 + ".png", "é.png", "x\x00y.png", name.upper(), "version"]
        kind = draw.randrange(5)
        if kind == 0:
            content[at] = (draw.choice(odd), held)
        elif kind == 1:
            content.append((name, members(held)))
        elif kind == 2 and len(content) > 1:
            del content[at]
        else:
            content[at] = (name, members(held))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as to:
        for name, held in content:
            to.writestr(zipfile.ZipInfo(name or "x"), held)
    return made.getvalue()
