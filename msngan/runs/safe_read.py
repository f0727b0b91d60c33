"""The reader of JSON, YAML, NumPy and safetensors files, which may come from anyone.

Each format has one policy. A file is read up to a size and as plain data: what a text could expand
to, nest into or construct is refused before anything is built from it. `jsonl` reads records,
`checkpoint_files` reads checkpoints.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

LARGEST_YAML = 2**16  # bytes; a whole config has about 2 KiB
LARGEST_JSON = 2**26  # bytes; the results of a large study have a few MiB
LARGEST_TENSORS = 2**32  # bytes of a safetensors file
LARGEST_HEADER = 2**20  # bytes of its header
LARGEST_NUMBER = 1e100  # of a record; its square is still a number
LEVELS = 12  # of YAML's mappings and lists in each other
LEVELS_JSON = 20  # of a record's
LONGEST_SCALAR = 2**12  # characters of one value in YAML
LONGEST_NUMBER = 64  # characters
LONGEST_WORD = 300  # characters of a string in a record
DIGITS = re.compile(r"[-+]?[0-9][0-9A-Za-z_:.+-]*")


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file: opening a pipe would wait, and a device has no end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _check_regular(path: Path) -> None:
    if not is_regular(path):
        raise ValueError("not a regular file" if path.exists() else "there is no such file")


def read_up_to(path: Path, most: int) -> bytes:
    """The bytes of a regular file; ValueError for anything else, and for more than `most`."""
    _check_regular(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        unit, name = (2**20, "MiB") if most >= 2**20 else (1024, "KiB")
        raise ValueError(f"larger than {most // unit} {name}")
    return data


def read_text(path: Path, most: int = LARGEST_YAML) -> str:
    """The same as text; ValueError where it is not UTF-8."""
    try:
        return read_up_to(path, most).decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


# JSON


def read_json(data: bytes | str) -> Any:  # noqa: ANN401  any JSON value
    """Strict JSON: no NaN, no infinity (not even one written as 1e999), no key twice, UTF-8.

    ValueError in one line for anything else, and for what is nested too deep.
    """
    try:
        return _JSON.decode(data if isinstance(data, str) else data.decode())
    except json.JSONDecodeError as problem:
        raise ValueError(f"not valid JSON: {problem.msg} in line {problem.lineno}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("not valid JSON: not UTF-8 text") from None


def _finite(word: str) -> float:
    if not math.isfinite(value := float(word)):
        raise ValueError(f"not valid JSON: {word[:40]} is not a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


_JSON = json.JSONDecoder(parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)


def read_object(path: Path, most: int = LARGEST_JSON) -> dict[str, Any]:
    """The object in a JSON file; ValueError or OSError where there is none."""
    found = read_json(read_up_to(path, most))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def object_or_empty(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file or it is damaged."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}


def clean(value: Any, levels: int = LEVELS_JSON, most: int = LONGEST_WORD) -> Any:  # noqa: ANN401  any JSON value
    """Any JSON value, its strings and keys cut to `most` characters and rid of unprintable ones.

    ValueError if it is nested deeper than `levels`, which no record is.
    """
    if isinstance(value, str):
        value = value[:most]
        return value if value.isprintable() else "".join(filter(str.isprintable, value))
    if isinstance(value, dict | list) and not levels:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {clean(k, most=most): clean(v, levels - 1, most) for k, v in value.items()}
    return [clean(each, levels - 1, most) for each in value] if isinstance(value, list) else value


def number(value: Any) -> float | None:  # noqa: ANN401  any JSON value
    """A record's number, at most 1e100 in size; None for anything else that a file may hold."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and abs(value) <= LARGEST_NUMBER else None


