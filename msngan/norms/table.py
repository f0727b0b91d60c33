"""NORMS, the table of norms by name, and `configured`, which reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from msngan.norms.classic import ENTRIES as CLASSIC
from msngan.norms.mean_spectral import ENTRIES as MEAN_SPECTRAL
from msngan.norms.operator import ENTRIES as OPERATOR
from msngan.norms.optional_spectral import ENTRIES as OPTIONAL
from msngan.norms.parts import Entries, Norm
from msngan.norms.spectral import ENTRIES as SPECTRAL
from msngan.runs.folder import did_you_mean

ENTRIES: Entries = {
    "none": Norm(),
    **CLASSIC,
    **SPECTRAL,
    **MEAN_SPECTRAL,
    **OPERATOR,
    **OPTIONAL,
}


def norm_of(entry: Norm | Callable[..., Norm]) -> Norm:
    """The norm of an entry, with the function that makes it with other options."""
    return entry if isinstance(entry, Norm) else replace(entry(), options=entry)


NORMS: dict[str, Norm] = {name: norm_of(entry) for name, entry in ENTRIES.items()}

if TYPE_CHECKING:
    NormName = str
else:
    NormName = Literal[tuple(ENTRIES)]


def configured(norm: str, options: Mapping[str, Any]) -> Norm:
    """The entry of NORMS, with these options.

    Raises ValueError for an unknown norm, an option that it does not have, and a value that the
    option cannot have.
    """
    if norm not in NORMS:
        near = did_you_mean(norm, list(NORMS))
        raise ValueError(f"unknown norm {norm!r}{near}; choose one of {', '.join(sorted(NORMS))}")
    make = NORMS[norm].options
    hints = get_type_hints(make) if make else {}
    kinds = {name: hints.get(name) for name in signature(make).parameters} if make else {}
    for name, value in options.items():
        if name not in kinds:
            has = f"its options are {', '.join(kinds)}" if kinds else "it has none"
            near = did_you_mean(name, list(kinds))
            raise ValueError(f"norm {norm!r} has no option {name!r}{near}; {has}")
        if not _fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", str(kinds[name]))
            raise ValueError(f"norm {norm!r}: option {name} is of type {kind}, not {value!r}")
    try:
        return make(**options) if make and options else NORMS[norm]
    except ValueError as problem:
        raise ValueError(f"norm {norm!r}: {problem}") from problem


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has this type (a bool is not a number); True for types it cannot check."""
    if kind in (int, float):
        allowed = (int, float) if kind is float else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    kinds = get_args(kind)
    if not kinds or not set(kinds) <= {bool, int, float, str, type(None)}:
        return True
    return any(_fits(value, each) for each in kinds)
