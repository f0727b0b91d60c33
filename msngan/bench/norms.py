"""`bench norms`: the critic's forward and backward pass under each norm, relative to no norm.

Besides the times, it counts what does not vary between runs (operations, memory) and gives lower
bounds on the time. They count only the memory traffic and the products that a norm cannot avoid,
with W the weights and A the outputs of the convolutions, read or written once:

- Spectral norm, once per update: 8 W. Two products with a vector; two to divide, two for the inner
  product in the gradient and two to subtract it.
- Batch norm: 3 A besides the activation's own. One for its statistics, two in its gradient.
- Centring: 3 A as it is written, or 2 W by mean(conv(x, W)) = W mean(patches of x).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from msngan.bench.references import DESCRIPTIONS, NAIVE, REFERENCES, TORCH, built, layers_of
from msngan.bench.settings import SIZE, NormSettings
from msngan.bench.timing import Clock, Progress, interleaved, observed, ratio
from msngan.networks import frozen
from msngan.networks.build import CRITICS
from msngan.norms import NORMS, NormLayer, SigmaBank, statistics

BASELINE = "none"
CONTIGUOUS = (BASELINE, "batch", "spectral", "mean_spectral", TORCH)  # also in torch's own layout
OWN = "own work of "
COPY_BYTES = {"cpu": 2**26, "cuda": 2**28}  # more than any cache holds
# Passes over weights, passes over activations, products of a weight with a vector.
NEEDS = {
    "spectral": (8, 0, 2),
    "mean_spectral": (10, 0, 4),
    "mean_spectral, mean of the outputs": (8, 3, 2),
    "batch": (0, 3, 0),
}


class Variant:
    """A critic under a norm of NORMS or under a reference, in one memory layout."""

    def __init__(self, norm: str, settings: NormSettings, *, contiguous: bool = False) -> None:
        self.norm, self.settings = norm, settings
        self.name = f"{norm}, contiguous" if contiguous else norm
        self.layout = torch.contiguous_format if contiguous else torch.channels_last
        self.reference = norm in REFERENCES
        make = CRITICS[settings.critic]
        critic = built(lambda norm: make(norm, settings.width), norm)
        self.critic = critic.to(settings.device).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.bank = SigmaBank(self.critic)

    def images(self, seed: int = 0, batches: int = 1) -> Tensor:
        """(batches x batch, 3, SIZE, SIZE) in [-1, 1]."""
        draw = torch.Generator().manual_seed(seed)
        shape = (batches * self.settings.batch, 3, SIZE, SIZE)
        made = torch.rand(shape, generator=draw) * 2 - 1
        return made.to(self.settings.device).contiguous(memory_format=self.layout)

    def autocast(self) -> torch.autocast:
        half = self.settings.dtype == "bfloat16"
        return torch.autocast(self.settings.device, torch.bfloat16, enabled=half)

    def forward_backward(self, images: Tensor) -> None:
        """Forward and backward once, and one update of the norm."""
        self.critic.zero_grad(set_to_none=True)
        with self.bank.shared(), self.autocast():
            total = self.critic(images).float().sum()
        total.backward()
        self.bank.update()

    def gan_step(self, real: Tensor, fake: Tensor, *, freeze: bool) -> None:
        """The critic's share of a step: passes of real and fake images, and the generator's.

        freeze: compute no gradients of the critic's weights in the generator's pass.
        """
        self.critic.zero_grad(set_to_none=True)
        fake = fake.detach()
        with self.bank.shared(), self.autocast():
            real_logits, fake_logits = self.critic(real), self.critic(fake)
            loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        loss.backward()
        self.bank.update()
        with ExitStack() as stack:
            if freeze:
                stack.enter_context(frozen(self.critic))
                stack.enter_context(statistics(self.critic, "batch"))
            with self.bank.shared(), self.autocast():
                loss = softplus(-self.critic(fake.requires_grad_())).mean()
            loss.backward()

    def own_work(self) -> OwnWork | None:
        """The norm's work on the weights alone; None if it does none."""
        layers = [
            part
            for part in self.critic.modules()
            if is_parametrized(part)
            or (isinstance(part, NormLayer) and part._modules.get("weight_norm") is not None)
        ]
        return OwnWork(self, layers) if layers else None


class OwnWork:
    """All that a norm does to the weights in one GAN step, without the passes.

    Ours: an update, the weights computed once, one gradient for the real and the fake pass, the
    weights of the generator's pass. PyTorch's: the weights and their gradient in each of three
    passes.
    """

    def __init__(self, variant: Variant, layers: list[Any]) -> None:
        self.variant, self.layers = variant, layers
        self.parameters = list(dict.fromkeys(p for each in layers for p in each.parameters()))
        self.gradients = [torch.randn_like(weight) for weight in self._weights()]

    def __call__(self) -> None:
        if self.variant.reference:
            for _ in range(3):
                self._gradient()
            return
        bank = self.variant.bank
        with bank.shared():
            self._gradient()
        bank.update()
        with frozen(self.variant.critic), bank.shared():
            self._weights()

    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]

    def _gradient(self) -> None:
        torch.autograd.grad(self._weights(), self.parameters, self.gradients, allow_unused=True)


