"""Which of two scores is better, what a run's best is, and when a difference is only noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from msngan.runs.score_records import Entry, Score

# in the order of columns; the family of a metric is its name before the slash
BETTER = {
    "fid": "lower",
    "fd": "lower",
    "is": "higher",
    "cs": "higher",
    "kid": "lower",
    "kd": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",  # a share of neighbours, not of images: it can exceed 1
    "coverage": "higher",
}


def better(metric: str) -> str | None:
    """'lower', 'higher', or None for a metric whose direction is not known."""
    return BETTER.get(metric.partition("/")[0])


def column(metric: str) -> tuple[int, str]:
    """A sort key: the metrics in order of their columns."""
    family = metric.partition("/")[0]
    return (list(BETTER).index(family) if family in BETTER else len(BETTER), metric)


def best_of(scores: Iterable[Score], metric: str) -> Score | None:
    """The first of the best sound scores; None if there is none or no direction is known."""
    sound = [score for score in scores if score.mean is not None]
    if not sound or not better(metric):
        return None
    return min(sound, key=lambda score: order(metric, score.mean))


def order(metric: str, mean: float | None) -> tuple[bool, float]:
    """A sort key: better first, no value last."""
    if mean is None:
        return (True, 0.0)
    return (False, -mean if better(metric) == "higher" else mean)


def series(entries: list[Entry], metric: str) -> dict[int, Score]:
    """A metric's scores by step, in order of step; a line replaces an earlier one of its step.

    The entries are of one run's weights under one protocol.
    """
    found = {entry.step: entry.scores[metric] for entry in entries if metric in entry.scores}
    return dict(sorted(found.items()))


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


class Valued(Protocol):
    """What a row is ranked by."""

    @property
    def mean(self) -> float | None: ...


R = TypeVar("R", bound=Any)  # a dataclass with `rank` and `tie`
V = TypeVar("V", bound=Valued)


def ranked(
    rows: Iterable[R],
    metric: str,
    value: Callable[[R], V | None],
    tie: Callable[[V, V], bool | None],
) -> list[R]:
    """The rows, better first, with their rank and whether each is tied with the one above.

    Those without a value stand last and unranked; equal ones stay in the order that they came in,
    and all do where the metric has no known direction.
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
