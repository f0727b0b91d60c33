"""What the checks of a run say about it: a critic that is constant or has won, and the like.

Pure functions over the lines of health.jsonl, so that a resumed run says what one that was let
alone says, and says it once. The bounds are rules of thumb, not of any paper; all are far from what
a run that learns shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

IN_A_ROW = 3  # checks that must agree, for a fault to begin and for it to have ended
WARM_UP = (
    1000  # steps; before, a fault counts only where there was none: a start is near nothing too
)
SPREAD = 1e-4  # of a critic's logits over images, in units of a loss's margin, 1
FIXED = 1e-3  # of a loss: this near to what a constant critic has
WON = 1e-3  # of the loss of a critic that knows nothing
VANISHED = 1e-10  # of a gradient's root mean square
SAME = 0.02  # distance between samples, as a share of that between real images
GROWN = 100.0  # times what a layer's weight was before the first step

LARGEST = 1e300

Line = dict[str, Any]  # of health.jsonl

STEADY = "try a lower --model.critic_lr, another --model.norm or --model.loss, or a --model.penalty"
STRONG = (
    "try a lower --model.critic_lr or --model.critic_steps, a --model.penalty, or --model.loss"
    " nonsaturating"
)
DIVERSE = (
    "try a lower --model.generator_lr, another --model.norm or --model.penalty, or a larger"
    " --data.batch_size"
)
SMALLER = "try a lower learning rate, or --model.norm mean_spectral or spectral"


def warnings(lines: Sequence[Line]) -> list[str]:
    """What the last line is the first to show, each with the step and what to try."""
    return [text for _, text in found(lines, len(lines) - 1)]


def found(lines: Sequence[Line], first: int = 0) -> Iterator[tuple[int, str]]:
    """(step, sentence) of every fault that begins at lines[first] or later, in order of step."""
    marks = [(judge, _Episode(sound=judge not in UNBORN)) for judge in FAULTS]
    for index, line in enumerate(lines):
        step = line["step"] if isinstance(line.get("step"), int) else 0
        for judge, episode in marks:
            text = judge(line)
            if episode.begins(text is not None, step) and index >= first:
                yield (
                    step,
                    f"{text} at step {step}, in {IN_A_ROW} checks in a row; {FAULTS[judge]}",
                )


class _Episode:
    """A fault begins after IN_A_ROW bad checks and is over after as many good ones.

    sound: whether bad checks count at once; else from the first good one on, or from WARM_UP.
    """

    def __init__(self, sound: bool) -> None:
        self.on, self.sound, self.bad, self.good = False, sound, 0, 0

    def begins(self, bad: bool, step: int) -> bool:
        self.sound = self.sound or not bad or step >= WARM_UP
        self.bad, self.good = (self.bad + 1, 0) if bad and self.sound else (0, self.good + 1)
        if self.on and self.good >= IN_A_ROW:
            self.on = False
        if self.on or self.bad < IN_A_ROW:
            return False
        self.on = True
        return True


def _number(line: Line, name: str) -> float | None:
    value = line.get(name)
    if not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < LARGEST else None  # a larger one may be no float


def constant_critic(line: Line) -> str | None:
    spread, loss, fixed = (_number(line, n) for n in ("logit_spread", "critic_loss", "fixed_loss"))
    logit = _number(line, "real_logit")
    if spread is None or loss is None or fixed is None or logit is None:
        return None
    near = abs(loss - fixed) <= FIXED * max(1.0, abs(fixed))
    if spread > SPREAD * max(1.0, abs(logit)) or not near:
        return None
    return (
        f"the critic tells no image from another: its logits are {logit:.3g} for all, its loss"
        f" {loss:.4g} is that of a constant"
    )


def won_critic(line: Line) -> str | None:
    if constant_critic(line) is not None:  # its gradient vanishes too
        return None
    loss, blank = _number(line, "critic_loss"), _number(line, "blank_loss")
    gradient = _number(line, "generator_gradient")
    if loss is not None and blank is not None and blank > 0 and loss <= WON * blank:
        return f"the critic has won: its loss is {loss:.2g}, where one that guesses has {blank:.3g}"
    if gradient is not None and gradient <= VANISHED:
        return f"the generator has nothing to learn from: its gradient is {gradient:.2g}"
    return None


def same_samples(line: Line) -> str | None:
    share = _number(line, "sample_distance")
    if share is None or share >= SAME:
        return None
    return f"the generator makes one image: its samples differ by {share:.2g} of what real ones do"


def grown_weight(line: Line) -> str | None:
    growth = _number(line, "growth")
    if growth is None or growth <= GROWN:
        return None
    return f"{line.get('grown')} is {growth:.3g} times what it was before the first step"


# With what to try.
FAULTS: dict[Callable[[Line], str | None], str] = {
    constant_critic: STEADY,
    won_critic: STRONG,
    same_samples: DIVERSE,
    grown_weight: SMALLER,
}
UNBORN = (constant_critic, same_samples)  # those that a network shows before it has learned
