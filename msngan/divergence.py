"""A figure of training that is not a number ends the run."""

from __future__ import annotations

import torch
from torch import Tensor

from msngan.runs import Diverged


def refuse_nan(figures: dict[str, Tensor], step: int, remedy: str) -> None:
    """Raise Diverged, with the names and values of the scalars that are not finite.

    remedy: what to try, the end of a sentence that begins with "Try".
    """
    # One look a step: each look makes a GPU wait.
    if torch.stack(list(figures.values())).isfinite().all():
        return
    wrong = [f"{name} {value.item()}" for name, value in figures.items() if not value.isfinite()]
    raise Diverged(
        f"training diverged at step {step}: {', '.join(wrong)}. The last checkpoint is as it was."
        f" Try {remedy}"
    )
