"""The end of a run at the first step whose figures are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from msngan.runs.folder import Diverged

ROWS = 512  # steps that are kept on a device before their figures are looked at


class FiniteWatch:
    """Looks at the figures of each step: on a CPU at once, on another device when asked.

    To look at a value makes a GPU wait, so there the figures of the last steps stay on the device
    until `check` is called, or ROWS of them are there. The step that is named is the first one in
    either case. remedy: what to try, the end of a sentence that begins with "Try".
    """

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        self._rows: Tensor | None = None
        self._kept: list[tuple[int, tuple[str, ...]]] = []  # step and names, of each row

    def add(self, figures: Mapping[str, Tensor], step: int) -> None:
        """The scalars of `step`, counted from 0; Diverged if one is known to be NaN or infinite."""
        values = list(figures.values())
        if values[0].is_cpu:
            self._refuse(step, tuple(figures), torch.stack(values))
        else:
            self.keep(figures, step)

    def keep(self, figures: Mapping[str, Tensor], step: int) -> None:
        """Keep the scalars of `step` where they are, until `check`."""
        values = list(figures.values())
        if len(self._kept) == ROWS:
            self.check()
        if self._rows is None or self._rows.shape[1] < len(values):
            self.check()
            self._rows = values[0].new_empty(ROWS, len(values), dtype=torch.float32)
        torch.stack(
            [each.float() for each in values], out=self._rows[len(self._kept)][: len(values)]
        )
        self._kept.append((step, tuple(figures)))

    def check(self) -> None:
        """Look at all that was added; Diverged for the first step with a NaN or an infinity."""
        if not self._kept or self._rows is None:
            return
        kept, self._kept = self._kept, []
        for (step, names), row in zip(kept, self._rows[: len(kept)].cpu(), strict=True):
            self._refuse(step, names, row[: len(names)])

    def _refuse(self, step: int, names: tuple[str, ...], values: Tensor) -> None:
        if values.isfinite().all():
            return
        found = dict(zip(names, values.tolist(), strict=True))
        finite = values.isfinite().tolist()
        wrong = [f"{n} {found[n]}" for n, good in zip(names, finite, strict=True) if not good]
        raise diverged(step + 1, ", ".join(wrong), self.remedy, found)


def diverged(
    step: int, what: str, remedy: str, figures: dict[str, float] | None = None
) -> Diverged:
    """The error that ends a run at `step`, counted from 1. figures: those of that step."""
    problem = Diverged(
        f"training diverged at step {step}: {what}. The last checkpoint is unchanged. Try {remedy}"
    )
    problem.step, problem.figures = step, figures or {}
    return problem
