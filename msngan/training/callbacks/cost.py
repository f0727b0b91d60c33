"""What scores cost a run, and how rare they must be to cost little."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msngan.training.callbacks.progress import clock

SHARE = 0.05  # of a run's time; more is said


@dataclass
class Cost:
    """Of one session, in seconds of wall time; a resumed run counts its own.

    every: steps between scores. steps: of the run. scores: how many there were.
    """

    every: int
    steps: int
    seconds: float = 0.0
    scores: int = 0
    said: bool = False

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.scores += 1

    def text(self, elapsed: float) -> str:
        """'scores took 0:12, 2.1 % of 9:40'."""
        share = self.seconds / max(elapsed, 1e-9)
        return f"scores took {clock(self.seconds)}, {share:.1%} of {clock(elapsed)}".replace(
            "%", " %"
        )

    def remedy(self, elapsed: float, done: int) -> str | None:
        """A line where the cadence leaves too little for training; once.

        done: steps in `elapsed` seconds. They are asked for the time of a step only: a score a few
        steps after a resume has a large share of the session, and the cadence is not to blame.
        """
        per_score = self.seconds / self.scores
        per_step = (elapsed - self.seconds) / max(done, 1)
        fair = per_score <= SHARE * (per_score + self.every * per_step)
        if self.said or not self.every or fair:
            return None
        self.said = True
        least = cadence(per_score, per_step)
        enough = f"--scores.every {least} would hold {SHARE:.0%}".replace("%", " %")
        if least >= self.steps:
            enough = "--scores.every 0 leaves only the one at the end"
        return f"{self.text(elapsed)}; {enough}, --scores.enabled false spends nothing"


def cadence(per_score: float, per_step: float) -> int:
    """The least steps between scores that cost no more than SHARE, up to one digit and zeros."""
    least = max(per_score * (1 - SHARE) / (SHARE * max(per_step, 1e-9)), 1)
    # Rounding first: a quotient a hair above a round number is that number.
    unit = 10 ** math.floor(math.log10(least))
    return math.ceil(round(least / unit, 9)) * unit
