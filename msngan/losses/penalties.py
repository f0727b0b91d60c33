"""PENALTIES: what keeps the critic smooth, besides its norm.

A penalty is a function of (critic, real, fake, draw) that returns a scalar, higher for a rougher
critic. real and fake are float32 images (N, C, H, W) in [-1, 1], draw is a torch.Generator on their
device. The critic must score each image by itself here: under a norm that couples the batch, the
gradient of one score reaches the other images, so the caller fixes such statistics first
(`msngan.norms.statistics(critic, "running")`). All of it runs in float32, outside autocast.

A penalty of logits is a function of what an update has computed already, a `ScoredBatch`. It takes
no gradient in the images, so it may run under autocast and torch.compile. See `regularisers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd

from msngan.losses.regularisers import consistency, lecam, track_logits
from msngan.norms import SpectralNorm, stored
from msngan.norms.parts import widened
from msngan.runs import distributed as processes

Score = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> logits (N,)


@dataclass(frozen=True)
class ScoredBatch:
    """What a critic update has computed when its penalties are taken.

    real, fake: images (n, C, H, W) of this process. real_logits, fake_logits: their logits, at
    least float32, of all processes, with their graph. again: the logits of other images in place of
    these, scored likewise (joint or separate batches, these labels), which leaves running
    statistics alone. draw: as of every penalty.
    """

    critic: nn.Module
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    again: Callable[[Tensor, Tensor], list[Tensor]]
    draw: Generator


@dataclass(frozen=True)
class Penalty:
    """value: the term of the loss, if any. project: done to the critic after each of its updates.

    weight: the source's own; for a projection, its bound. prepare: done once to a new critic, which
    then carries what the value needs. of_weights: the value sees the critic's weights alone, no
    images, and needs no second derivative. of_logits: a term too, of the logits that the update has
    computed, in place of `value`.
    """

    value: Callable[[Score, Tensor, Tensor, Generator], Tensor] | None = None
    project: Callable[[nn.Module, float], None] | None = None
    weight: float = 0.0
    prepare: Callable[[nn.Module], None] | None = None
    of_weights: bool = False
    of_logits: Callable[[ScoredBatch], Tensor] | None = None

    @property
    def is_term(self) -> bool:
        """Whether it adds a term to the critic's loss."""
        return self.value is not None or self.of_logits is not None


def gradient_norms(critic: Score, images: Tensor) -> Tensor:
    """|d D(x) / d x|, (N,), differentiable in the critic's weights."""
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        scores = critic(widened(images))
        (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    # The tiny constant keeps the square root differentiable where the critic is flat.
    return slope.flatten(1).square().sum(1).add(1e-24).sqrt()


def between(real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """One point on the segment of each pair, uniformly."""
    share = processes.uniform((len(real), 1, 1, 1), draw, real.device)
    return torch.lerp(real.detach(), fake.detach(), share)


def gradient(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """E (|grad D| - 1)^2 between real and fake. Gulrajani et al. 2017, arXiv:1704.00028, eq. 3."""
    return (gradient_norms(critic, between(real, fake, draw)) - 1).square().mean()


def lipschitz(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """E max(0, |grad D| - 1)^2: one-sided. Petzka et al. 2018, arXiv:1709.08894, equation 8."""
    return (gradient_norms(critic, between(real, fake, draw)) - 1).relu().square().mean()


def r1(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """E |grad D(x)|^2 / 2 at real images. Mescheder et al. 2018, arXiv:1801.04406, equation 9."""
    return gradient_norms(critic, real).square().mean() / 2


def r2(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """E |grad D(x)|^2 / 2 at fake images. Mescheder et al. 2018, equation 10."""
    return gradient_norms(critic, fake).square().mean() / 2


def dragan(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """E (|grad D| - 1)^2 near real images. Kodali et al. 2017, arXiv:1705.07215, section 2.3.

    A point is x + a * (sd(x) / 2) * e, with a and each entry of e uniform in [0, 1], as in the
    authors' code; sd is that of all the batch's pixels.
    """
    share = processes.uniform((len(real), 1, 1, 1), draw, real.device)
    noise = processes.uniform(tuple(real.shape), draw, real.device)
    near = real.detach() + share * processes.deviation(real.detach()) / 2 * noise
    return (gradient_norms(critic, near) - 1).square().mean()


def spectral_penalty(critic: Score, real: Tensor, fake: Tensor, draw: Generator) -> Tensor:
    """Sum of sigma(W)^2 / 2 over the layers. Yoshida & Miyato 2017, arXiv:1705.10941.

    sigma is that of the weight as a matrix; its estimate is iterated on each call in training. The
    images are not looked at. Raises ValueError for a critic that `estimate_sigmas` has not
    prepared.
    """
    assert isinstance(critic, nn.Module)
    layers = [layer for layer in critic.modules() if hasattr(layer, "sigma_estimate")]
    if not layers:
        raise ValueError("spectral_penalty needs a prepared critic; call estimate_sigmas(critic)")
    sigmas = []
    for layer in layers:
        weight, estimate = stored(layer), layer.sigma_estimate
        assert isinstance(estimate, SpectralNorm)
        if critic.training:
            estimate.iterate(weight)
        sigmas.append(estimate.sigma(weight))
    return torch.stack(sigmas).square().sum() / 2


def estimate_sigmas(critic: nn.Module) -> None:
    """Hang an estimate of sigma, `sigma_estimate`, on each convolution and linear layer."""
    for layer in list(critic.modules()):
        if isinstance(layer, (_ConvNd, nn.Linear)):
            layer.sigma_estimate = SpectralNorm.of(layer)


@torch.no_grad()
def clip(critic: nn.Module, bound: float) -> None:
    """Clamp all weights to [-bound, bound]. Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1."""
    torch._foreach_clamp_min_(list(critic.parameters()), -bound)
    torch._foreach_clamp_max_(list(critic.parameters()), bound)


PENALTIES: dict[str, Penalty] = {
    "none": Penalty(),
    "gradient": Penalty(gradient, weight=10.0),
    "lipschitz": Penalty(lipschitz, weight=10.0),
    "r1": Penalty(r1, weight=10.0),
    "r2": Penalty(r2, weight=10.0),
    "dragan": Penalty(dragan, weight=10.0),
    "clip": Penalty(project=clip, weight=0.01),
    "spectral_penalty": Penalty(
        spectral_penalty, weight=0.01, prepare=estimate_sigmas, of_weights=True
    ),
    "consistency": Penalty(of_logits=consistency, weight=10.0),
    "lecam": Penalty(of_logits=lecam, weight=0.3, prepare=track_logits),
}

if TYPE_CHECKING:
    PenaltyName = str
else:
    PenaltyName = Literal[tuple(PENALTIES)]
