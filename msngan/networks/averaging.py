"""The generator's exponential moving average."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, decay: float, step: int) -> None:
    """Parameters move towards the live ones by 1 - decay; buffers (batch statistics) are copied.

    Early on the decay is smaller, (1 + step) / (10 + step), or the average would show the first,
    random weights for long.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(live.parameters()), share)
    for into, buffer in zip(average.buffers(), live.buffers(), strict=True):
        into.copy_(buffer)
