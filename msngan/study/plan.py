"""A study file: one base config, named option sets and a grid, and the runs that they mean.

Nothing here imports torch. What a single option may be is the parser's of `msngan fit` to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

from msngan.runs.configs import is_study
from msngan.runs.folder import NAME, UserError, did_you_mean
from msngan.study.axes import SEED, Options, Point, flat, make_axes, text_of

KEYS = ("config", "options", "arms", "grid", "rows", "baseline", "compare")
MOST = 10_000  # runs of one study
LETTERS = "letters, digits, '.', '_' and '-'"


@dataclass(frozen=True)
class Child:
    """One run of a study. labels: its value on each axis but the seed's, as text.

    options: dotted names to values, all that the study asks beside the config `config`.
    """

    name: str
    config: str
    seed: int
    row: str
    column: str
    labels: dict[str, str]
    options: Options


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


def make_study(name: str, content: dict[str, Any], changes: Options | None = None) -> Study:
    """The study that a file's content means. changes: of the fixed options.

    UserError names what is wrong.
    """
    if not is_study(content):
        raise UserError(
            f"{name} is no study: it has neither arms nor grid; a single run is trained by"
            f" `msngan fit --config {name}`"
        )
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of a study; use {LETTERS}")
    for key in content:
        if key not in KEYS:
            near = did_you_mean(str(key), list(KEYS))
            raise UserError(f"{name}: a study has no {str(key)!r}{near}; use {', '.join(KEYS)}")
    fixed = flat(content.get("options"), "options") | (changes or {})
    axes = make_axes(content)
    _refuse_double(fixed, changes or {}, axes)
    rows_axis = _rows_axis(content, axes)
    columns_axes = [axis for axis in axes if axis not in (rows_axis, SEED)]
    children = list(_children(name, axes, fixed, rows_axis, columns_axes))
    _refuse_same(children)
    rows = [point.label for point in axes[rows_axis]]
    source = {key: content[key] for key in KEYS if key in content}
    if fixed:
        source["options"] = fixed
    return Study(
        name,
        rows_axis,
        rows,
        columns_axes,
        list(dict.fromkeys(child.column for child in children)),
        list(dict.fromkeys(child.seed for child in children)),
        _pairs(content, rows, rows_axis),
        children,
        source,
    )


def _refuse_double(fixed: Options, changes: Options, axes: dict[str, list[Point]]) -> None:
    """An option whose value would depend on where one looks."""
    arms = {name for point in axes.get("arm", []) for name in point.options}
    for name in axes:
        if name in changes:
            raise UserError(f"--set {name}: the study varies it; change it in the file")
        if name in fixed or name in arms:
            raise UserError(f"{name!r} is an axis of the grid and is set elsewhere too")
    if hidden := sorted(arms & changes.keys()):
        raise UserError(f"--set {hidden[0]}: the study's arms set it already")


def _refuse_same(children: list[Child]) -> None:
    """Two names of one run, which would be trained twice and compared with itself."""
    seen: dict[str, str] = {}
    for child in children:
        meant = repr((child.config, sorted(child.options.items(), key=lambda item: item[0])))
        if (other := seen.setdefault(meant, child.name)) != child.name:
            raise UserError(f"{other} and {child.name} set the same options; leave one of them out")


def _rows_axis(content: dict[str, Any], axes: dict[str, list[Point]]) -> str:
    """The axis whose values are compared: the one that `rows` names, or the first of several."""
    names = [name for name in axes if name != SEED]
    wanted = content.get("rows")
    if wanted is not None:
        if wanted not in names:
            near = did_you_mean(str(wanted), names)
            raise UserError(f"rows: no axis {wanted!r}{near}; there are {', '.join(names)}")
        return str(wanted)
    several = (name for name in ("arm", *names) if len(axes.get(name, [])) > 1)
    return next(several, "arm" if "arm" in axes else names[0])


def _children(
    study: str,
    axes: dict[str, list[Point]],
    fixed: Options,
    rows_axis: str,
    columns_axes: list[str],
) -> list[Child]:
    """The seed changes last, so that a study in the middle has something of every arm."""
    order = [SEED, *(axis for axis in axes if axis != SEED)]
    found: dict[str, Child] = {}
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST:
        raise UserError(f"{study} means {count:,} runs, more than {MOST:,}")
    for points in product(*(axes[axis] for axis in order)):
        by_axis = dict(zip(order, points, strict=True))
        name = "-".join([study, *(by_axis[axis].part for axis in axes if by_axis[axis].part)])
        if not NAME.fullmatch(name):
            raise UserError(f"the run's name {name!r} is longer than 100 characters")
        if name in found:
            raise UserError(f"two runs would be named {name!r}; give the values names in arms")
        options = dict(fixed)
        for point in points:
            options |= point.options
        found[name] = Child(
            name,
            str(by_axis["config"].config),
            options[SEED],
            by_axis[rows_axis].label,
            column_label({axis: by_axis[axis] for axis in columns_axes}, axes),
            {axis: by_axis[axis].label for axis in order if axis != SEED},
            options,
        )
    return list(found.values())


def column_label(points: dict[str, Point], axes: dict[str, list[Point]]) -> str:
    """'lr 0.001' for instance; axes of one value say nothing."""
    words = []
    for axis, point in points.items():
        if len(axes[axis]) > 1:
            own = axis in ("config", "arm") or point.part == point.label
            words.append(point.label if own else f"{axis.rpartition('.')[2]} {point.label}")
    return ", ".join(words)


def _pairs(content: dict[str, Any], rows: list[str], axis: str) -> list[tuple[str, str]]:
    """compare's pairs, and each row against the baseline."""

    def known(label: object, key: str) -> str:
        word = text_of(label)
        if word not in rows:
            raise UserError(
                f"{key}: no {axis} {word!r}{did_you_mean(word, rows)}; there are {', '.join(rows)}"
            )
        return word

    pairs = []
    wanted = content.get("compare") or []
    if not isinstance(wanted, list) or not all(isinstance(p, list) and len(p) == 2 for p in wanted):
        raise UserError("compare: write pairs, [[mean_spectral, spectral], [spectral, none]]")
    for one, other in wanted:
        if one == other:
            raise UserError(f"compare: {one!r} is compared with itself")
        pairs.append((known(one, "compare"), known(other, "compare")))
    if "baseline" in content:
        base = known(content["baseline"], "baseline")
        pairs += [(row, base) for row in rows if row != base]
    return list(dict.fromkeys(pairs))