def run(settings: NormSettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    variants = variants_of(settings)
    counts = [counted(variant) for variant in variants]
    measures = {}
    for variant in variants:
        shown = variant.images()
        measures[variant.name] = clock.repeated(partial(variant.forward_backward, shown))
        work = variant.own_work()
        if work is not None and variant.norm != NAIVE:
            measures[OWN + variant.name] = clock.repeated(work)
    seconds = interleaved(measures, settings.rounds, progress)
    rows = [
        {
            "name": variant.name,
            "norm": variant.norm,
            "kind": "reference" if variant.reference else "norm",
            "layout": "contiguous" if variant.name.endswith("contiguous") else "channels_last",
            "parameters": sum(each.numel() for each in variant.critic.parameters()),
            "ratio": ratio(seconds[variant.name], seconds[BASELINE]),
            "seconds": seconds[variant.name],
            "own_work": _own_work(seconds, variant.name),
        }
        | against(variant, each, counts[0])
        for variant, each in zip(variants, counts, strict=True)
    ]
    return {
        "baseline": BASELINE,
        "results": rows,
        "lower_bounds": _lower_bounds(variants[0], seconds[BASELINE], clock),
        "references": DESCRIPTIONS,
    }


def variants_of(settings: NormSettings) -> list[Variant]:
    """`none` first, the other norms, the references; then some of them in torch's own layout."""
    names = list(dict.fromkeys([BASELINE, *(settings.norms or NORMS), *REFERENCES]))
    made = [Variant(name, settings) for name in names]
    return made + [Variant(name, settings, contiguous=True) for name in names if name in CONTIGUOUS]


def _own_work(seconds: dict[str, list[float]], name: str) -> dict[str, Any] | None:
    """less_than_torch: time of torch's spectral norm over it; of_pass: share of a pass of none."""
    own = seconds.get(OWN + name)
    if own is None:
        return None
    less = ratio(seconds[OWN + TORCH], own)
    return {"seconds": own, "less_than_torch": less, "of_pass": ratio(own, seconds[BASELINE])}


def counted(variant: Variant) -> dict[str, int]:
    """Operations of a pass and of a GAN step, and bytes of a pass.

    peak: the most that is alive at once; peak_activations: the part that grows with the batch.
    """
    real, fake = variant.images(0), variant.images(1)
    variant.forward_backward(real)  # work that only a first pass does is not counted
    variant.gan_step(real, fake, freeze=True)
    actions = {
        "pass": lambda: variant.forward_backward(real),
        "frozen step": lambda: variant.gan_step(real, fake, freeze=True),
        "step": lambda: variant.gan_step(real, fake, freeze=False),
    }
    found = {name: observed(action).operations.total() for name, action in actions.items()}
    live = []
    for batches in (1, 2):
        shown = variant.images(batches=batches)
        variant.bank.update()  # frees what the norm keeps between passes
        variant.critic.zero_grad(set_to_none=True)
        live.append(observed(partial(variant.forward_backward, shown)).live)
    # Both batches take the same operations, so the difference after each is the activations.
    growth = max(two - one for one, two in zip(*live, strict=True))
    return found | {"peak": max(live[0]), "peak_activations": growth}


def against(variant: Variant, found: dict[str, int], plain: dict[str, int]) -> dict[str, Any]:
    """Operations beyond those of `plain`, and memory as a ratio to it.

    Ours with the critic frozen in the generator's pass, PyTorch's without, as in a plain loop.
    """
    step = "step" if variant.reference else "frozen step"
    memory = {name: found[name] for name in ("peak", "peak_activations")}
    return {
        "operations": {
            name: {"extra": found[key] - plain[key], "total": found[key]}
            for name, key in (("pass", "pass"), ("step", step))
        },
        "memory": memory | {"ratio": {name: memory[name] / plain[name] for name in memory}},
    }


def _lower_bounds(plain: Variant, seconds: list[float], clock: Clock) -> dict[str, Any]:
    """bandwidth: bytes a second of a large copy, read and written; flops: of none's own pass."""
    settings = plain.settings
    shown = plain.images()
    flops = flops_of(partial(plain.forward_backward, shown)) / min(seconds)
    source = torch.ones(COPY_BYTES[settings.device] // 4, device=settings.device)
    target = torch.zeros_like(source)
    fastest = min(clock.seconds(lambda: target.copy_(source)) for _ in range(8))
    bandwidth = 2 * source.nbytes / fastest
    weights, outputs = sizes(plain.critic, shown)
    activations = outputs * (2 if settings.dtype == "bfloat16" else 4)
    found = lower_bounds(weights, activations, median(seconds), bandwidth, flops)
    return {"bandwidth": bandwidth, "flops": flops, "norms": found}


def lower_bounds(
    weights: int, activations: int, seconds: float, bandwidth: float, flops: float
) -> dict[str, dict[str, float]]:
    """The bound of each entry of NEEDS; ratio: the least time of a pass over that of `none`.

    weights: numbers, stored in float32; activations: bytes; seconds: of a pass under `none`;
    bandwidth: bytes a second; flops: operations a second.
    """
    found = {}
    for name, (over_weights, over_activations, products) in NEEDS.items():
        moved = over_weights * 4 * weights + over_activations * activations
        work = 2 * products * weights
        extra = moved / bandwidth + work / flops
        found[name] = {"bytes": moved, "flops": work, "ratio": 1 + extra / seconds}
    return found


def flops_of(action: Any) -> int:  # noqa: ANN401  a function
    """Floating-point operations of products and convolutions; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def sizes(critic: nn.Module, images: Tensor) -> tuple[int, int]:
    """(numbers in all weights, numbers in the outputs of all convolutions)."""
    outputs: list[int] = []
    layers = layers_of(critic).values()
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, made: outputs.append(made.numel()))
        for layer in layers
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        critic(images)
    for hook in hooks:
        hook.remove()
    return sum(layer.weight.numel() for layer in layers), sum(outputs)
