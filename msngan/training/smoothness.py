"""How smooth a network's loss is along its gradient.

Santurkar et al. 2018, arXiv:1805.11604, section 3.1: from the weights x along minus the gradient g
of a loss on a fixed batch, at the points x - s r g, with r the learning rate that the run begins
with and s in STEPS:

    loss_range: the largest less the smallest loss of all points, x among them
    gradient_change: the largest |g(point) - g| / |g|, their "gradient predictiveness"
    beta_smoothness: the largest |g(point) - g| / |point - x|

It is the raw gradient, also where the optimizer (Adam) takes another direction, and all parameters
are one vector. Networks are as in training, with the statistics of the batch and without dropout;
of a norm's estimate of sigma the vectors are constant, as in the gradient (equation 9 of
arXiv:1907.04003). All is computed in the precision of the weights: in float32 a range below 1e-7
of the loss, or a change below 1e-6, is rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from math import isfinite, nan

import torch
from torch import Tensor, nn

from msngan.norms import WeightPart, parts_of, stored
from msngan.runs import rng
from msngan.training.activations import as_in_training

STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)  # learning rates

Loss = Callable[[nn.Module], Tensor]


def smoothness(network: nn.Module, loss: Loss, rate: float) -> dict[str, float]:
    """loss_range, gradient_change and beta_smoothness of loss(network), a scalar.

    The network, its gradients and all random streams stay as they are: a copy moves.
    """
    twin = copy.deepcopy(network)
    parts = [each for each in parts_of(twin) if isinstance(each[2], WeightPart)]

    def here() -> Tensor:
        for layer, name, part in parts:
            assert isinstance(part, WeightPart)
            part.lend(part.normalised(stored(layer, name)))
        return loss(twin)

    with rng.untouched(), torch.enable_grad(), as_in_training(twin):
        return along_gradient(here, [p for p in twin.parameters() if p.requires_grad], rate)


def along_gradient(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], rate: float
) -> dict[str, float]:
    """The same of any scalar loss of these weights, which are left at the last point.

    NaN where the gradient is zero, or something is not finite.
    """
    start = [weight.detach().clone() for weight in weights]

    def here() -> tuple[float, list[Tensor]]:
        value = loss()
        found = torch.autograd.grad(value, list(weights), materialize_grads=True)
        return float(value.detach()), list(found)

    value, gradient = here()
    size, losses, changes, betas = _length(gradient), [value], [0.0], [0.0]
    if not (isfinite(size) and size > 0):
        return dict.fromkeys(("loss_range", "gradient_change", "beta_smoothness"), nan)
    for step in STEPS:
        with torch.no_grad():
            for weight, x, g in zip(weights, start, gradient, strict=True):
                weight.copy_(x - step * rate * g)
        value, other = here()
        change = _length([a - b for a, b in zip(other, gradient, strict=True)])
        losses.append(value)
        changes.append(change / size)
        betas.append(change / (step * rate * size))
    found = {
        "loss_range": max(losses) - min(losses),
        "gradient_change": max(changes),
        "beta_smoothness": max(betas),
    }
    finite = all(map(isfinite, (*losses, *changes)))
    return found if finite else dict.fromkeys(found, nan)


def _length(tensors: Sequence[Tensor]) -> float:
    """Of all of them as one vector."""
    norms = torch.stack([torch.linalg.vector_norm(each) for each in tensors]).cpu()
    return float(norms.double().square().sum().sqrt())  # not on the device: MPS has no float64
