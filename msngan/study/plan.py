"""A study: base configs, named sets of options and a grid, and the runs that they mean.

Nothing here imports torch. The parser of `msngan fit` checks what a single option may be.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from msngan.runs.configs import NO_PENALTY, find_config, is_study, top_level
from msngan.runs.folder import NAME, UserError, did_you_mean
from msngan.runs.options import flat as flat_options

KEYS = ("config", "options", "arms", "grid", "rows", "baseline", "compare")
OWN = ("run", "root", "config", "ckpt_path")  # set by the study itself, for each of its runs
SEED = "seed"
MOST = 10_000  # runs of one study
LETTERS = "letters, digits, '.', '_' and '-'"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

Options = dict[str, Any]


@dataclass(frozen=True)
class Child:
    """One run of a study.

    options: dotted names to values, all that the study asks for beside the config `config`.
    """

    name: str
    config: str
    seed: int
    row: str
    column: str
    options: Options

    def arguments(self) -> list[str]:
        """Those of `msngan fit` for this run."""
        written = [f"--{name}={text_of(value)}" for name, value in self.options.items()]
        return ["--config", self.config, *written, "--run", self.name]

    def command(self) -> str:
        """What would train the run outside the study.

        Without options of a penalty that only other arms have, which `msngan fit` refuses.
        """
        idle = [name for name in self.options if name.startswith("model.penalty_")]
        if idle and self._penalty() == NO_PENALTY:
            kept = {name: each for name, each in self.options.items() if name not in idle}
            return replace(self, options=kept).command()
        return shlex.join(["msngan", "fit", *self.arguments()])

    def _penalty(self) -> Any:  # noqa: ANN401  any YAML value
        base = top_level(find_config(self.config))
        inherited = flat_options(base).get("model.penalty", NO_PENALTY)
        return self.options.get("model.penalty", inherited)


@dataclass(frozen=True)
class Study:
    """rows, columns: labels of the final table. pairs: rows to be compared, A and B.

    source: the study as plain data, `--set` applied.
    """

    name: str
    rows_axis: str
    rows: list[str]
    columns_axes: list[str]
    columns: list[str]
    seeds: list[int]
    pairs: list[tuple[str, str]]
    children: list[Child]
    source: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Point:
    """One value of an axis: its label, its part of a run's name, and what it sets."""

    label: str
    part: str
    options: Options = field(default_factory=dict)
    config: str = ""


Axes = dict[str, list[Point]]


def make_study(name: str, content: dict[str, Any], changes: Options | None = None) -> Study:
    """The study that a file's content means. changes: of the fixed options.

    UserError names what is wrong.
    """
    if not is_study(content):
        raise UserError(
            f"{name} is not a study: it has neither arms nor grid; train a single run with"
            f" `msngan fit --config {name}`"
        )
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a name of a study; use {LETTERS}")
    for key in content:
        _known(key, KEYS, f"{name}: a study has no")
    fixed = flat(content.get("options"), "options") | (changes or {})
    axes = _axes(content)
    _refuse_double(fixed, changes or {}, axes)
    rows_axis = _rows_axis(content, axes)
    columns_axes = [axis for axis in axes if axis not in (rows_axis, SEED)]
    children = _children(name, axes, fixed, rows_axis, columns_axes)
    rows = [point.label for point in axes[rows_axis]]
    return Study(
        name=name,
        rows_axis=rows_axis,
        rows=rows,
        columns_axes=columns_axes,
        columns=list(dict.fromkeys(child.column for child in children)),
        seeds=list(dict.fromkeys(child.seed for child in children)),
        pairs=_pairs(content, rows, rows_axis),
        children=children,
        source={**content, "options": fixed} if fixed else content,
    )


def flat(options: object, where: str) -> Options:
    """Options by their dotted names; a section may be written as a mapping."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise UserError(f"{where}: {options!r} is not a mapping of options to values")
    found: Options = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise UserError(f"{where}: {name!r} is not the name of an option")
        section = isinstance(value, dict) and "." not in name
        each = {f"{name}.{key}": inner for key, inner in value.items()} if section else None
        for key, inner in (each or {name: value}).items():
            if key.partition(".")[0] in OWN:
                raise UserError(f"{where}: a study cannot set {key!r}; it names its runs itself")
            if key in found:
                raise UserError(f"{where}: {key!r} is set twice")
            found[key] = inner
    return found


def _known(value: object, words: Sequence[str], what: str) -> str:
    word = text_of(value)
    if word not in words:
        near = did_you_mean(word, list(words))
        quotes = "; YAML reads on, off, yes and no as true or false: write it in quotes"
        hint = quotes if isinstance(value, bool) else ""
        raise UserError(f"{what} {word!r}{near}; choose from {', '.join(words)}{hint}")
    return word


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


# Axes


def _axes(content: dict[str, Any]) -> Axes:
    """In order: config where it is a list, arm, the grid's own, and the seed."""
    axes: Axes = {"config": _configs(content.get("config"))}
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


