"""Runs that differ in nothing but their seed are one arm; its name says in what arms differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msngan.report.figures.sources import Source
from msngan.runs.options import flat, is_free

FIRST = ("none", "batch", "spectral", "mean_spectral")  # the paper's, in its order
MOST = 8  # arms that one panel can hold


@dataclass(frozen=True)
class Arm:
    """One setting and its runs, in order of seed. style: which line, the same in all figures."""

    label: str
    sources: tuple[Source, ...]
    style: int

    @property
    def norm(self) -> str:
        return self.sources[0].norm

    @property
    def rate(self) -> float | None:
        return self.sources[0].rate


@dataclass(frozen=True)
class Page:
    """Arms that share a figure; suffix: what its file's name adds."""

    suffix: str
    arms: tuple[Arm, ...]


def make_arms(sources: Sequence[Source]) -> list[Arm]:
    """The paper's norms first, then by name, each from the largest learning rate down."""
    groups: dict[tuple[tuple[str, str], ...], list[Source]] = {}
    for source in sources:
        key = tuple(sorted((name, repr(value)) for name, value in _options(source.config)))
        groups.setdefault(key, []).append(source)
    told = [dict(_options(group[0].config)) for group in groups.values()]
    names = sorted({name for options in told for name in options})
    differing = [name for name in names if len({repr(each.get(name)) for each in told}) > 1]
    made = []
    for group, options in zip(groups.values(), told, strict=True):
        extra = _extra(differing, options)
        ordered = tuple(sorted(group, key=lambda each: (each.seed, each.name)))
        made.append((ordered, extra))
    made.sort(key=lambda each: (_rank(each[0][0].norm), each[1], -(each[0][0].rate or 0)))
    kinds = [(norm, "") for norm in FIRST]  # theirs are the first lines, whatever else is drawn
    kinds += [kind for ordered, extra in made if (kind := (ordered[0].norm, extra)) not in kinds]
    kinds = list(dict.fromkeys(kinds))
    return [
        Arm(_label(ordered[0], extra), ordered, kinds.index((ordered[0].norm, extra)))
        for ordered, extra in made
    ]


def pages(arms: Sequence[Arm]) -> list[Page]:
    """All arms on one page; of more than 8, those of each learning rate on a page of their own."""
    rates = list(dict.fromkeys(arm.rate for arm in arms))
    if len(arms) <= MOST or len(rates) == 1:
        return [Page("", _told_apart(arms))]
    rates.sort(key=lambda rate: -(rate or 0))
    return [
        Page(f"_lr{rate:g}" if rate is not None else "_no_lr", _told_apart(group))
        for rate in rates
        for group in [[arm for arm in arms if arm.rate == rate]]
    ]


def _told_apart(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Lines by the norm, so that it looks the same on every page; by the arm where that repeats."""
    if len({arm.style for arm in arms}) == len(arms):
        return tuple(arms)
    return tuple(Arm(arm.label, arm.sources, index) for index, arm in enumerate(arms))


def _options(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options that make an arm, by dotted names; null means the same as no such option."""
    options = flat(config)
    for name, value in options.items():
        if value is not None and not is_free(name, options):
            yield name, value


def _extra(differing: Sequence[str], options: dict[str, Any]) -> str:
    """The options besides the norm and the learning rate that tell this arm from another."""
    known = {"model.norm", "model.lr", "model.critic_lr"}
    words = []
    for name in differing:
        if name in known or name not in options:
            continue
        value, last = options[name], name.rpartition(".")[2]
        if isinstance(value, bool):
            words.append(last if value else f"no {last}")
        else:
            words.append(f"{last} {value}")
    return ", ".join(words)


def _label(source: Source, extra: str) -> str:
    parts = [source.norm, extra, f"lr {source.rate:g}" if source.rate is not None else ""]
    return ", ".join(part for part in parts if part)


def _rank(norm: str) -> tuple[int, str]:
    return (FIRST.index(norm), "") if norm in FIRST else (len(FIRST), norm)
