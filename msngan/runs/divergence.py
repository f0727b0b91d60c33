"""A NaN or an infinity in the figures of a step ends the run."""

from __future__ import annotations

import torch
from torch import Tensor

from msngan.runs.folder import Diverged


def refuse_nan(figures: dict[str, Tensor], step: int, remedy: str) -> None:
    """Raise Diverged, with the names and values of the scalars that are not finite.

    remedy: what to try, the end of a sentence that begins with "Try".
    """
    # One check a step, because each makes a GPU wait.
    if torch.stack(list(figures.values())).isfinite().all():
        return
    values = {name: value.item() for name, value in figures.items()}
    wrong = [f"{name} {values[name]}" for name, value in figures.items() if not value.isfinite()]
    raise diverged(step, ", ".join(wrong), remedy, values)


def diverged(
    step: int, what: str, remedy: str, figures: dict[str, float] | None = None
) -> Diverged:
    """The error that ends a run at `step`, counted from 1. figures: those of that step."""
    problem = Diverged(
        f"training diverged at step {step}: {what}. The last checkpoint is unchanged. Try {remedy}"
    )
    problem.step, problem.figures = step, figures or {}
    return problem