def _configs(configs: Any) -> list[Point]:  # noqa: ANN401  any YAML value
    several = isinstance(configs, list) and len(configs) > 1
    names = configs if isinstance(configs, list) else [configs]
    if not names or not all(isinstance(each, str) for each in names):
        raise UserError("config: name a run's config, cifar_msn for instance, or a list of them")
    points = []
    for name in names:
        path = find_config(name)
        if is_study(top_level(path)):
            raise UserError(f"config: {path} is a study itself; name a run's config")
        points.append(Point(path.stem, path.stem if several else "", config=name))
    return points


def _axis(name: str, values: object) -> list[Point]:
    if not isinstance(values, list) or not values:
        raise UserError(f"grid: {name}: {values!r} is not a list of values; write [value, value]")
    points = []
    for value in values:
        if isinstance(value, dict | list):
            raise UserError(f"grid: {name}: {value!r} is not a single value; name it in arms")
        if name == SEED and (type(value) is not int or value < 0):
            raise UserError(f"grid: seed: {value!r} is not a whole number from 0")
        word = value if isinstance(value, str) else f"{name.rpartition('.')[2]}{text_of(value)}"
        part = f"s{value}" if name == SEED else _part(word, f"grid: {name}")
        points.append(Point(text_of(value), part, {name: value}))
    return points


def _part(label: object, where: str) -> str:
    """A label as part of a run's name."""
    word = str(label)
    if not LABEL.fullmatch(word):
        raise UserError(
            f"{where}: {word!r} cannot be part of a run's name; use {LETTERS}, or give it such a"
            " name in arms"
        )
    return word.replace("+", "")  # of 1e+20


def _refuse_double(fixed: Options, changes: Options, axes: Axes) -> None:
    """An option whose value would depend on where one looks."""
    arms = {name for point in axes.get("arm", []) for name in point.options}
    for name in axes:
        if name in changes:
            raise UserError(f"--set {name}: the study varies it; change it in the file")
        if name in fixed or name in arms:
            raise UserError(f"{name!r} is an axis of the grid and is set elsewhere too")
    if hidden := sorted(arms & changes.keys()):
        raise UserError(f"--set {hidden[0]}: the study's arms set it already")


def _rows_axis(content: dict[str, Any], axes: Axes) -> str:
    """The axis whose values are compared: the one that `rows` names, or the first of several."""
    names = [name for name in axes if name != SEED]
    if content.get("rows") is not None:
        return _known(content["rows"], names, "rows: no axis")
    several = (name for name in ("arm", *names) if len(axes.get(name, [])) > 1)
    return next(several, "arm" if "arm" in axes else names[0])


# Runs


def _children(
    study: str, axes: Axes, fixed: Options, rows_axis: str, columns_axes: list[str]
) -> list[Child]:
    """The seed changes last, so that a study in the middle has something of every arm."""
    order = [SEED, *(axis for axis in axes if axis != SEED)]
    if (count := math.prod(map(len, axes.values()))) > MOST:
        raise UserError(f"{study} means {count:,} runs, more than {MOST:,}")
    several = [axis for axis in columns_axes if len(axes[axis]) > 1]
    found: dict[str, Child] = {}
    for points in product(*(axes[axis] for axis in order)):
        at = dict(zip(order, points, strict=True))
        name = "-".join([study, *(at[axis].part for axis in axes if at[axis].part)])
        if not NAME.fullmatch(name):
            raise UserError(f"the run's name {name!r} is longer than 100 characters")
        if name in found:
            raise UserError(f"two runs would be named {name!r}; give the values names in arms")
        options = dict(fixed)
        for point in points:
            options |= point.options
        row, column = at[rows_axis].label, _column({axis: at[axis] for axis in several})
        found[name] = Child(name, at["config"].config, options[SEED], row, column, options)
    same: dict[str, str] = {}
    for name, child in found.items():  # one would be trained twice, and compared with itself
        meant = repr((child.config, sorted(child.options.items(), key=lambda item: item[0])))
        if (other := same.setdefault(meant, name)) != name:
            raise UserError(f"{other} and {name} set the same options; leave one of them out")
    return list(found.values())


def _column(points: dict[str, Point]) -> str:
    """'lr 0.001' for instance."""
    words = []
    for axis, point in points.items():
        own = axis in ("config", "arm") or point.part == point.label
        words.append(point.label if own else f"{axis.rpartition('.')[2]} {point.label}")
    return ", ".join(words)


def _pairs(content: dict[str, Any], rows: list[str], axis: str) -> list[tuple[str, str]]:
    """compare's pairs, and each row against the baseline."""
    pairs = []
    wanted = content.get("compare") or []
    if not isinstance(wanted, list) or not all(isinstance(p, list) and len(p) == 2 for p in wanted):
        raise UserError("compare: write pairs, [[mean_spectral, spectral], [spectral, none]]")
    for pair in wanted:
        one, other = (_known(each, rows, f"compare: no {axis}") for each in pair)
        if one == other:
            raise UserError(f"compare: {one!r} is compared with itself")
        pairs.append((one, other))
    if "baseline" in content:
        base = _known(content["baseline"], rows, f"baseline: no {axis}")
        pairs += [(row, base) for row in rows if row != base]
    return list(dict.fromkeys(pairs))
