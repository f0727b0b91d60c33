"""Signs of a collapse in a run's records: health.jsonl (collapse checks) and scores.jsonl.

Pure functions over the lines, so that a resumed run reports what an uninterrupted one does, and
reports it once. The bounds are rules of thumb, not from any paper; runs that learn stay far from
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from msngan.leaderboard.ranking import better

IN_A_ROW = 3  # checks, or evaluations, that must agree; a single one may be an accident
LARGEST = 1e300  # a larger number, or a NaN, is no evidence

Line = dict[str, Any]  # of health.jsonl or scores.jsonl


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and abs(value) < LARGEST:
        return float(value)
    return None


# Collapse checks --------------------------------------------------------------------------------

WARM_UP = 1000  # steps during which a constant critic or equal samples are normal
SPREAD = 1e-4  # of a critic's logits over images, in units of a loss's margin, 1
FIXED = 1e-3  # distance of a loss from that of a constant critic
WON = 1e-3  # share of the loss of a critic that knows nothing
VANISHED = 1e-10  # root mean square of a gradient
SAME = 0.02  # distance between samples, as a share of that between real images
GROWN = 100.0  # times a weight's size before the first step


def warnings(lines: Sequence[Line]) -> list[str]:
    """What the last line of health.jsonl is the first to show, with the step and a remedy."""
    return [text for _, text in found(lines, len(lines) - 1)]


def found(lines: Sequence[Line], first: int = 0) -> Iterator[tuple[int, str]]:
    """(step, sentence) of every fault that begins at lines[first] or later, in order of step."""
    marks = [(fault, _Episode(healthy=fault not in EARLY)) for fault in FAULTS]
    for index, line in enumerate(lines):
        step = line["step"] if isinstance(line.get("step"), int) else 0
        for fault, episode in marks:
            text = fault(line)
            if episode.begins(text is not None, step) and index >= first:
                where = f"at step {step}, in {IN_A_ROW} checks in a row"
                yield step, f"{text} {where}; {FAULTS[fault]}"


class _Episode:
    """A fault begins after IN_A_ROW bad checks and ends after as many good ones.

    healthy: whether bad checks count at once; otherwise they count after the first good one, or
    from WARM_UP on.
    """

    def __init__(self, healthy: bool) -> None:
        self.on, self.healthy, self.bad, self.good = False, healthy, 0, 0

    def begins(self, bad: bool, step: int) -> bool:
        self.healthy = self.healthy or not bad or step >= WARM_UP
        self.bad, self.good = (self.bad + 1, 0) if bad and self.healthy else (0, self.good + 1)
        if self.on and self.good >= IN_A_ROW:
            self.on = False
        if self.on or self.bad < IN_A_ROW:
            return False
        self.on = True
        return True


def constant_critic(line: Line) -> str | None:
    names = ("logit_spread", "critic_loss", "fixed_loss", "real_logit")
    spread, loss, fixed, logit = (_number(line.get(name)) for name in names)
    if spread is None or loss is None or fixed is None or logit is None:
        return None
    near = abs(loss - fixed) <= FIXED * max(1.0, abs(fixed))
    if spread > SPREAD * max(1.0, abs(logit)) or not near:
        return None
    return (
        f"the critic does not tell images apart: all its logits are {logit:.3g} and its loss"
        f" {loss:.4g} is that of a constant"
    )


def won_critic(line: Line) -> str | None:
    if constant_critic(line) is not None:  # its gradient vanishes too
        return None
    names = ("critic_loss", "blank_loss", "generator_gradient")
    loss, blank, gradient = (_number(line.get(name)) for name in names)
    if loss is not None and blank is not None and blank > 0 and loss <= WON * blank:
        return f"the critic has won: its loss is {loss:.2g}; a critic that guesses has {blank:.3g}"
    if gradient is not None and gradient <= VANISHED:
        return f"the generator learns nothing: its gradient is {gradient:.2g}"
    return None


def same_samples(line: Line) -> str | None:
    share = _number(line.get("sample_distance"))
    if share is None or share >= SAME:
        return None
    return (
        f"the generator makes one image: the distance between samples is {share:.2g} of that"
        " between real images"
    )


def grown_weight(line: Line) -> str | None:
    growth = _number(line.get("growth"))
    if growth is None or growth <= GROWN:
        return None
    return f"{line.get('grown')} is {growth:.3g} times what it was before the first step"


# Each fault with its remedy.
FAULTS: dict[Callable[[Line], str | None], str] = {
    constant_critic: "try a lower --model.critic_lr, another --model.norm or --model.loss, or a"
    " --model.penalty",
    won_critic: "try a lower --model.critic_lr or --model.critic_steps, a --model.penalty, or"
    " --model.loss nonsaturating",
    same_samples: "try a lower --model.generator_lr, another --model.norm or --model.penalty, or a"
    " larger --data.batch_size",
    grown_weight: "try a lower learning rate, or --model.norm mean_spectral or spectral",
}
EARLY = (constant_critic, same_samples)  # normal before a network has learned anything


# Scores -----------------------------------------------------------------------------------------

FACTOR = 2  # this many times worse than the best is bad
NEAR_ZERO = 0.01  # of precision and recall, which are shares
PRESENT = 0.1  # a share that reached this and is near zero needs no confirmation
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
    """One evaluation's number; sd is None for a single sample set."""

    step: int
    value: float
    sd: float | None = None


@dataclass(frozen=True)
class Sign:
    """What the newest evaluation shows, in a sentence; collapse: whether that is a collapse."""

    text: str
    collapse: bool


def comparable(lines: Sequence[Line], newest: Line) -> list[Line]:
    """The lines that `fit` wrote for the same kind of weights under the same protocol."""
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
    """What the last of these comparable lines is the first to show.

    key: the score that chooses the best. shares: precision and recall, if there are any. A failed
    score is reported but is no evidence: it neither counts as a bad evaluation nor ends a row.
    """
    found = [Sign(text, False) for text in _failed(lines, [key, *shares])]
    top = best(points(lines, key), key)
    since = top.step if top else -1
    texts = [
        _vanished(points(lines, share), share, since)
        for share in shares
        if points(lines[-1:], share)
    ]
    if points(lines[-1:], key):
        texts.insert(0, _far_from_best(points(lines, key), key))
    return found + [Sign(text, True) for text in texts if text is not None]


def _score(line: Line, key: str) -> dict[str, Any]:
    scores = line.get("scores")
    score = scores.get(key) if isinstance(scores, dict) else None
    return score if isinstance(score, dict) else {}


def _far_from_best(series: Sequence[Point], key: str) -> str | None:
    """Text if the newest evaluation is the third in a row far from the best before it."""
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
    # The best kernel distance is zero up to noise and may be negative: the bound is then twice
    # the noise.
    return point.value > FACTOR * max(abs(top.value), top.sd or 0)


def _vanished(series: Sequence[Point], key: str, since: int) -> str | None:
    """Text if a share falls to near zero, or was never larger and is near it a third time in a row.

    Only evaluations after `since`, the step of the best score, count for a row: shares are near
    zero at the start of a run that gets better.
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
    return str(score.get("reason", "unknown")) if score and not points([line], key) else None