# YAML


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ValueError for anything that no run of ours has written."""
    config = load_yaml(read_text(path))
    if not isinstance(config, dict):
        raise ValueError("not a mapping of options to values")
    return config


def load_yaml(text: str) -> Any:  # noqa: ANN401  any YAML value
    """Plain YAML; ValueError, in one line, where it says more than values, or one of them twice.

    Refused are aliases (a few lines of them mean more values than memory holds), tags (they
    construct objects), merge keys, a key that is not a scalar or is there twice, deep nesting, and
    numbers of more digits than any option has. A key is the text that it is, also where
    YAML takes it for a number or, as on, for a truth value: optional_spectral has an option on.
    """
    import yaml

    if "\0" in text:
        raise ValueError("not valid YAML: it holds a NUL byte")
    loader = _loader()
    try:
        events = yaml.parse(text, Loader=loader)
        nodes = (event for event in events if isinstance(event, yaml.NodeEvent))
        for number, node in enumerate(nodes):
            if number:
                raise ValueError("not valid YAML: more than one document")
            _check_node(node, events, yaml)
    except yaml.MarkedYAMLError as problem:
        line = f"line {problem.problem_mark.line + 1}: " if problem.problem_mark else ""
        raise ValueError(f"not valid YAML: {line}{problem.problem}") from None
    except (yaml.YAMLError, RecursionError) as problem:
        raise ValueError(f"not valid YAML: {_in_one_line(problem)}") from None
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, KeyError) as problem:
        raise ValueError(f"not valid YAML: {_in_one_line(problem)}") from None  # a date 2026-99-99


@cache
def _loader() -> Any:  # noqa: ANN401  PyYAML is imported late
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401
            for key, _ in node.value:
                key.tag = "tag:yaml.org,2002:str"
            return super().construct_mapping(node, deep)

    return Loader


def _check_node(event: Any, events: Iterator[Any], yaml: Any, level: int = 0) -> str | None:  # noqa: ANN401
    """Check the node that begins with this event; its text where it is a scalar."""
    if isinstance(event, yaml.AliasEvent):
        raise ValueError(f"the alias *{event.anchor[:80]} is not supported; write the value out")
    if event.tag:
        raise ValueError(f"the tag {event.tag[:80]} is not supported; write a plain value")
    if isinstance(event, yaml.ScalarEvent):
        text: str = event.value
        if len(text) > LONGEST_SCALAR:
            raise ValueError(f"a value has {len(text):,} characters")
        if len(text) > LONGEST_NUMBER and event.implicit[0] and DIGITS.fullmatch(text):
            raise ValueError(f"a number has {len(text)} digits")
        return text
    if level == LEVELS:
        raise ValueError("not valid YAML: nested too deep")
    keys: set[str] = set()
    while not isinstance(inner := next(events), yaml.CollectionEndEvent):
        word = _check_node(inner, events, yaml, level + 1)
        if isinstance(event, yaml.MappingStartEvent):
            if word is None:
                raise ValueError("not valid YAML: a key is not a word")
            if word == "<<":
                raise ValueError("merge keys (<<) are not supported; write the values out")
            if word in keys:
                raise ValueError(f"{word[:80]!r} is there twice")
            keys.add(word)
            _check_node(next(events), events, yaml, level + 1)
    return None


def _in_one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]


# NumPy

PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path, most: int) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, at most `most` bytes together; ValueError in one line if damaged.

    An array takes no more memory than its member says, and nothing in it is a pickle.
    """
    with _damaged_is_value_error(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(each.compress_type not in PACKED for each in members):
            raise ValueError("compressed in a way that is not supported")
        if sum(each.file_size for each in members) > most:
            raise ValueError(f"larger than {most // 2**20} MiB")
        found = {}
        for each in members:
            with archive.open(each) as file:
                found[each.filename.removesuffix(".npy")] = _array(file, each.file_size)
        return found


def read_npy(path: Path, most: int) -> np.ndarray:
    """The array of an .npy file under the same conditions."""
    with _damaged_is_value_error(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"larger than {most // 2**20} MiB")
        return _array(file, size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """size: bytes of the file; an array that claims another number of them is not built."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the later ones are for names that no array of ours has
        raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format is not supported")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are pickles and are not opened")
    if math.prod(shape) * kind.itemsize != size - file.tell():
        raise ValueError(f"it does not hold what its header says, {kind} {shape}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _damaged_is_value_error(path: Path) -> Iterator[None]:
    from tokenize import TokenError

    _check_regular(path)
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OverflowError) as problem:
        raise ValueError(_in_one_line(problem) or "it is damaged") from None
    except (AttributeError, SyntaxError, TokenError, TypeError, MemoryError):
        raise ValueError("the header of an array in it is damaged") from None


# safetensors


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensors of a safetensors file; ValueError in one line if damaged.

    It takes no more memory than the file has bytes.
    """
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, state
    except (SafetensorError, OSError, RuntimeError, TypeError) as problem:
        raise ValueError(str(problem).splitlines()[0][:200]) from None


def _check_header(path: Path) -> None:
    """Check the header before the library does, which takes 100 MB of it."""
    _check_regular(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError("its header is damaged")
        header = read_json(file.read(length))
    if size > LARGEST_TENSORS:
        raise ValueError(f"larger than {LARGEST_TENSORS // 2**30} GiB")
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError("its metadata are not strings")


def tensors_to_bytes(state: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with a sorted header; the library writes it in a random order."""
    from safetensors.torch import save

    data = save(dict(state), dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(read_json(data[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    text = header.encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
