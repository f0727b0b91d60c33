"""The loop that one writes first, as the baseline of `bench step`.

PyTorch's spectral norm on every layer of the critic, float32, torch's own memory layout, real and
fake images in passes of their own, the critic not frozen in the generator's half, no moving
average. Networks, loss, latents, optimizers and batch are those of configs/cifar_msn.yaml.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from msngan.bench.references import parametrised, seeded
from msngan.bench.settings import SIZE, Settings
from msngan.networks import Critic, Generator

LATENT_DIM = 128


class PlainLoop:
    """step(real) trains both networks once. real: (N, 3, SIZE, SIZE), float32 in [-1, 1]."""

    def __init__(self, settings: Settings) -> None:
        width, self.device = settings.width, settings.device
        generator = seeded(lambda: Generator(LATENT_DIM, width, 3, SIZE))
        critic = seeded(lambda: parametrised(Critic("none", width)))
        self.generator, self.critic = generator.to(self.device), critic.to(self.device)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=2e-4, betas=(0.5, 0.999)
        )

    def step(self, real: Tensor) -> None:
        ones = torch.ones(len(real), device=self.device)
        with torch.no_grad():
            fake = self.generator(self._latents(len(real)))
        self.critic_optimizer.zero_grad()
        loss = cross_entropy(self.critic(real), ones) + cross_entropy(self.critic(fake), 1 - ones)
        loss.backward()
        self.critic_optimizer.step()

        fake = self.generator(self._latents(len(real)))
        self.generator_optimizer.zero_grad()
        cross_entropy(self.critic(fake), ones).backward()
        self.generator_optimizer.step()

    def _latents(self, count: int) -> Tensor:
        return torch.randn(count, LATENT_DIM, device=self.device)
