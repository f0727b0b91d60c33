"""What a study varies: base configs, arms, the grid's options and the seed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from msngan.runs.configs import find_config, is_study, top_level
from msngan.runs.folder import UserError

OWN = ("run", "root", "config", "ckpt_path")  # the study's own to say, for each of its runs
SEED = "seed"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

Options = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One value of an axis: its label, its part of a run's name, and what it sets."""

    label: str
    part: str
    options: Options = field(default_factory=dict)
    config: str | None = None


def flat(options: object, where: str) -> Options:
    """Options by their dotted names; a section may be written as a mapping."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise UserError(f"{where}: {options!r} is no mapping of options to values")
    found: Options = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise UserError(f"{where}: {name!r} is no name of an option")
        section = isinstance(value, dict) and "." not in name
        each = {f"{name}.{key}": inner for key, inner in value.items()} if section else None
        for key, inner in (each or {name: value}).items():
            if key.partition(".")[0] in OWN:
                raise UserError(f"{where}: {key!r} is not for a study to set; it names its runs")
            if key in found:
                raise UserError(f"{where}: {key!r} is set twice")
            found[key] = inner
    return found


def make_axes(content: dict[str, Any]) -> dict[str, list[Point]]:
    """In order: config where it is a list, arm, the grid's own, and the seed."""
    axes: dict[str, list[Point]] = {}
    configs = content.get("config")
    if not isinstance(configs, list):
        configs = [configs]
    if not configs or not all(isinstance(each, str) for each in configs):
        raise UserError("config: name a run's config, cifar_msn for instance, or a list of them")
    paths = [find_config(each) for each in configs]
    for path in paths:
        if is_study(top_level(path)):
            raise UserError(f"config: {path} is a study itself; name a run's config")
    stems = [path.stem for path in paths]
    axes["config"] = [
        Point(stem, stem if len(configs) > 1 else "", config=each)
        for stem, each in zip(stems, configs, strict=True)
    ]
    if "arms" in content:
        arms = content["arms"]
        if not isinstance(arms, dict) or not arms:
            raise UserError("arms: write each as `label: {option: value}`")
        axes["arm"] = [
            Point(str(label), _part(label, "arms"), flat(options, f"arms: {label}"))
            for label, options in arms.items()
        ]
    grid = content.get("grid")
    if grid is not None and not isinstance(grid, dict):
        raise UserError("grid: write each axis as `option: [value, value]`")
    for name, values in flat(grid, "grid").items():
        axes[name] = _axis(name, values)
    axes[SEED] = axes.pop(SEED) if SEED in axes else _axis(SEED, [0])
    for name, points in axes.items():
        labels = [point.label for point in points]
        if twice := next((each for each in labels if labels.count(each) > 1), None):
            raise UserError(f"{name}: {twice} is there twice")
    return axes


def _axis(name: str, values: object) -> list[Point]:
    if not isinstance(values, list) or not values:
        raise UserError(f"grid: {name}: {values!r} is no list of values; write [value, value]")
    points = []
    for value in values:
        if isinstance(value, (dict, list, set, tuple, bytes)):
            raise UserError(f"grid: {name}: {value!r} is no single value; give it a name in arms")
        if name == SEED and (type(value) is not int or value < 0):
            raise UserError(f"grid: seed: {value!r} is no whole number from 0")
        word = value if isinstance(value, str) else f"{name.rpartition('.')[2]}{text_of(value)}"
        part = f"s{value}" if name == SEED else _part(word, f"grid: {name}")
        points.append(Point(text_of(value), part, {name: value}))
    return points


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _part(label: object, where: str) -> str:
    """A label as part of a run's name."""
    word = str(label)
    if not LABEL.fullmatch(word):
        raise UserError(
            f"{where}: {word!r} cannot be part of a run's name; use letters, digits, '.', '_' and"
            " '-', or give it such a name in arms"
        )
    return word.replace("+", "")  # of 1e+20
