"""The least that a norm can cost over `none`, from the bytes and products that it cannot avoid.

W is the weights and A the outputs of the normed convolutions, in passes of reading or writing them
once. Spectral norm, once per update, takes 8 W: one for each of two products with a vector, two to
divide, two for the inner product in the gradient and two to subtract from it. Batch norm takes 3 A
besides what the activation reads and writes anyway: one for its statistics, two for the sums in its
gradient. Centring takes 3 A as it is written, or 2 W if the mean is had from the mean of the
layer's input instead: mean(conv(x, W)) = W mean(patches of x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from msngan.bench.references import layers_of
from msngan.bench.rounds import Clock

COPY_BYTES = {"cpu": 2**26, "cuda": 2**28}  # more than any cache holds


@dataclass(frozen=True)
class Need:
    """Passes over weights and activations, and products of a weight with a vector."""

    weights: int = 0
    activations: int = 0
    products: int = 0


NEEDS = {
    "spectral": Need(weights=8, products=2),
    "mean_spectral": Need(weights=10, products=4),
    "mean_spectral, mean of the outputs": Need(weights=8, activations=3, products=2),
    "batch": Need(activations=3),
}


@dataclass(frozen=True)
class Machine:
    """bandwidth: bytes a second, read or written, of a large copy. flops: of `none`'s own pass."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Floor:
    """ratio: the least time of a pass with the norm over one without."""

    bytes: int
    flops: int
    ratio: float


def bandwidth(device: str, clock: Clock) -> float:
    """Bytes a second, read and written, of the fastest of some copies out of main memory."""
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    target = torch.zeros_like(source)
    fastest = min(clock.seconds(lambda: target.copy_(source)) for _ in range(8))
    return 2 * source.nbytes / fastest


def flops_of(action: Callable[[], object]) -> int:
    """Floating-point operations of products and convolutions, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def sizes(critic: nn.Module, images: Tensor, element: int) -> tuple[int, int]:
    """(numbers in all weights, bytes of all convolutions' outputs at `element` bytes a number)."""
    outputs: list[int] = []
    layers = layers_of(critic).values()
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, made: outputs.append(made.numel()))
        for layer in layers
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        critic(images)
    for hook in hooks:
        hook.remove()
    return sum(layer.weight.numel() for layer in layers), element * sum(outputs)  # type: ignore[operator,misc]


def floors(weights: int, activations: int, seconds: float, machine: Machine) -> dict[str, Floor]:
    """The floor of each entry of NEEDS. weights: numbers, kept in float32; activations: bytes;
    seconds: of a pass under `none`."""
    found = {}
    for name, need in NEEDS.items():
        moved = need.weights * 4 * weights + need.activations * activations
        flops = 2 * need.products * weights
        extra = moved / machine.bandwidth + flops / machine.flops
        found[name] = Floor(moved, flops, 1 + extra / seconds)
    return found


def as_record(machine: Machine, found: dict[str, Floor]) -> dict[str, object]:
    return {**asdict(machine), "norms": {name: asdict(floor) for name, floor in found.items()}}
