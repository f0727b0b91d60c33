"""Two configs, their runs paired by training seed: the mean difference and its 95 % interval.

A seed fixes the order of the data and the noise, so two runs of one seed share part of their luck,
and the spread of their difference is smaller than that of two independent runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from msngan.leaderboard.experiments import Setup, differences
from msngan.leaderboard.ranking import by_protocol, chosen
from msngan.leaderboard.seeds import (
    SIDES,
    Group,
    Member,
    Summary,
    groups,
    means,
    shared_step,
    shown,
    summary,
)
from msngan.runs.folder import UserError, did_you_mean, plural
from msngan.runs.score_records import Entry, better


@dataclass(frozen=True)
class Config:
    """What --compare names: a config's id, its name in the scores, and all its runs."""

    config_id: str
    name: str
    runs: list[str]

    def __str__(self) -> str:
        return f"{self.name} ({self.config_id})"


@dataclass(frozen=True)
class Paired:
    """One metric over the pairs, at the largest step that all of them share.

    difference is A - B. step and the summaries are None where no step is shared; the verdict is in
    words.
    """

    metric: str
    step: int | None
    a: Summary | None
    b: Summary | None
    difference: Summary | None
    verdict: str


@dataclass(frozen=True)
class Match:
    """A and B under one protocol with one kind of weights; pairs and unpaired by seed."""

    protocol_id: str
    weights: str
    pairs: list[tuple[Member, Member]]
    unpaired: dict[str, list[Member]]
    rows: list[Paired]
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """differences: option -> its value in A and in B. notes: where both have scores that cannot be
    paired."""

    a: Config
    b: Config
    differences: dict[str, tuple[str, ...]]
    matches: list[Match]
    notes: list[str]


def compare(
    a: str, b: str, entries: list[Entry], setups: dict[str, Setup], metric: str | None = None
) -> Comparison:
    """The configs that two words name, compared under every protocol that both have scores of.

    metric: a name or a family, the only one to compare by. UserError where a word names no config
    or several, or where nothing can be paired.
    """
    first, second = (find(word, entries, setups) for word in (a, b))
    if first.config_id == second.config_id:
        raise UserError(f"--compare: {a!r} and {b!r} are the same config, {first}")
    matches, notes = [], []
    for protocol_id, inside in by_protocol(entries).items():
        sides = {(each.config_id, each.weights): each for each in groups(inside, setups)}
        for weights in ("ema", "raw"):
            one = sides.get((first.config_id, weights))
            other = sides.get((second.config_id, weights))
            if one and other:
                if match := _match(one, other, metric):
                    matches.append(match)
                else:
                    notes.append(f"no common seed under protocol {protocol_id} ({weights})")
    if not matches:
        raise UserError(
            f"--compare: {_seeds(first, setups)} and {_seeds(second, setups)} have no scores of a"
            " common seed under a common protocol, both raw or both ema; train equal seeds, or"
            " `msngan evaluate` both alike"
        )
    differing = differences([setups[config.runs[0]] for config in (first, second)])
    return Comparison(first, second, differing, matches, notes)


def find(word: str, entries: list[Entry], setups: dict[str, Setup]) -> Config:
    """The config that `word` names: its id, 4 or more digits of that, its name or a run of it."""
    names: dict[str, str] = {}
    runs: dict[str, set[str]] = {}
    found = set()
    for entry in entries:
        if setup := setups.get(entry.run):
            names[setup.config_id] = entry.config
            runs.setdefault(setup.config_id, set()).add(entry.run)
            if word in (entry.config, entry.run):
                found.add(setup.config_id)
    if re.fullmatch(r"[0-9a-f]{4,12}", word):
        found |= {config_id for config_id in names if config_id.startswith(word)}
    if word in names:  # a whole id is never ambiguous
        found = {word}
    if not found:
        raise _unknown(word, entries, sorted({*names.values()}), setups)
    if len(found) > 1:
        listed = "; ".join(f"{each} ({', '.join(sorted(runs[each]))})" for each in sorted(found))
        raise UserError(f"--compare {word!r} names {len(found)} configs, give an id: {listed}")
    (config_id,) = found
    return Config(config_id, names[config_id], sorted(runs[config_id]))


def _unknown(
    word: str, entries: list[Entry], names: list[str], setups: dict[str, Setup]
) -> UserError:
    if any(word in (entry.config, entry.run) and entry.run not in setups for entry in entries):
        return UserError(f"--compare {word!r}: its config.yaml cannot be read")
    near = did_you_mean(word, [*names, *sorted(setups)])
    there = f"configs here: {', '.join(names)}" if names else "there is none"
    return UserError(f"--compare {word!r} is not a run or a config with scores{near}; {there}")


def _seeds(config: Config, setups: dict[str, Setup]) -> str:
    seeds = sorted({setups[run].seed for run in config.runs})
    return f"{config} with {plural(len(seeds), 'seed')} {', '.join(map(str, seeds))}"


def _match(one: Group, other: Group, metric: str | None) -> Match | None:
    """None without a common seed."""
    sides = [{member.seed: member for member in group.members} for group in (one, other)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if not seeds:
        return None
    pairs = [(sides[0][seed], sides[1][seed]) for seed in seeds]
    names = [
        {name for entries in group.members.values() for entry in entries for name in entry.scores}
        for group in (one, other)
    ]
    return Match(
        one.protocol_id,
        one.weights,
        pairs,
        unpaired={
            side: [member for seed, member in members.items() if seed not in seeds]
            for side, members in zip(SIDES, sides, strict=True)
        },
        rows=[_paired(name, pairs, one, other) for name in chosen(metric, names[0] & names[1])],
        notes=[*one.notes, *other.notes],
    )


def _paired(metric: str, pairs: list[tuple[Member, Member]], one: Group, other: Group) -> Paired:
    first, second = one.scores(metric), other.scores(metric)
    a, b = [first[member] for member, _ in pairs], [second[member] for _, member in pairs]
    step = shared_step([*a, *b])
    if step is None:
        verdict = "no step with a valid score of every pair"
        return Paired(metric, None, None, None, None, verdict)
    values = [means(each[step] for each in side) for side in (a, b)]
    difference = summary([x - y for x, y in zip(*values, strict=True)])
    verdict = shown(difference, better(metric))
    return Paired(metric, step, summary(values[0]), summary(values[1]), difference, verdict)
