"""Blocks of one protocol each, their runs in order, and what the numbers in them mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.score_records import BETTER, Entry, Floor, Score, better, family, how_drawn

By = Literal["last", "best"]


@dataclass(frozen=True)
class Row:
    """A run's weights (raw and ema apart) under one protocol; last and best by metric.

    rank is None where the metric has no known direction. tie: the difference to the row above is
    within the noise (see `tied`); None where that is not known, and in the first row.
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


# Metrics


def column(metric: str) -> tuple[int, str]:
    """A sort key: the metrics in order of their columns."""
    known = list(BETTER)
    return (known.index(family(metric)) if better(metric) else len(known), metric)


def labels(metrics: list[str]) -> list[str]:
    """A metric's family where it is enough to tell it from the others, else its whole name."""
    families = [family(name) for name in metrics]
    return [
        each if families.count(each) == 1 else name
        for name, each in zip(metrics, families, strict=True)
    ]


def chosen(metric: str | None, names: Iterable[str]) -> list[str]:
    """The names, in order of column, that `metric` means: a name or its family; None: all."""
    return [name for name in sorted(names, key=column) if metric in (None, name, family(name))]


# Scores


def series(entries: list[Entry], metric: str) -> dict[int, Score]:
    """A metric's scores by step, in order of step; a line replaces an earlier one of its step.

    The entries are of one run's weights under one protocol.
    """
    found = {entry.step: entry.scores[metric] for entry in entries if metric in entry.scores}
    return dict(sorted(found.items()))


def best_of(scores: Iterable[Score], metric: str) -> Score | None:
    """The first of the best scores that did not fail; None if no direction is known."""
    valid = [score for score in scores if score.mean is not None and better(metric)]
    return min(valid, key=lambda score: order(metric, score.mean), default=None)


def order(metric: str, mean: float | None) -> tuple[bool, float]:
    """A sort key: better first, no value last."""
    if mean is None:
        return (True, 0.0)
    return (False, -mean if better(metric) == "higher" else mean)


def tied(one: Score, other: Score) -> bool | None:
    """Whether |difference| < 2 sqrt(s1^2/n1 + s2^2/n2), each mean over n sample sets.

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


R = TypeVar("R", bound=Any)  # a dataclass with `rank` and `tie`


def ranked(
    rows: Iterable[R],
    metric: str,
    value: Callable[[R], Any],
    tie: Callable[[Any, Any], bool | None],
) -> list[R]:
    """The rows, better first, with their rank and whether each is tied with the one above.

    value: of a row, a Score or a Summary. Rows without a mean stand last and unranked; equal ones
    stay in the order that they came in, and all do where the metric has no known direction.
    """
    rows = list(rows)
    if better(metric) is None:
        return rows
    pairs = [(row, value(row)) for row in rows]
    pairs.sort(key=lambda pair: order(metric, pair[1].mean if pair[1] else None))
    found: list[R] = []
    above = None
    for row, own in pairs:
        if own is not None and own.mean is not None:
            row = replace(row, rank=len(found) + 1, tie=tie(above, own) if above else None)
            above = own
        found.append(row)
    return found


# Blocks


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
        known = sorted({name for e in entries for name in (e.protocol["name"], e.protocol_id)})
        entries = [
            entry
            for entry in entries
            if protocol in (entry.protocol["name"], entry.protocol_id)
            or (len(protocol) >= 4 and entry.protocol_id.startswith(protocol))
        ]
        if not entries:
            raise _unknown("--protocol", protocol, known)
    return entries


def by_protocol(entries: list[Entry]) -> dict[str, list[Entry]]:
    """The entries of each protocol_id, in their order."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.protocol_id].append(entry)
    return groups


def blocks(entries: list[Entry], metric: str | None = None, by: By = "last") -> list[Block]:
    """One block a protocol_id, in order of data set, protocol name and id.

    metric: a name (`fd/embed-...`) or its family (`fd`); by default each block's Fréchet distance.
    A block that has no such metric is left out; UserError if none has it.
    """
    made = []
    for group in by_protocol(entries).values():
        names = chosen(None, {name for entry in group for name in entry.scores})
        if wanted := chosen(metric, names):
            made.append(_block(group, wanted[0], names, by))
    if metric is not None and entries and not made:
        known = chosen(None, {name for entry in entries for name in entry.scores})
        families = list(dict.fromkeys(map(family, known)))
        raise _unknown("--metric", metric, [*families, *(each for each in known if "/" in each)])
    return sorted(
        made, key=lambda each: (each.protocol["dataset"], each.protocol["name"], each.protocol_id)
    )


