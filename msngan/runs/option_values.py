"""Values of options: from text or YAML to the option's type, and checks of what a file stores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msngan.runs import options
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.options import LARGEST, Range
from msngan.runs.safe_read import load_yaml

LONGEST_WORD = 200  # characters of a stored text
LONGEST_TEXT = 4096
WORDS = {int: "an int", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
PLAIN = (bool, int, float, str, list, tuple, dict, NoneType)
LISTS = {float: "[0.5]", str: "[a, b]"}  # examples, by the type of what is inside


class OutOfRange(ValueError):
    """A value of the right type that the option cannot have."""


def read(option: options.Option, value: Any) -> Any:
    """The value, a text or as YAML has it, in the option's type; UserError names what is wrong."""
    try:
        if _is_blank(value) and NoneType not in members(option.type):
            raise ValueError("a value is needed; this one is blank")
        return _read(option.type, value)
    except OutOfRange as problem:
        raise UserError(f"--{option.name} {problem}") from None
    except ValueError as problem:
        raise UserError(f"--{option.name}: {problem}") from None


def check_ranges(task: str, group: str, values: Mapping[str, Any]) -> None:
    """UserError for the first value that its option does not take; for classes used in Python.

    A module in place of a name is left to the class, and so is the word that a file has for it.
    """
    for name, option in options.group(task, group).items():
        if name not in values or option.type is Any:
            continue
        try:
            taken = _read(option.type, values[name])
            is_text = isinstance(values[name], str) and isinstance(taken, list | tuple)
            if is_text and group == "model":  # whose options a checkpoint stores as they are
                raise ValueError(f"{values[name]!r:.80} is a text; give a list")
        except OutOfRange as problem:
            raise UserError(f"--{option.name} {problem}") from None
        except ValueError as problem:
            if isinstance(values[name], PLAIN) and values[name] != options.MODULE:
                raise UserError(f"--{option.name}: {problem}") from None


def members(kind: Any) -> list[Any]:
    """The types that a type is a union of, without ranges."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for part in get_args(kind) for inner in members(part)]
    return [kind]


def limits_of(kind: Any) -> Range | None:
    """The range of a type's numbers."""
    if get_origin(kind) is Annotated:
        limits: Range = get_args(kind)[1]
        return limits
    return next(filter(None, map(limits_of, get_args(kind))), None)


def words(kind: Any) -> str:
    """A type in words: 'an int', 'a list such as [0, 1]'."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return words(parts[0])
    if origin in (Union, UnionType):
        named = [*map(words, parts)]
        return ", ".join(named[:-1]) + f" or {named[-1]}"
    if origin is Literal:
        return ", ".join(map(repr, parts))
    if origin is dict:
        return "a mapping such as {name: value}"
    if origin is tuple:
        return f"a list of {len(parts)} such as [0.5, 0.9]"
    if origin is list:
        mixed = get_origin(parts[0])
        return f"a list such as {'[0, head]' if mixed else LISTS.get(parts[0], '[0, 1]')}"
    return WORDS[kind]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _read(kind: Any, value: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = _read(parts[0], value)
        if isinstance(value, int | float) and (problem := parts[1].problem(value)):
            raise OutOfRange(problem)
        return value
    if origin in (Union, UnionType):
        return _read_union(parts, value)
    if origin is Literal:
        plain = value if isinstance(parts[0], str) else _plain(value)
        if type(plain) is type(parts[0]) and plain in parts:
            return plain
        names = [*map(str, parts)]
        if type(value) is type(parts[0]) is int:
            raise OutOfRange(f"{value} is not {' or '.join(names)}")
        near = did_you_mean(str(value), names)
        raise ValueError(f"unknown value {value!r:.80}{near}; choose from {', '.join(names)}")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{value!r:.80} holds a NUL byte")
    plain = value if kind is str else _plain(value)
    if kind is float and type(plain) is int:
        plain = float(plain) if abs(plain) <= LARGEST else math.inf
    if kind in WORDS and isinstance(plain, kind) and (kind is bool or type(plain) is not bool):
        if kind is float and not math.isfinite(plain):
            raise OutOfRange(f"{value} is not a finite number")
        return plain
    if origin is list and (listed := _listed(value)) is not None:
        return [_read(parts[0], each) for each in listed]
    listed = [*plain] if type(plain) is tuple else _listed(value)
    if origin is tuple and listed is not None and len(listed) == len(parts):
        return tuple(_read(part, each) for part, each in zip(parts, listed, strict=True))
    if origin is dict and type(plain) is dict:
        return {_read(str, name): _read(parts[1], each) for name, each in plain.items()}
    hint = "; write it in quotes" if kind is str and isinstance(value, int | float) else ""
    raise ValueError(f"{value!r:.80} is not {words(kind)}{hint}{_why_not_yaml(value)}")


def _read_union(parts: tuple[Any, ...], value: Any) -> Any:
    """By the first of the types that takes the value; text is text where nothing else takes it."""
    if NoneType in parts and (_is_blank(value) or _plain(value) is None):
        return None
    others = sorted((part for part in parts if part is not NoneType), key=lambda part: part is str)
    is_list = _listed(value) is not None
    problems: list[ValueError] = []
    for part in others:
        try:
            return _read(part, value)
        except OutOfRange:
            raise
        except ValueError as problem:
            if (get_origin(part) is list) == is_list or len(others) == 1:
                problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    names = [words(part) for part in sorted(parts, key=lambda part: part is NoneType)]
    raise ValueError(f"{value!r:.80} is neither {' nor '.join(names)}")


def _listed(value: Any) -> list[Any] | None:
    """The list that a value is: [a, b], or the text a,b; None for any other."""
    plain = _plain(value)
    if isinstance(plain, str) and "," in plain:
        return [word.strip() for word in plain.split(",")]
    return plain if type(plain) is list else None


def _why_not_yaml(value: Any) -> str:
    """What is wrong with a text that was meant as a list or a mapping."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            load_yaml(value)
        except ValueError as problem:
            return f" ({problem})"
    return ""


