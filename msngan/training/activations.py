"""What enters the activations of a network, looked at without a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from msngan.networks.sampling import applied
from msngan.norms import statistics
from msngan.runs import rng

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
ROUNDING = 1e-6  # an sd below this share of the mean is that of a constant in float32


@dataclass
class Seen:
    """Of one layer in one pass: the size of its input, and what enters the activation after it.

    size: without batch and channels; () for a linear layer. mean, sd: (C,) float32 over all other
    axes, the population's sd. dead: (C,) bool, nowhere above 0. None: no activation follows.
    """

    size: tuple[int, ...]
    mean: NDArray[np.float32] | None = None
    sd: NDArray[np.float32] | None = None
    dead: NDArray[np.bool_] | None = None

    def note(self, x: Tensor) -> None:
        """x (N, C, ...) enters the activation."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean = x.mean(axes, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        # Two passes, because torch's var_mean takes ten times as long.
        sd = (x - mean).square_().mean(axes).sqrt()
        mean = mean.flatten()
        sd[sd <= ROUNDING * mean.abs()] = 0
        self.mean, self.sd = mean.float().cpu().numpy(), sd.float().cpu().numpy()
        self.dead = (x.amax(axes) <= 0).cpu().numpy()


def look(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    x: Tensor,
    labels: Tensor | None = None,
) -> dict[str, Seen]:
    """One pass of x (N, ...) in training mode that leaves no trace in the network.

    What enters an activation belongs to the layer called last before it, whatever lies between: the
    layer's own norm, a sum with a shortcut, or a concatenation with older features, of which all
    channels count. The first of several activations between two layers counts.

    Batch-coupled norms use the statistics of this batch, dropout is off, estimates stay as they
    are. A layer that is not called has no entry; one that is called again has its last.
    """
    seen: dict[str, Seen] = {}
    last: list[str] = []

    def enter(name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        axes = 0 if isinstance(layer, nn.Linear) else given[0].dim() - 2
        seen[name] = Seen(tuple(given[0].shape[given[0].dim() - axes :]))
        last[:] = [name]

    def activate(activation: nn.Module, given: tuple[Any, ...]) -> None:
        if last and (entry := seen[last[0]]).mean is None:
            entry.note(given[0])

    with ExitStack() as stack, rng.untouched(), torch.no_grad(), as_in_training(network):
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(partial(enter, name))
            stack.callback(hook.remove)
        for module in network.modules():
            if isinstance(module, ACTIVATIONS):
                stack.callback(module.register_forward_pre_hook(activate).remove)
        # Not by a call: a compiled network would be compiled again because of the hooks.
        applied(network.forward, x, labels)
    return seen


@contextmanager
def as_in_training(network: nn.Module) -> Iterator[None]:
    """Training mode without dropout, moving running statistics or updates of estimates."""
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
            module.train(training)  # a norm then restores its estimate for eval


def figures(seen: Seen, first_mean: NDArray[np.float32] | None) -> dict[str, float]:
    """preactivation_mean, _sd, offset, drift, drift_signed and dead of one layer.

    first_mean: (C,), from which the drift is measured; None: from these means. Channels that do not
    vary have no offset and no drift; if no channel varies, both are NaN.
    """
    if seen.mean is None or seen.sd is None or seen.dead is None:
        return {}
    varies = seen.sd > 0
    moved = np.zeros_like(seen.mean) if first_mean is None else seen.mean - first_mean
    moved = moved[varies] / seen.sd[varies]

    def mean(values: NDArray[Any]) -> float:
        return float(values.mean(dtype=np.float64)) if len(values) else nan

    return {
        "preactivation_mean": float(seen.mean.mean()),
        "preactivation_sd": float(seen.sd.mean()),
        "offset": mean(np.abs(seen.mean[varies]) / seen.sd[varies]),
        "drift": mean(np.abs(moved)),
        "drift_signed": mean(moved),
        "dead": float(seen.dead.mean()),
    }
