"""The runs that a user names, and the arms that they form: runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from msngan.report.figures.style import Style, style
from msngan.report.html.records import find
from msngan.runs.folder import Run, UserError, did_you_mean
from msngan.runs.options import flat, is_free
from msngan.runs.safe_read import read_config
from msngan.study.study_files import Place, started_study
from msngan.training.dynamics import Dynamics, read

FIRST = ("none", "batch", "spectral", "mean_spectral")  # the paper's norms, in its order
MOST = 8  # arms that one panel can hold


@dataclass(frozen=True)
class Source:
    """A run and the options of its config, by dotted names."""

    run: Run
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def norm(self) -> str:
        return str(self.options.get("model.norm", "none"))

    @property
    def rate(self) -> float | None:
        """The learning rate; of a GAN the critic's."""
        value = self.options.get("model.lr", self.options.get("model.critic_lr"))
        return float(value) if isinstance(value, int | float) else None

    @property
    def seed(self) -> int:
        value = self.options.get("seed", 0)
        return value if isinstance(value, int) else 0

    @cached_property
    def dynamics(self) -> Dynamics | None:
        """Its record; None without one. ValueError if it cannot be read."""
        return read(self.run.dynamics) if self.run.dynamics.exists() else None


@dataclass(frozen=True)
class Arm:
    """One setting and its runs, in order of seed. style: the number of its line."""

    label: str
    sources: tuple[Source, ...]
    style: int

    @property
    def look(self) -> Style:
        return style(self.style)

    @property
    def norm(self) -> str:
        return self.sources[0].norm

    @property
    def rate(self) -> float | None:
        return self.sources[0].rate


def find_sources(
    targets: Sequence[str],
    root: Path = Path(),
    *,
    seeds: Sequence[int] = (),
    norms: Sequence[str] = (),
    rates: Sequence[float] = (),
) -> list[Source]:
    """The runs of `targets`, each once, in their order.

    A target is the name or folder of a run, or of a study, which stands for all its runs. An empty
    selection keeps all. UserError for a target that is neither, a config that cannot be read, and a
    selection that leaves nothing.
    """
    runs = {run.folder.resolve(): run for target in targets for run in runs_of(target, root)}
    every = []
    for run in runs.values():
        try:
            every.append(Source(run, flat(read_config(run.config))))
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else problem
            raise UserError(f"{run.config}: {reason}") from problem
    found = every
    for option, wanted, of in (
        ("--seeds", seeds, lambda each: each.seed),
        ("--norms", norms, lambda each: each.norm),
        ("--lr", rates, lambda each: each.rate),
    ):
        here = sorted({of(each) for each in every}, key=str)
        if missing := [value for value in wanted if value not in here]:
            near = did_you_mean(str(missing[0]), [str(value) for value in here])
            raise UserError(
                f"{option} {missing[0]}: none of these runs has it{near}; they have"
                f" {', '.join(map(str, here))}"
            )
        found = [each for each in found if not wanted or of(each) in wanted]
    if not found:
        raise UserError("no run has all of the chosen --seeds, --norms and --lr")
    return found


def runs_of(target: str, root: Path = Path()) -> list[Run]:
    """The run that `target` names, or the runs of a study that have begun."""
    found, is_study = find(target, root)
    if not is_study:
        return [found]
    study = started_study(Place(found.name, found.root))
    runs = [Run(child.name, found.root) for child in study.children] if study else []
    begun = [run for run in runs if run.config.is_file()]
    if not begun:
        raise UserError(f"study {found.name!r} has no run yet; start it: msngan study {found.name}")
    return begun


def make_arms(sources: Sequence[Source]) -> list[Arm]:
    """The paper's norms first, then by name, each from the largest learning rate down."""
    groups: dict[tuple[tuple[str, str], ...], list[Source]] = {}
    for source in sorted(sources, key=lambda each: (each.seed, each.name)):
        key = tuple(sorted((name, repr(value)) for name, value in _options(source)))
        groups.setdefault(key, []).append(source)
    options = [dict(_options(group[0])) for group in groups.values()]
    names = sorted({name for each in options for name in each})
    differing = [name for name in names if len({repr(each.get(name)) for each in options}) > 1]
    made = [
        (tuple(group), _in_words(differing, each))
        for group, each in zip(groups.values(), options, strict=True)
    ]
    made.sort(key=lambda each: (_rank(each[0][0].norm), each[1], -(each[0][0].rate or 0)))
    # The paper's norms have the first lines in every figure.
    kinds = [(norm, "") for norm in FIRST] + [(group[0].norm, extra) for group, extra in made]
    lines = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    arms = []
    for group, extra in made:
        norm, rate = group[0].norm, group[0].rate
        words = [norm, extra, "" if rate is None else f"lr {rate:g}"]
        arms.append(Arm(", ".join(filter(None, words)), group, lines[norm, extra]))
    return arms


def pages(arms: Sequence[Arm]) -> list[tuple[str, list[Arm]]]:
    """The arms that share a figure, with what its file's name adds.

    All are on one page; of more than 8, those of each learning rate are on a page of their own.
    """
    rates = sorted({arm.rate for arm in arms}, key=lambda rate: -(rate or 0))
    if len(arms) <= MOST or len(rates) == 1:
        return [("", _told_apart(arms))]
    made = {rate: _told_apart([arm for arm in arms if arm.rate == rate]) for rate in rates}
    return [("_no_lr" if rate is None else f"_lr{rate:g}", own) for rate, own in made.items()]


def _told_apart(arms: Sequence[Arm]) -> list[Arm]:
    """A line for each norm, the same on every page; if two arms then share one, for each arm."""
    if len({arm.style for arm in arms}) == len(arms):
        return list(arms)
    return [replace(arm, style=index) for index, arm in enumerate(arms)]


def _options(source: Source) -> Iterator[tuple[str, Any]]:
    """The options that make an arm, by dotted names; null means the same as no such option."""
    for name, value in source.options.items():
        if is_free(name, source.options):
            continue
        inner = value if isinstance(value, dict) else {"": value}
        for key, each in inner.items():
            if each is not None:
                yield f"{name}.{key}".rstrip("."), each


def _in_words(differing: Sequence[str], options: dict[str, Any]) -> str:
    """The options besides the norm and the learning rate that tell this arm from another."""
    words = []
    for name in differing:
        if name not in ("model.norm", "model.lr", "model.critic_lr") and name in options:
            value, last = options[name], name.rpartition(".")[2]
            shown = (last if value else f"no {last}") if isinstance(value, bool) else None
            words.append(shown or f"{last} {value}")
    return ", ".join(words)


def _rank(norm: str) -> tuple[int, str]:
    return (FIRST.index(norm), "") if norm in FIRST else (len(FIRST), norm)
