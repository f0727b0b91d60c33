"""What the steps of a GAN and a classifier share: learning rates, the average, an end at NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from msngan.runs.folder import Diverged

Decay = Literal["none", "linear", "cosine"]


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, decay: float, step: int) -> None:
    """Move the average's parameters towards the live ones by 1 - decay; copy buffers.

    In the first steps the decay is smaller, (1 + step) / (10 + step), so that the random first
    weights do not stay in the average for long.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), share)
    for into, buffer in zip(average.buffers(), live.buffers(), strict=True):
        into.copy_(buffer)


def set_learning_rates(
    optimizers: Iterable[Optimizer],
    names: Iterable[str],
    options: Any,  # noqa: ANN401  of a GAN or a classifier
    step: int,
) -> None:
    """Give each optimizer the learning rate for `step`, counted from 0.

    names: the options with the initial rates. options.lr_decay: `linear` and `cosine` lower the
    rate to zero over options.steps. The rate depends on the step only, so that a resumed run needs
    no scheduler state.
    """
    done = min(step / options.steps, 1.0)
    factors = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    for optimizer, name in zip(optimizers, names, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = getattr(options, name) * factors[options.lr_decay]


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
