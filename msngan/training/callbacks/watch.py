"""What a run's score lines say about it: the best so far, and signs of a collapse.

Pure functions over the lines of scores.jsonl, so that a resumed run judges as one that was let
alone. The bounds are rules of thumb, not of any paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from msngan.leaderboard.ranking import better

IN_A_ROW = 3  # evaluations that must agree: one alone may be an accident of its step
FACTOR = 2  # this many times worse than the best is bad
NEAR_ZERO = 0.01  # of precision and recall, which are shares
PRESENT = 0.1  # a share that has been here and is near zero needs no confirmation

LARGEST = 1e300

Line = dict[str, Any]  # of scores.jsonl

MEANING = {
    "precision": "hardly a sample lies among the real images",
    "recall": "hardly a real image lies among the samples, which is what mode collapse looks like",
}
REMEDY = (
    "if it does not recover, try a lower --model.generator_lr or --model.critic_lr, another"
    " --model.norm or a --model.penalty"
)


@dataclass(frozen=True)
class Point:
    """One evaluation's number; sd is None where one run was drawn."""

    step: int
    value: float
    sd: float | None = None


@dataclass(frozen=True)
class Sign:
    """What the newest evaluation shows, in a sentence; collapse: whether it is one."""

    text: str
    collapse: bool


def comparable(lines: Sequence[Line], newest: Line) -> list[Line]:
    """The lines that `fit` wrote about the same kind of weights under the same protocol."""
    same = ("protocol_id", "weights", "source")
    return [line for line in lines if all(line.get(name) == newest.get(name) for name in same)]


def points(lines: Sequence[Line], key: str) -> list[Point]:
    """The evaluations that have a number for this score, in order."""
    found = []
    for line in lines:
        score = _score(line, key)
        value, sd = _number(score.get("mean")), _number(score.get("sd"))
        if value is not None and isinstance(step := line.get("step", 0), int):
            found.append(Point(step, value, sd))
    return found


def best(series: Sequence[Point], key: str) -> Point | None:
    """The best of a score's evaluations, the earliest of equals."""
    sign = -1 if better(key) == "higher" else 1
    return min(series, key=lambda point: sign * point.value, default=None)


def signs(lines: Sequence[Line], key: str, shares: Sequence[str]) -> list[Sign]:
    """What the last of these comparable lines shows for the first time.

    key: the score that the best is chosen by. shares: precision and recall, where there are. A
    failed score is said, but is no evidence: it neither makes a row of bad evaluations nor ends it.
    """
    found = [Sign(text, False) for text in _failed(lines, [key, *shares])]
    top = best(points(lines, key), key)
    since = top.step if top else -1
    texts = [
        _vanished(points(lines, share), share, since) for share in shares if _has(lines[-1], share)
    ]
    if _has(lines[-1], key):
        texts.insert(0, _far_from_best(points(lines, key), key))
    return found + [Sign(text, True) for text in texts if text is not None]


def _score(line: Line, key: str) -> dict[str, Any]:
    scores = line.get("scores")
    score = scores.get(key) if isinstance(scores, dict) else None
    return score if isinstance(score, dict) else {}


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < LARGEST else None  # a NaN is not below it either


def _has(line: Line, key: str) -> bool:
    return bool(points([line], key))


def _far_from_best(series: Sequence[Point], key: str) -> str | None:
    """That the newest evaluation is the third in a row far from the best before it."""
    top, row = series[0], 0
    for point in series:
        top = best([top, point], key) or point
        row = row + 1 if _far(point, top, key) else 0
    if row != IN_A_ROW:
        return None
    bound = "more than twice" if better(key) == "lower" else "less than half"
    return (
        f"{key} is {series[-1].value:.4g} at step {series[-1].step}, {bound} its best"
        f" ({top.value:.4g} at step {top.step}) in {row} evaluations in a row"
    )


def _far(point: Point, top: Point, key: str) -> bool:
    if better(key) == "higher":
        return point.value < top.value / FACTOR
    # The best kernel distance is zero but for noise, and may be negative: twice the noise is then
    # the bound.
    return point.value > FACTOR * max(abs(top.value), top.sd or 0)


def _vanished(series: Sequence[Point], key: str, since: int) -> str | None:
    """That a share is near zero at once where it had been more, or for the third time in a row.

    Only evaluations after `since`, the step of the best score, count for a row: a run that starts
    is near zero too, and gets better.
    """
    low = list(takewhile(lambda point: point.value < NEAR_ZERO, reversed(series)))
    peak = max(series, key=lambda point: point.value)
    had = peak.value >= PRESENT
    row = len(low) if had else sum(point.step > since for point in low)
    if row != (1 if had else IN_A_ROW):
        return None
    before = f"was {peak.value:.2g} at step {peak.step}"
    if not had:
        before = f"near 0 in {row} evaluations since the best score, at step {since}"
    meaning = MEANING[key.partition("/")[0]]
    return f"{key} is {series[-1].value:.2g} at step {series[-1].step} ({before}): {meaning}"


def _failed(lines: Sequence[Line], keys: Sequence[str]) -> list[str]:
    """What fails in the newest line and did not fail in the one before, by reason."""
    reasons: dict[str, list[str]] = {}
    for key in dict.fromkeys(keys):
        now, *before = (_reason(line, key) for line in reversed(lines[-2:]))
        if now is not None and before in ([], [None]):
            reasons.setdefault(now, []).append(key)
    step = lines[-1].get("step")
    return [f"no {', '.join(named)} at step {step}: {reason}" for reason, named in reasons.items()]


def _reason(line: Line, key: str) -> str | None:
    """Why a score failed; None if it did not, or was not asked for."""
    score = _score(line, key)
    return str(score.get("reason", "unknown")) if score and not _has(line, key) else None
