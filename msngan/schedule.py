"""The learning rates of a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer


def set_learning_rates(optimizers: Iterable[Optimizer], options: Any, step: int) -> None:  # noqa: ANN401
    """Give the generator's optimizer and the critic's their rates, by a GAN's options.

    lr_decay `linear` lowers both to zero over `options.steps` steps, counted from 0. A function of
    the step alone, so that a resumed run needs no scheduler's state.
    """
    left = max(1 - step / options.steps, 0.0) if options.lr_decay == "linear" else 1.0
    for optimizer, rate in zip(optimizers, (options.generator_lr, options.critic_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * left
