"""A layer of each kind, for what every norm promises on it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

# A layer and the shape of an input whose output has several values per channel.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (5, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (5, 4, 6, 6)),
    "conv2d, 2 groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (3, 4, 3, 3, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (5, 4, 3, 3)),
    "conv_transpose2d, 2 groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (5, 4, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 6), (5, 3, 4)),
    "linear on as many tokens as outputs": (lambda: nn.Linear(4, 6), (5, 6, 4)),
}
