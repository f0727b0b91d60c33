"""The learning rates of a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch.optim import Optimizer


def set_learning_rates(
    optimizers: Iterable[Optimizer],
    rates: Iterable[float],
    decay: Literal["none", "linear"],
    step: int,
    steps: int,
) -> None:
    """Give each optimizer its rate; `linear` lowers it to zero over `steps` steps, counted from 0.

    A function of the step alone, so that a resumed run needs no scheduler's state.
    """
    left = max(1 - step / steps, 0.0) if decay == "linear" else 1.0
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * left
