"""What a norm is, and how batch-coupled norms are told which statistics to use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from msngan.norms.centring import Centring


@dataclass(frozen=True)
class Norm:
    """One entry of NORMS.

    weight: makes, for a layer and the name of one of its weights, the module that maps the stored
        weight to the one that the layer computes with: a WeightPart, or any module of one tensor.
    output: makes, for a layer, the module that its output goes through.
    cancels_bias: the output part removes or replaces any constant per channel, so that a bias of
        the layer would be dead (its gradient is rounding noise, which Adam turns into a random
        walk) or double.
    options: makes this norm with other options, its keyword arguments; None where it has none.
    """

    weight: Callable[[nn.Module, str], nn.Module] | None = None
    output: Callable[[nn.Module], nn.Module] | None = None
    cancels_bias: bool = False
    options: Callable[..., Norm] | None = None

    def __post_init__(self) -> None:
        assert self.output or not self.cancels_bias

    def configured(self, **options: Any) -> Norm:
        """This norm with options by name. Raises ValueError for one that it does not have."""
        known = list(signature(self.options).parameters) if self.options else []
        for name in options:
            if name not in known:
                has = f"its options are {', '.join(known)}" if known else "it has none"
                raise ValueError(f"this norm has no option {name!r}; {has}")
        return self.options(**options) if options and self.options else self


def outputs_of(layer: nn.Module) -> tuple[int, int]:
    """How many channels a layer puts out, and along which axis."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels, 1
    assert isinstance(layer, (nn.Linear, nn.Bilinear))
    return layer.out_features, -1


# Modules whose output for one sample depends on the rest of the batch, in training.
BATCH_COUPLED = (_BatchNorm, Centring)


def is_batch_coupled(module: nn.Module) -> bool:
    """Whether in training the output for one sample depends on the others."""
    return any(isinstance(part, BATCH_COUPLED) for part in module.modules())


@contextmanager
def statistics(module: nn.Module, mode: Literal["batch", "running", "last"]) -> Iterator[None]:
    """What the batch-coupled norms of a training module do inside the block.

    "batch": centre with the minibatch as always, but leave the running statistics alone. For the
        generator's pass through the critic: only the critic's own real and fake passes move them.
    "running": use the running statistics, as in eval, and leave them alone. The critic is then a
        function of one image, which is what a gradient penalty assumes.
    "last": subtract the means of each layer's last training batch, as constants. Only for norms
        that centre; batch norm keeps no such statistics, and ValueError says so.
    """
    coupled = [part for part in module.modules() if isinstance(part, BATCH_COUPLED)]
    if mode == "last" and any(isinstance(part, _BatchNorm) for part in coupled):
        raise ValueError("batch norm keeps no statistics of its last batch; use those of this one")
    before = [(part.training, part.track_running_stats) for part in coupled]
    try:
        for part in coupled:
            if mode == "running":
                part.training = False
            else:
                part.track_running_stats = False
            if mode == "last":
                assert isinstance(part, Centring)
                part.fixed_mean = part.last_mean
        yield
    finally:
        for part, (training, track) in zip(coupled, before, strict=True):
            part.training, part.track_running_stats = training, track
            if mode == "last":
                part.fixed_mean = None


def synchronise(module: nn.Module) -> None:
    """Let every norm that couples the batch use the batches of all processes, in training.

    One process's arithmetic on the same global batch is the measure; for one process nothing
    changes. torch's own batch norms, in a network of another's making, stay as they are.
    """
    for part in module.modules():
        if hasattr(part, "sync"):
            part.sync = True  # type: ignore[assignment]


def own_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The running statistics that each process moves by its own batches alone."""
    for part in module.modules():
        if isinstance(part, BATCH_COUPLED) and not getattr(part, "sync", False):
            yield from part.buffers(recurse=False)
