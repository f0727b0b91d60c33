"""Score lines to tables: one block a protocol, ranked inside it and nowhere else. No torch here.

A value of one protocol says nothing about a value of another: the number of samples alone moves a
Fréchet distance by more than most methods do. So nothing here compares two protocol_ids.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal

from msngan.leaderboard.lines import Entry, Floor, Score, find_runs, read
from msngan.runs import UserError, did_you_mean

__all__ = ["Block", "By", "Row", "better", "blocks", "find_runs", "read", "select", "tied"]

By = Literal["last", "best"]

# in the order of columns; the family of a metric is its name before the slash
BETTER = {
    "fid": "lower",
    "fd": "lower",
    "is": "higher",
    "cs": "higher",
    "kid": "lower",
    "kd": "lower",
}


@dataclass(frozen=True)
class Row:
    """A run's weights (raw and ema apart) under one protocol; last and best by metric.

    rank is None where the metric has no known direction. tie: the difference to the row above is
    within the noise (see `tied`); None where that cannot be told, and in the first row.
    """

    run: str
    config: str
    weights: str
    rank: int | None
    tie: bool | None
    last: dict[str, Score]
    best: dict[str, Score]


@dataclass(frozen=True)
class Block:
    """One protocol's rows, in order of `metric`; metrics lists that one first."""

    protocol_id: str
    protocol: dict[str, Any]
    metric: str
    better: str | None
    metrics: list[str]
    rows: list[Row]
    floors: dict[str, Floor]


def better(metric: str) -> str | None:
    """'lower', 'higher', or None for a metric whose direction is not known."""
    return BETTER.get(metric.partition("/")[0])


def select(entries: list[Entry], dataset: str | None, protocol: str | None) -> list[Entry]:
    """The entries of a data set and of a protocol: its name, its id or the id's first 4 or more."""
    if not entries:
        return []
    if dataset is not None:
        known = sorted({entry.protocol["dataset"] for entry in entries})
        if dataset not in known:
            raise _unknown("--dataset", dataset, known)
        entries = [entry for entry in entries if entry.protocol["dataset"] == dataset]
    if protocol is not None:
        known = sorted(
            {name for each in entries for name in (each.protocol["name"], each.protocol_id)}
        )
        part = protocol if len(protocol) >= 4 else None
        entries = [
            entry
            for entry in entries
            if protocol == entry.protocol["name"]
            or entry.protocol_id == protocol
            or (part and entry.protocol_id.startswith(part))
        ]
        if not entries:
            raise _unknown("--protocol", protocol, known)
    return entries


def blocks(entries: list[Entry], metric: str | None = None, by: By = "last") -> list[Block]:
    """One block a protocol_id, in order of data set, protocol name and id.

    metric: a name (`fd/embed-...`) or its family (`fd`); by default each block's Fréchet distance.
    A block that has no such metric is left out; UserError if none has it.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.protocol_id].append(entry)
    made = []
    for group in groups.values():
        names = sorted({name for entry in group for name in entry.scores}, key=_column)
        wanted = [name for name in names if metric in (None, name, name.partition("/")[0])]
        if wanted:
            made.append(_block(group, wanted[0], names, by))
    if metric is not None and entries and not made:
        known = sorted({name for entry in entries for name in entry.scores}, key=_column)
        families = list(dict.fromkeys(name.partition("/")[0] for name in known))
        raise _unknown("--metric", metric, [*families, *(each for each in known if "/" in each)])
    return sorted(
        made, key=lambda each: (each.protocol["dataset"], each.protocol["name"], each.protocol_id)
    )


def tied(one: Score, other: Score) -> bool | None:
    """Whether |difference| < 2 sqrt(s1^2/n1 + s2^2/n2), the means over n drawings of samples.

    Two equal means are tied. None if a mean or a spread is not known. A tie is about the noise of
    sampling from these two sets of weights; training seeds add more.
    """
    if one.mean is None or other.mean is None:
        return None
    if one.mean == other.mean:
        return True
    if one.sd is None or other.sd is None:
        return None
    noise = math.sqrt(one.sd**2 / one.runs + other.sd**2 / other.runs)
    return abs(one.mean - other.mean) < 2 * noise


def _unknown(option: str, word: str, known: list[str]) -> UserError:
    near = did_you_mean(word, known)
    return UserError(f"{option} {word!r} is in no score here{near}; there are {', '.join(known)}")


def _column(metric: str) -> tuple[int, str]:
    family = metric.partition("/")[0]
    return (list(BETTER).index(family) if family in BETTER else len(BETTER), metric)


def _block(entries: list[Entry], metric: str, names: list[str], by: By) -> Block:
    first = entries[0]
    rows = defaultdict(list)
    for entry in entries:
        rows[entry.run, entry.weights].append(entry)
    return Block(
        protocol_id=first.protocol_id,
        protocol=first.protocol,
        metric=metric,
        better=better(metric),
        metrics=[metric, *(name for name in names if name != metric)],
        rows=_ranked([_row(group, names) for group in rows.values()], metric, by),
        floors=_chosen_floors(entries),
    )


def _row(entries: list[Entry], names: list[str]) -> Row:
    """Of one run's weights. A line replaces an earlier one of the same step."""
    last, best = {}, {}
    for name in names:
        steps = {entry.step: entry.scores[name] for entry in entries if name in entry.scores}
        if steps:
            last[name] = steps[max(steps)]
        sound = [steps[step] for step in sorted(steps) if steps[step].mean is not None]
        if sound and better(name):
            best[name] = min(sound, key=lambda score: _order(name, score))
    newest = entries[-1]
    return Row(newest.run, newest.config, newest.weights, None, None, last, best)


def _order(metric: str, score: Score | None) -> tuple[bool, float]:
    """A sort key: better first, no value last."""
    if score is None or score.mean is None:
        return (True, 0.0)
    return (False, -score.mean if better(metric) == "higher" else score.mean)


def _ranked(rows: list[Row], metric: str, by: By) -> list[Row]:
    rows = sorted(rows, key=lambda row: (row.run, row.weights))
    if better(metric) is None:
        return rows
    rows.sort(key=lambda row: _order(metric, getattr(row, by).get(metric)))
    ranked: list[Row] = []
    for row in rows:
        score = getattr(row, by).get(metric)
        known = score is not None and score.mean is not None
        above = getattr(ranked[-1], by)[metric] if known and ranked else None
        tie = tied(above, score) if known and above is not None else None
        ranked.append(replace(row, rank=len(ranked) + 1 if known else None, tie=tie))
    return ranked


def _chosen_floors(entries: list[Entry]) -> dict[str, Floor]:
    """The latest of each metric, but never an estimate in place of a measurement."""
    chosen: dict[str, Floor] = {}
    for entry in entries:
        for name, floor in entry.floors.items():
            if name not in chosen or floor.kind != "estimated" or chosen[name].kind == "estimated":
                chosen[name] = floor
    return chosen
