"""Optional spectral normalisation: a gate per layer, switched by a criterion while training.

A layer computes with W where its gate is off and with W / sigma where it is on (Miyato et al. 2018,
arXiv:1802.05957). Texts on "optional" spectral normalisation do not say what decides; here it is a
named criterion with hysteresis. Switching off divides the weight by sigma, so that the function
does not change; switching on scales it by 1 / sigma. The norm `spectral` is always on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from random import Random
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from msngan.norms.parts import Entries, Norm, WeightPart
from msngan.norms.spectral import SpectralNorm

# The default thresholds of each criterion: on above the first, off below the second.
CRITERIA = {"sigma": (1.1, 0.9), "gradient_norm": (2.0, 1.0), "random": (0.9, 0.1)}
# What an optimizer keeps of a weight's gradient, and its power: Adam, RMSprop and SGD. The momentum
# of RMSprop is of steps, which do not depend on the gradients' scale.
MOMENTS = {
    **{"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "grad_avg": 1},
    "momentum_buffer": 1,
}


class OptionalSpectralNorm(WeightPart):
    """Map a weight W to itself or to W / sigma(W), as the gate is off or on.

    Buffers: on (), bool, the gate; average (), the running average of gradient norms; count (),
    int64, the number of norms in it, or for random gates of draws, from a random start.

    In training `iterate` decides: under a SigmaBank once per update, without one in the first
    forward after a step (except a fused optimizer's, which is not visible). Each switch adds a
    record to `decisions`: on, criterion, value, sigma. `rescale` is called with the weight and the
    factor by which its gradients are multiplied from then on.
    """

    precise = ("average",)
    on: Tensor
    average: Tensor
    count: Tensor
    _on: bool
    _count: int

    def __init__(
        self,
        estimate: SpectralNorm,
        *,
        criterion: str,
        above: float,
        below: float,
        start: bool,
        memory: int,
    ) -> None:
        super().__init__()
        self.criterion, self.above, self.below, self.memory = criterion, above, below, memory
        self.estimate = estimate
        device = estimate.u.device
        self.register_buffer("on", torch.tensor(start, device=device))
        self.register_buffer("average", estimate.last_sigma.new_zeros(()))
        # Another number for each layer, without a draw from torch's generator: all norms start
        # from the same weights.
        drawn = criterion == "random" and not estimate.u.is_meta
        count = crc32(estimate.u.cpu().numpy().tobytes()) if drawn else 0
        self.register_buffer("count", torch.tensor(count, device=device))
        self._mirror()
        self.decisions: list[dict[str, Any]] = []
        self.rescale: Callable[[Tensor, float], None] | None = None
        self._decided: int | None = None  # version of the weight at the last decision

    @classmethod
    def of(cls, layer: nn.Module, name: str = "weight", **options: Any) -> OptionalSpectralNorm:
        """The gate of a weight of a torch layer."""
        return cls(SpectralNorm.of(layer, name), **options)

    def extra_repr(self) -> str:
        return f"criterion={self.criterion}, on above {self.above}, off below {self.below}"

    def normalised(self, weight: Tensor) -> Tensor:
        """W / sigma or W (a view of it), differentiable in W; writes nothing."""
        return self.estimate.normalised(weight) if self._on else weight.view_as(weight)

    def quotient(self, weight: Tensor) -> Tensor:
        return self.estimate.quotient(weight) if self._on else weight.view_as(weight)

    def loaded(self, weight: Tensor) -> None:
        self._mirror()
        super().loaded(weight)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Improve sigma in place, then decide; a gate that goes off divides the weight by sigma."""
        decide([(self, weight, self.measured(weight))])

    @torch.no_grad()
    def measured(self, weight: Tensor) -> Tensor | float | None:
        """Improve sigma in place; what the criterion compares, None where nothing is decided."""
        self.estimate.iterate(weight)
        if not self.training or torch.compiler.is_compiling():
            return None  # compiled code cannot branch on a value: there the bank decides
        if not self.managed and self._decided == weight._version:
            return None
        self._decided = weight._version
        if self.criterion == "sigma":
            return self.estimate.last_sigma
        if self.criterion == "random":
            self._advance()
            return Random(self._count).random()
        return None if weight.grad is None else self._ratio(weight.grad)

    def _ratio(self, gradient: Tensor) -> Tensor | None:
        """The gradient's norm over its average so far; None until that has `memory` norms."""
        norm = torch.linalg.vector_norm(gradient, dtype=self.average.dtype)
        if self._on:  # of the normed weight, so that both states compare
            norm = norm * self.estimate.last_sigma
        known = self._count >= self.memory
        value = norm / self.average.clamp_min(1e-12) if known else None
        self._advance()
        self.average.lerp_(norm, 1 / min(self._count, self.memory))
        return value

    def _advance(self) -> None:
        self._count += 1
        self.count.fill_(self._count)

    def decide(self, weight: Tensor, value: float) -> None:
        """Switch if the value has passed the bound."""
        if not (value < self.below if self._on else value > self.above):
            return
        sigma = self.estimate.last_sigma.item()
        self._on = not self._on
        self.on.fill_(self._on)
        if not self._on:
            weight.div_(sigma)
            self.estimate.last_sigma.fill_(1.0)
        if self.rescale is not None:
            self.rescale(weight, 1 / sigma if self._on else sigma)
        self._decided = weight._version
        self.decisions.append(
            {"on": self._on, "criterion": self.criterion, "value": value, "sigma": sigma}
        )

    def _mirror(self) -> None:
        # Copies in Python: reading a buffer in each pass would make a GPU wait.
        known = not self.on.is_meta
        self._on, self._count = known and bool(self.on), int(self.count) if known else 0

    def __deepcopy__(self, memo: dict[int, object]) -> OptionalSpectralNorm:
        memo[id(self.rescale)] = None  # the copy's weight is in no optimizer
        return super().__deepcopy__(memo)


def decide(found: Sequence[tuple[OptionalSpectralNorm, Tensor, Tensor | float | None]]) -> None:
    """Let gates decide on what `measured` gave for their weights, which is read at once."""
    read: list[Any] = [value for _, _, value in found]
    places = [place for place, value in enumerate(read) if isinstance(value, Tensor)]
    if places:
        values = torch.stack([read[place] for place in places]).tolist()
        for place, value in zip(places, values, strict=True):
            read[place] = value
    for (gate, weight, _), value in zip(found, read, strict=True):
        if value is not None:
            gate.decide(weight, value)


def rescale_moments(optimizer: torch.optim.Optimizer, weight: Tensor, factor: float) -> None:
    """Scale the averages of a weight whose gradients are multiplied by `factor` from now on."""
    state = optimizer.state.get(weight, {})
    for name, power in MOMENTS.items():
        of_steps = name == "momentum_buffer" and "square_avg" in state
        if isinstance(state.get(name), Tensor) and not of_steps:
            state[name].mul_(factor**power)


def follow(parts: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Let the gates among `parts` rescale this optimizer's moments when they switch."""
    for part in parts:
        if isinstance(part, OptionalSpectralNorm):
            part.rescale = partial(rescale_moments, optimizer)


def gate_figures(parts: Iterable[nn.Module]) -> dict[str, Tensor]:
    """gates_on: (), float32, the number of gates that are on; empty if there are no gates."""
    gates = [part.on for part in parts if isinstance(part, OptionalSpectralNorm)]
    return {"gates_on": torch.stack(gates).sum().float()} if gates else {}


def optional_spectral(
    criterion: str = "sigma",
    on: float | None = None,
    off: float | None = None,
    start: bool = False,
    memory: int = 100,
) -> Norm:
    """Spectral normalisation with a gate per layer: it switches on above `on` and off below `off`.

    criterion: the value that is compared, and its default `on` and `off`.
        sigma (1.1, 0.9): sigma of the stored weight. `on` must be above 1, which is sigma after
        switching off. While a gate is on, the gradient is orthogonal to the weight, which therefore
        seldom shrinks: without weight decay such a gate seldom switches off.
        gradient_norm (2, 1): the gradient norm of the normed weight over its running average. It
        needs a SigmaBank, or gradients that are kept until the next forward.
        random (0.9, 0.1): a uniform number in [0, 1), as a baseline; a gate is on for a share
        (1 - on) / (1 - on + off) of the updates.
    start: whether the gates are on initially.
    memory: the number of updates in the average, and before the first decision.
    Raises ValueError for an unknown criterion and for numbers out of range.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
    above = CRITERIA[criterion][0] if on is None else on
    below = CRITERIA[criterion][1] if off is None else off
    if not 0 <= below < above < inf:
        raise ValueError(f"on {above} and off {below} must satisfy 0 <= off < on")
    if criterion == "sigma" and above <= 1:
        raise ValueError(f"on {above} must be above 1, which is sigma after switching off")
    if memory < 1:
        raise ValueError(f"memory {memory} is less than 1")
    kept: dict[str, Any] = {"criterion": criterion, "above": above, "below": below, "start": start}
    weight = partial(OptionalSpectralNorm.of, memory=memory, **kept)
    return Norm(weight=weight)


ENTRIES: Entries = {"optional_spectral": optional_spectral}