def _plain(value: Any) -> Any:
    """What a text says as YAML, or as a number such as 1e-4, which YAML takes for text."""
    if not isinstance(value, str):
        return value
    try:
        found = load_yaml(value)
    except ValueError:
        return value
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            return found
    return found


# ---- what a file stores ----


def is_number(value: Any) -> bool:
    """Whether it is a finite plain number, of at most 64 bits."""
    return is_whole(value) or (type(value) is float and math.isfinite(value))


def is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def is_word(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST_WORD


class UnknownName(ValueError):
    """A stored name of a norm, a network, ... that is not known here: no fault of the file."""


def check_stored(
    values: Any, known: Mapping[str, options.Option], needed: Iterable[str], what: str
) -> None:
    """ValueError where stored options are not a mapping of known names to values of their types.

    A checkpoint may come from anyone. An option that is not in the table was written by a newer
    version, or is not an option.
    """
    if not isinstance(values, dict):
        raise ValueError(f"its {what} are not a mapping")
    for name, value in values.items():
        if type(name) is not str or name not in known:
            raise ValueError(
                f"its {what} hold {str(name)[:80]!r}, which this version does not know"
            )
        kind = known[name].type
        if value == options.MODULE and known[name].role is options.Role.NETWORK:
            continue
        if not _fits(kind, value):
            is_name = isinstance(value, str) and any(
                get_origin(x) is Literal for x in members(kind)
            )
            said = f"{name} in its {what} is {shown(value)}"
            if is_name:
                raise UnknownName(f"{said}; if a plug-in brings it, give --plugin FILE.py")
            raise ValueError(said)
    for name in needed:
        if name not in values:
            raise ValueError(f"its {what} do not say {name}")


def _fits(kind: Any, value: Any) -> bool:
    """Whether a stored value is one that `read` gives, of a size that is fit to print."""
    try:
        found = _read(kind, value)
    except ValueError:
        return False
    same = list(found) == list(value) if isinstance(found, tuple) else found == value
    return bool(same) and len(repr(value)) <= LONGEST_TEXT


def shown(value: Any) -> str:
    """A value for a message: itself where it is short and plain."""
    if type(value) is int:
        return str(value) if abs(value) <= LARGEST else "a number beyond 64 bits"
    plain = value is None or type(value) in (bool, float, str)
    return repr(value)[:80] if plain else f"a {type(value).__name__}"
