"""Score lines to tables: one block a protocol, ranked inside it and nowhere else. No torch here.

A value of one protocol says nothing about a value of another: the number of samples alone moves a
Fréchet distance by more than most methods do. So nothing here compares two protocol_ids.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from msngan.leaderboard.order import BETTER, best_of, better, column, ranked, series, tied
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.score_records import Entry, Floor, Score

__all__ = ["BETTER", "Block", "By", "Row", "better", "blocks", "by_protocol"]
__all__ += ["select", "series", "tied"]

By = Literal["last", "best"]

INCEPTION_FEATURES = 2048  # of the one layer that the official network is read at


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
    """One protocol's rows, in order of `metric`; metrics lists that one first.

    dimensions: the extractor's number of features, None where it is not known.
    """

    protocol_id: str
    protocol: dict[str, Any]
    metric: str
    better: str | None
    metrics: list[str]
    rows: list[Row]
    floors: dict[str, Floor]
    dimensions: int | None


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
    made = []
    for group in by_protocol(entries).values():
        names = sorted({name for entry in group for name in entry.scores}, key=column)
        wanted = [name for name in names if metric in (None, name, name.partition("/")[0])]
        if wanted:
            made.append(_block(group, wanted[0], names, by))
    if metric is not None and entries and not made:
        known = sorted({name for entry in entries for name in entry.scores}, key=column)
        families = list(dict.fromkeys(name.partition("/")[0] for name in known))
        raise _unknown("--metric", metric, [*families, *(each for each in known if "/" in each)])
    return sorted(
        made, key=lambda each: (each.protocol["dataset"], each.protocol["name"], each.protocol_id)
    )


def by_protocol(entries: list[Entry]) -> dict[str, list[Entry]]:
    """The entries of each protocol_id, in their order."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.protocol_id].append(entry)
    return groups


def _unknown(option: str, word: str, known: list[str]) -> UserError:
    near = did_you_mean(word, known)
    return UserError(f"{option} {word!r} is in no score here{near}; there are {', '.join(known)}")


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
        rows=ranked(
            sorted(
                (_row(group, names, metric) for group in rows.values()),
                key=lambda row: (row.run, row.weights),
            ),
            metric,
            lambda row: getattr(row, by).get(metric),
            tied,
        ),
        floors=_chosen_floors(entries),
        dimensions=_dimensions(entries),
    )


def _row(entries: list[Entry], names: list[str], metric: str) -> Row:
    """`last` is all of one step: the last that has the metric, or any where none has."""
    scores = {name: series(entries, name) for name in names}
    step = max(scores[metric] or (entry.step for entry in entries))
    last = {name: each[step] for name, each in scores.items() if step in each}
    best = {name: found for name, each in scores.items() if (found := best_of(each.values(), name))}
    newest = entries[-1]
    return Row(newest.run, newest.config, newest.weights, None, None, last, best)


def _dimensions(entries: list[Entry]) -> int | None:
    found = {entry.dimensions for entry in entries if entry.dimensions}
    if not found and entries[0].protocol["official_inception"]:
        return INCEPTION_FEATURES
    return found.pop() if len(found) == 1 else None


def _chosen_floors(entries: list[Entry]) -> dict[str, Floor]:
    """The latest of each metric, but never an estimate in place of a measurement."""
    chosen: dict[str, Floor] = {}
    for entry in entries:
        for name, floor in entry.floors.items():
            if name not in chosen or floor.kind != "estimated" or chosen[name].kind == "estimated":
                chosen[name] = floor
    return chosen
