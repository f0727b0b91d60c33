"""While a critic trains, the largest singular value over its layers is at most 1.02 of its bound.

Measured in float64 by decompositions that share nothing with the norms' own estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn
from torch.linalg import matrix_norm

from msngan.bench.sigma import one_vector
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.norms import SigmaBank, bank, estimate, stored
from msngan.norms.layers import parts_of
from msngan.norms.operator import OperatorNorm
from msngan.norms.spectral import BidirectionalSpectralNorm

ALLOWED, STEPS, SIZE = 1.02, 40, 16
BLOCKS: WeakKeyDictionary[OperatorNorm, Tensor] = WeakKeyDictionary()

Change = Callable[[nn.Module], object]


@torch.no_grad()
def relative(layer: nn.Module, name: str, part: Any) -> float:
    """sigma of the weight that the layer computes with, over what its norm promises."""
    made = part.quotient(stored(layer, name)).double()
    if isinstance(part, OperatorNorm):
        return operator_sigma(part, made) / part.bound
    ways = [made, made.transpose(0, 1)]
    both = isinstance(part, BidirectionalSpectralNorm) and made.dim() > 2
    sigmas = [float(matrix_norm(way.flatten(1), 2)) for way in ways[: 1 + both]]
    return sum(sigmas) / len(sigmas) / part.scale


def operator_sigma(part: OperatorNorm, weight: Tensor) -> float:
    """By a block that goes on from step to step, of the norm's vector and noise; from below."""
    shape, block = part.v.shape[1:], BLOCKS.get(part)
    if block is None:
        draw = torch.Generator().manual_seed(0)
        block = torch.randn(5, *shape, generator=draw, dtype=torch.float64)
    block = torch.cat([part.v.double(), block])
    for _ in range(4):
        basis = torch.linalg.qr(block.flatten(1).mT)[0]
        block = part._there_and_back(basis.mT.reshape(-1, *shape), weight)
    BLOCKS[part] = block[:5]
    return float(matrix_norm(block.flatten(1) @ basis, 2).sqrt())


def trained(
    norm: str, *, joint: bool = False, banked: bool = True, change: Change | None = None
) -> float:
    """The largest of all steps and layers, in the critic's passes, for a GAN on small digits."""
    gan = GAN(norm=norm, width=8, latent_dim=16, channels=1, size=SIZE, seed=0)
    generator, critic, draw = gan.generator, gan.critic, torch.Generator().manual_seed(0)
    if change:
        change(critic)
    real = ImageData("digits", size=SIZE).real.float() / 127.5 - 1
    generator_optimizer, critic_optimizer = gan.configure_optimizers()
    updates = SigmaBank(critic) if banked else None
    found = 0.0
    for _ in range(STEPS + 1):
        batch = real[torch.randint(len(real), (16,), generator=draw)]
        fake = generator(torch.randn(16, 16, generator=draw))
        both = [torch.cat([batch, fake.detach()])] if joint else [batch, fake.detach()]
        with updates.shared() if updates else nullcontext():
            scores = torch.cat([critic(images) for images in both]).split(16)
            found = max(found, *(relative(*each) for each in parts_of(critic)))
            gan.loss.critic(*scores).backward()
        critic_optimizer.step()
        if updates:
            updates.update()
        gan.loss.generator(batch.new_empty(0), critic(fake)).backward()
        generator_optimizer.step()
        generator_optimizer.zero_grad()
        critic_optimizer.zero_grad()
    return found


@pytest.mark.parametrize(
    ("norm", "banked"),
    [
        ("mean_spectral", True),
        ("mean_spectral", False),
        ("bidirectional_scaled", True),
        ("spectral_clip", True),
        ("lipschitz_projection", True),
    ],
)
def test_no_layer_exceeds_its_bound_in_training(norm, banked):
    assert trained(norm, banked=banked) <= ALLOWED


def test_a_single_vector_with_a_single_iteration_does_not_keep_to_it():
    assert trained("spectral", change=one_vector) > 1.05


def test_where_values_are_not_looked_at_it_holds_too(monkeypatch):
    """As on a GPU, after a start on a CPU: a fixed number of iterations an update."""

    def blind(_: nn.Module) -> None:
        for module in (estimate, bank):
            monkeypatch.setattr(module, "looks", lambda _: False)

    assert trained("mean_spectral", joint=True, change=blind) <= ALLOWED
