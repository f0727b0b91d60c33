"""The learning rates of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from torch.optim import Optimizer

Decay = Literal["none", "linear", "cosine"]


def set_learning_rates(
    optimizers: Iterable[Optimizer],
    names: Iterable[str],
    options: Any,  # noqa: ANN401  of a GAN or a classifier
    step: int,
) -> None:
    """Give each optimizer the rate that the option of its name says, for `step`, counted from 0.

    options.lr_decay: `linear` and `cosine` lower it to zero over options.steps. A function of the
    step alone, so that a resumed run needs no scheduler's state.
    """
    done = min(step / options.steps, 1.0)
    factors = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    for optimizer, name in zip(optimizers, names, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = getattr(options, name) * factors[options.lr_decay]
