"""Protocols by name or from a YAML file of a user's own. No torch here."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.safe_read import read_config
from msngan.scores.protocol import METRICS, PRESETS, Preset

MOST = 10**9  # of images, runs or splits
ENDINGS = (".yaml", ".yml")


def preset(request: str) -> tuple[str, Preset]:
    """A protocol's name and sizes: of PRESETS, or of the YAML file at this path.

    A file holds `runs` and `samples`, and any of Preset's other fields; its name is the protocol's.
    UserError for all else, and for a file with a known protocol's name and other sizes.
    """
    if request in PRESETS:
        return request, PRESETS[request]
    if not request.endswith(ENDINGS):
        raise UserError(
            f"unknown protocol {request!r}{did_you_mean(request, list(PRESETS))}; choose one of"
            f" {', '.join(PRESETS)}, or give a .yaml file"
        )
    path = Path(os.path.expanduser(request))
    found = _of(_read(path), path)
    if PRESETS.get(path.stem, found) != found:
        raise UserError(
            f"protocol {path}: {path.stem!r} is a known protocol of other sizes; rename the file"
        )
    return path.stem, found


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_config(path)
    except OSError as problem:
        raise UserError(f"protocol {path}: {problem.strerror}") from problem
    except ValueError as problem:
        raise UserError(
            f"protocol {path}: {problem}; it must hold lines such as `runs: 5`, `samples: 2000`"
        ) from problem


def _of(content: dict[str, Any], path: Path) -> Preset:
    hints = get_type_hints(Preset)
    known = [field.name for field in fields(Preset)]
    for name, value in content.items():
        if name not in known:
            word = name[:80] if isinstance(name, str) else type(name).__name__
            raise UserError(
                f"protocol {path}: no {word!r} in a protocol{did_you_mean(word, known)}; it has"
                f" {', '.join(known)}"
            )
        choices = get_args(hints[name])
        if choices and value not in choices:
            raise UserError(f"protocol {path}: {name} must be one of {', '.join(choices)}")
        if not choices and not (type(value) is int and abs(value) <= MOST):
            raise UserError(f"protocol {path}: {name} must be a whole number up to {MOST:,}")
    for name in ("runs", "samples"):
        if name not in content:
            raise UserError(f"protocol {path} does not say {name}")
    try:
        return Preset(**content)
    except UserError as problem:
        raise UserError(f"protocol {path}: {problem}") from problem


def metric_names(option: str, request: list[str] | str | None) -> tuple[str, ...]:
    """Names in METRICS, in its order: of a list, or of a text with commas; None is all of them.

    UserError, which names the option, for others and for none.
    """
    if request is None:
        return tuple(METRICS)
    words = request.split(",") if isinstance(request, str) else request
    names = [word.strip() for word in words if word.strip()]
    known = ", ".join(METRICS)
    if not names:
        raise UserError(f"{option} {request!r} names none; choose of {known}")
    for name in names:
        if name not in METRICS:
            near = did_you_mean(name, list(METRICS))
            raise UserError(f"{option}: no {name!r}{near}; choose of {known}")
    return tuple(name for name in METRICS if name in names)