def _unknown(option: str, word: str, known: list[str]) -> UserError:
    near = did_you_mean(word, known)
    return UserError(f"{option} {word!r} is in no score here{near}; there are {', '.join(known)}")


def _block(entries: list[Entry], metric: str, names: list[str], by: By) -> Block:
    rows = defaultdict(list)
    for entry in entries:
        rows[entry.run, entry.weights].append(entry)
    made = [_row(rows[key], names, metric) for key in sorted(rows)]
    return Block(
        protocol_id=entries[0].protocol_id,
        protocol=entries[0].protocol,
        metric=metric,
        better=better(metric),
        metrics=[metric, *(name for name in names if name != metric)],
        rows=ranked(made, metric, lambda row: getattr(row, by).get(metric), tied),
        floors=_floors(entries),
        dimensions=next((entry.dimensions for entry in entries if entry.dimensions), None),
    )


def _row(entries: list[Entry], names: list[str], metric: str) -> Row:
    """`last` is all of one step: the last that has the metric, or any where none has."""
    scores = {name: series(entries, name) for name in names}
    step = max(scores[metric] or (entry.step for entry in entries))
    last = {name: each[step] for name, each in scores.items() if step in each}
    best = {name: found for name, each in scores.items() if (found := best_of(each.values(), name))}
    newest = entries[-1]
    return Row(newest.run, newest.config, newest.weights, None, None, last, best)


def _floors(entries: list[Entry]) -> dict[str, Floor]:
    """The latest of each metric, but never an estimate in place of a measurement."""
    found: dict[str, Floor] = {}
    for entry in entries:
        for name, floor in entry.floors.items():
            if name not in found or floor.kind != "estimated" or found[name].kind == "estimated":
                found[name] = floor
    return found


# In words


def describe(block: Block) -> list[str]:
    """What the block's numbers mean, by its protocol."""
    protocol = block.protocol
    size, channels = protocol.get("size"), protocol.get("channels")
    parts = [
        f"{protocol['runs']} x {protocol['samples']} samples",
        protocol["extractor"],
        f"real images: split {protocol.get('split')}, {protocol.get('reference_images')} images,"
        f" sha256 {str(protocol.get('reference_sha256'))[:8]}",
        f"{size}x{size}, {channels} channel{'s'[: channels != 1]}",
        *how_drawn(protocol),
    ]
    lines = ["; ".join(parts)]
    if not protocol["official_inception"]:
        lines.append("not comparable with published FID")
    frechet = any(family(name) in ("fid", "fd") for name in block.metrics)
    if frechet and (note := bias_note(protocol["samples"], block.dimensions)):
        lines.append(note)
    for row in block.rows:
        if note := hollow_note({name: score.mean for name, score in row.last.items()}):
            lines.append(f"{row.run}: {note}")
    return lines + intra_note(block.metrics)


def intra_note(metrics: Iterable[str]) -> list[str]:
    """What to know of the distance within classes, if it is among the metrics."""
    names = sorted({family(name) for name in metrics if family(name).startswith("intra-")})
    return [
        f"{name}: the mean over classes, each with its share of a run's samples, so its bias is"
        " that of so few; read it beside the score of real data"
        for name in names
    ]


def bias_note(samples: int, features: int | None) -> str | None:
    """The problem with fewer samples than features; None if there are enough."""
    if features is None or samples >= features:
        return None
    return (
        f"{samples:,} samples a run are fewer than the {features:,} features: the covariance is"
        " rank-deficient and the Fréchet distance strongly biased upwards; read it beside the"
        " score of real data, and trust the kernel distance, which has no bias"
    )


def hollow_note(means: Mapping[str, float | None]) -> str | None:
    """What to know of a precision that a few real images give; means: of one evaluation, by metric.

    Images that are nearly alike to an extractor, as plain colours and blurred noise are, lie
    together, and all of them in the ball of one real image that lies far from the others: a
    precision of 1 with a coverage near 0. Naeem et al. 2020, arXiv:2002.09797, section 3.1.
    """
    named = {family(name): mean for name, mean in means.items()}
    precision, coverage = named.get("precision"), named.get("coverage")
    if precision is None or coverage is None or precision < 0.05 or coverage >= precision / 20:
        return None
    return (
        f"precision {precision:.2g} with coverage {coverage:.2g}: the samples lie near a few real"
        " images only, as noise and plain colours can, so this precision says little; trust the"
        " coverage and the distances"
    )


def ranking(block: Block, by: By) -> str:
    """The order of the block's rows."""
    if block.better is None:
        return f"not ranked: whether {block.metric} should be high or low is not known"
    return f"ranked by {block.metric} at the {by} step; {block.better} is better"
