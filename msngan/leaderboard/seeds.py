"""Runs of one config pooled over their training seeds, with 95 % confidence intervals.

The spread over seeds is what a claim that one config beats another rests on; the spread over
sample sets, which a single run's row shows, is many times smaller.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from msngan.leaderboard.experiments import Setup, differences, in_words
from msngan.leaderboard.ranking import Block, By, best_of, ranked, series
from msngan.runs.score_records import Entry, Score

SIDES = ("A", "B")  # of a comparison


@dataclass(frozen=True)
class Summary:
    """n values: their mean, sd (ddof 1) and the 95 % interval of the mean, t with n - 1.

    sd, low and high are None of one value.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Member:
    """The run that is counted for a seed."""

    seed: int
    run: str


@dataclass(frozen=True)
class Group:
    """A config's runs with one kind of weights under one protocol, one run a seed, by seed.

    notes: which runs are left out as repeats.
    """

    protocol_id: str
    config_id: str
    config: str
    weights: str
    members: dict[Member, list[Entry]]
    notes: list[str]

    def scores(self, metric: str) -> dict[Member, dict[int, Score]]:
        return {member: series(entries, metric) for member, entries in self.members.items()}


@dataclass(frozen=True)
class Pooled:
    """A config over its seeds. last: of all metrics at the largest step that all runs share of the
    block's own, which steps has by metric.

    A metric is not in `last` where that step lacks a valid score of some run, and not in `best`
    where a run has none. rank and tie as in a block's rows, the tie by Welch's interval over seeds.
    """

    config_id: str
    config: str
    weights: str
    rank: int | None
    tie: bool | None
    members: list[Member]
    steps: dict[str, int]
    last: dict[str, Summary]
    best: dict[str, Summary]


@dataclass(frozen=True)
class Pool:
    """A block's configs over their seeds, and what to say about them."""

    rows: list[Pooled]
    notes: list[str]


def groups(entries: list[Entry], setups: dict[str, Setup]) -> list[Group]:
    """By config and weights, of entries that are all of one protocol (ValueError if not).

    Two runs of one config and seed are one experiment: the one that was scored at the larger step
    is counted, of equal ones the first by name.
    """
    found: dict[tuple[str, str], dict[int, dict[str, list[Entry]]]] = {}
    for entry in entries:
        if setup := setups.get(entry.run):
            seeds = found.setdefault((setup.config_id, entry.weights), {})
            seeds.setdefault(setup.seed, {}).setdefault(entry.run, []).append(entry)
    return [_group(*key, found[key]) for key in sorted(found)]


def _group(config_id: str, weights: str, seeds: dict[int, dict[str, list[Entry]]]) -> Group:
    members: dict[Member, list[Entry]] = {}
    notes = []
    for seed, runs in sorted(seeds.items()):
        first, *others = sorted(runs, key=lambda run: (-max(e.step for e in runs[run]), run))
        members[Member(seed, first)] = runs[first]
        notes += [
            f"{run} has the config and the seed of {first}: one experiment, counted once"
            for run in others
        ]
    names = {entries[-1].config for entries in members.values()}
    (protocol_id,) = {entry.protocol_id for entries in members.values() for entry in entries}
    return Group(protocol_id, config_id, " / ".join(sorted(names)), weights, members, notes)


def shared_step(scores: Iterable[dict[int, Score]]) -> int | None:
    """The largest step at which every one of these has a valid score."""
    steps = [{at for at, score in each.items() if score.mean is not None} for each in scores]
    return max(set.intersection(*steps), default=None) if steps else None


def means(scores: Iterable[Score | None]) -> list[float]:
    """Of the scores that did not fail."""
    return [score.mean for score in scores if score is not None and score.mean is not None]


