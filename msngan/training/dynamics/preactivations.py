"""What enters the activations, on a fixed batch: means and spreads of channels, and dead ones.

The drift of the mean that arXiv:1907.04003 argues with (its section III) is one of these means; its
figures 3 and 4 show the means of weights instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from msngan.norms import statistics
from msngan.runs import rng

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
ROUNDING = 1e-6  # an sd below this share of the mean is that of a constant in float32


@dataclass
class Seen:
    """Of one layer in one pass: the size of its input, and what enters the activation after it.

    size: without batch and channels, () for a linear layer. mean, sd: (C,) float32 over all other
    axes, the sd of the population. dead: (C,) bool, nowhere above 0. None: no activation follows.
    """

    size: tuple[int, ...]
    mean: NDArray[np.float32] | None = None
    sd: NDArray[np.float32] | None = None
    dead: NDArray[np.bool_] | None = None


def look(network: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> dict[str, Seen]:
    """One pass of x (N, ...) in training mode that leaves no trace in the network.

    What enters an activation belongs to the layer that was called last before it, whatever lies
    between: the layer's own norm, a sum with a shortcut, or a concatenation with older features, of
    which all channels count. Of several activations between two layers the first counts.

    Norms that couple the batch use the statistics of this one, dropout is off, estimates stay as
    they are. A layer that is not called has no entry, one that is called again its last.
    """
    seen: dict[str, Seen] = {}
    last: list[str] = []

    def enter(name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        axes = 0 if isinstance(layer, nn.Linear) else given[0].dim() - 2
        seen[name] = Seen(tuple(given[0].shape[given[0].dim() - axes :]))
        last[:] = [name]

    def activate(activation: nn.Module, given: tuple[Any, ...]) -> None:
        if last and seen[last[0]].mean is None:
            _note(seen[last[0]], given[0])

    with ExitStack() as stack:
        stack.enter_context(rng.untouched())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_as_in_training(network))
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(
                lambda module, given, name=name: enter(name, module, given)
            )
            stack.callback(hook.remove)
        for module in network.modules():
            if isinstance(module, ACTIVATIONS):
                stack.callback(module.register_forward_pre_hook(activate).remove)
        network.forward(x)  # not a compiled one, which would be compiled anew for the hooks
    return seen


def _note(seen: Seen, x: Tensor) -> None:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean = x.mean(axes, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    # In two passes: torch's var_mean takes ten times as long.
    sd = (x - mean).square_().mean(axes).sqrt()
    mean = mean.flatten()
    sd[sd <= ROUNDING * mean.abs()] = 0
    seen.mean, seen.sd = mean.float().cpu().numpy(), sd.float().cpu().numpy()
    seen.dead = (x.amax(axes) <= 0).cpu().numpy()


@contextmanager
def _as_in_training(network: nn.Module) -> Iterator[None]:
    """Training mode but for dropout, running statistics and what would improve an estimate."""
    before = [(module, module.training) for module in network.modules()]
    try:
        network.train()
        for module, _ in before:
            own = getattr(module, "weight_norm", None)
            if isinstance(own, nn.Module):
                own.eval()
            if isinstance(module, _DropoutNd):
                module.eval()
        with statistics(network, "batch"):
            yield
    finally:
        for module, training in before:
            module.train(training)  # a norm then restores what it estimated for eval


def figures(seen: Seen, first_mean: NDArray[np.float32] | None) -> dict[str, float]:
    """preactivation_mean, _sd, offset, drift, drift_signed and dead of one layer.

    first_mean: (C,) that the drift is from; None: from these themselves. Channels that do not vary
    have no offset and no drift; where no channel varies both are NaN.
    """
    if seen.mean is None or seen.sd is None or seen.dead is None:
        return {}
    varies = seen.sd > 0
    moved = np.zeros_like(seen.mean) if first_mean is None else seen.mean - first_mean
    moved = moved[varies] / seen.sd[varies]
    return {
        "preactivation_mean": float(seen.mean.mean()),
        "preactivation_sd": float(seen.sd.mean()),
        "offset": _mean(np.abs(seen.mean[varies]) / seen.sd[varies]),
        "drift": _mean(np.abs(moved)),
        "drift_signed": _mean(moved),
        "dead": float(seen.dead.mean()),
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")
