"""Runs of one config pooled over their training seeds, inside one protocol.

The spread over seeds is what a claim that one config beats another rests on; the spread over
drawings of samples, which a single run's row shows, is many times smaller.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from msngan.leaderboard import Block, By
from msngan.leaderboard.configs import Setup, differences
from msngan.leaderboard.intervals import Summary, alike, summary
from msngan.leaderboard.order import best_of, ranked, series
from msngan.leaderboard.wording import in_words
from msngan.runs.score_records import Entry, Score


@dataclass(frozen=True)
class Member:
    """The run that is counted for a seed."""

    seed: int
    run: str


@dataclass(frozen=True)
class Group:
    """A config's runs with one kind of weights under one protocol, one run a seed, by seed.

    repeats: the runs left out, each with the run that is counted in its place.
    """

    protocol_id: str
    config_id: str
    config: str
    weights: str
    members: dict[Member, list[Entry]]
    repeats: list[tuple[str, Member]]

    def scores(self, metric: str) -> dict[Member, dict[int, Score]]:
        return {member: series(entries, metric) for member, entries in self.members.items()}


@dataclass(frozen=True)
class Pooled:
    """A config over its seeds. last: of all metrics at the largest step that all runs share of the
    block's own, which steps has by metric.

    A metric is not in `last` where no step has a sound score of every run, and not in `best` where
    a run has none. rank and tie as in a block's rows, the tie by Welch's interval over seeds.
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
    repeats = []
    for seed in sorted(seeds):
        runs = seeds[seed]
        first, *others = sorted(runs, key=lambda run: (-max(e.step for e in runs[run]), run))
        members[Member(seed, first)] = runs[first]
        repeats += [(run, Member(seed, first)) for run in others]
    names = {entries[-1].config for entries in members.values()}
    (protocol_id,) = {entry.protocol_id for entries in members.values() for entry in entries}
    return Group(protocol_id, config_id, " / ".join(sorted(names)), weights, members, repeats)


def shared_step(scores: Iterable[dict[int, Score]]) -> int | None:
    """The largest step at which every one of these has a sound score."""
    steps = [{step for step, score in each.items() if sound(score)} for each in scores]
    return max(set.intersection(*steps), default=None) if steps else None


def sound(score: Score) -> bool:
    return score.mean is not None


def pool(
    block: Block, entries: list[Entry], setups: dict[str, Setup], by: By
) -> tuple[list[Pooled], list[str]]:
    """The block's configs of two seeds or more, in order of its metric, and what to say of them.

    entries: the block's own, all of its protocol.
    """
    assert all(entry.protocol_id == block.protocol_id for entry in entries)
    pooled, notes = [], []
    for group in groups(entries, setups):
        notes += [
            f"{run} has the config and the seed of {member.run}: one experiment, counted once"
            for run, member in group.repeats
        ]
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
    return rows, list(dict.fromkeys(notes))


def _pooled(group: Group, metrics: list[str]) -> Pooled:
    steps, last, best = {}, {}, {}
    step = shared_step(group.scores(metrics[0]).values())
    for metric in metrics:
        scores = list(group.scores(metric).values())
        if step is not None and all(step in each and sound(each[step]) for each in scores):
            steps[metric] = step
            last[metric] = summary(means(each[step] for each in scores))
        bests = [best_of(each.values(), metric) for each in scores]
        if all(bests):
            best[metric] = summary(means(bests))
    return Pooled(
        group.config_id,
        group.config,
        group.weights,
        rank=None,
        tie=None,
        members=list(group.members),
        steps=steps,
        last=last,
        best=best,
    )


def _namesakes(pooled: list[Pooled], setups: dict[str, Setup]) -> list[str]:
    """In what configs of one name differ from the first of that name."""
    first: dict[str, Pooled] = {}
    notes = []
    for row in sorted(pooled, key=lambda row: row.config_id):
        model = first.setdefault(row.config, row)
        if row.config_id != model.config_id:
            own, other = (setups[each.members[0].run] for each in (row, model))
            notes.append(
                f"{row.config}: {row.config_id} and {model.config_id} differ in"
                f" {in_words(differences(own, other))}"
            )
    return notes


def means(scores: Iterable[Score | None]) -> list[float]:
    """Of sound scores."""
    return [score.mean for score in scores if score is not None and score.mean is not None]


def _behind(group: Group, metric: str, step: int | None) -> list[str]:
    """Which runs keep the shared step below the last that any run has reached."""
    label = f"{group.config} ({group.config_id}, {group.weights})"
    reached = max(entry.step for entries in group.members.values() for entry in entries)
    if step == reached:
        return []
    sound = {
        member.run: max((at for at, each in scores.items() if each.mean is not None), default=None)
        for member, scores in group.scores(metric).items()
    }
    ends: dict[int | None, list[str]] = defaultdict(list)
    for run, at in sound.items():
        if at is None or at < reached:
            ends[at].append(run)
    parts = [
        f"{', '.join(runs)} " + ("has no sound score" if at is None else f"ends at step {at}")
        for at, runs in ends.items()
    ]
    shared = "no step" if step is None else f"step {step} is the last that"
    shared += " has a sound score of every seed" if step is None else " every seed shares"
    return [f"{label}: {shared}" + (f"; {'; '.join(parts)}" if parts else "")]