def pool(block: Block, entries: list[Entry], setups: dict[str, Setup], by: By) -> Pool:
    """The configs of two seeds or more in a block's entries, in order of its metric, and notes."""
    pooled, notes = [], []
    for group in groups(entries, setups):
        notes += group.notes
        if len(group.members) > 1:
            pooled.append(_pooled(group, block.metrics))
            notes += _behind(group, block.metric, pooled[-1].steps.get(block.metric))
    steps = sorted({row.steps[block.metric] for row in pooled if block.metric in row.steps})
    if len(steps) > 1:
        listed = ", ".join(map(str, steps))
        notes.append(
            f"the configs stand at different steps ({listed}): --compare takes a shared one"
        )
    notes += _namesakes(pooled, setups)
    pooled.sort(key=lambda row: (row.config, row.config_id, row.weights))
    rows = ranked(pooled, block.metric, lambda row: getattr(row, by).get(block.metric), alike)
    return Pool(rows, list(dict.fromkeys(notes)))


def _pooled(group: Group, metrics: list[str]) -> Pooled:
    steps, last, best = {}, {}, {}
    step = shared_step(group.scores(metrics[0]).values())
    for metric in metrics:
        scores = list(group.scores(metric).values())
        if step is not None:
            values = means(each.get(step) for each in scores)
            if len(values) == len(scores):
                steps[metric], last[metric] = step, summary(values)
        values = means(best_of(each.values(), metric) for each in scores)
        if len(values) == len(scores):
            best[metric] = summary(values)
    members = list(group.members)
    return Pooled(
        group.config_id, group.config, group.weights, None, None, members, steps, last, best
    )


def _namesakes(pooled: list[Pooled], setups: dict[str, Setup]) -> list[str]:
    """In what configs of one name differ from the first of that name."""
    first: dict[str, Pooled] = {}
    notes = []
    for row in sorted(pooled, key=lambda row: row.config_id):
        model = first.setdefault(row.config, row)
        if row.config_id != model.config_id:
            differing = differences([setups[each.members[0].run] for each in (row, model)])
            notes.append(
                f"{row.config}: {row.config_id} and {model.config_id} differ in"
                f" {in_words(differing)}"
            )
    return notes


def _behind(group: Group, metric: str, step: int | None) -> list[str]:
    """Which runs keep the shared step below the last that any run has reached."""
    reached = max(entry.step for entries in group.members.values() for entry in entries)
    if step == reached:
        return []
    behind = [
        member.run
        for member, scores in group.scores(metric).items()
        if shared_step([scores]) != reached
    ]
    shared = (
        "no step has a valid score of every seed"
        if step is None
        else f"step {step} is the last that every seed shares"
    )
    label = f"{group.config} ({group.config_id}, {group.weights})"
    return [f"{label}: {shared}; without a valid score at step {reached}: {', '.join(behind)}"]


# Student 1908; Welch 1947


def summary(values: list[float]) -> Summary:
    """The summary of one value or more, finite and below 1e100."""
    n = len(values)
    mean = statistics.fmean(values)
    if n == 1:
        return Summary(n, mean, None, None, None)
    sd = statistics.stdev(values)
    half = student(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def alike(one: Summary, other: Summary) -> bool | None:
    """Whether the 95 % interval of the difference of two independent means holds 0 (Welch).

    Two equal means are alike; None where a spread is missing.
    """
    if one.mean == other.mean:
        return True
    if one.sd is None or other.sd is None:
        return None
    first, second = one.sd**2 / one.n, other.sd**2 / other.n
    if not (noise := first + second):
        return False
    share = first / noise
    freedom = 1 / (share**2 / (one.n - 1) + (1 - share) ** 2 / (other.n - 1))
    return abs(one.mean - other.mean) < student(freedom) * math.sqrt(noise)


def shown(difference: Summary, direction: str | None) -> str:
    """What the interval of the difference A - B shows, in words.

    direction: 'lower' or 'higher', whichever is better; None where that is not known.
    """
    if difference.low is None or difference.high is None:
        return "one pair: no interval"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    larger, smaller = SIDES if difference.mean > 0 else SIDES[::-1]
    if direction is None:
        return f"{larger} larger"
    return f"{larger if direction == 'higher' else smaller} better"


def student(freedom: float) -> float:
    """The t that |T| of Student's distribution exceeds with probability 0.05; freedom >= 1."""
    from scipy.special import stdtrit  # a twentieth of the time that scipy.stats takes to import

    return float(stdtrit(freedom, 0.975))
