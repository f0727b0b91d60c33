"""What is measured of one critic: its pass, its part of a GAN's step, its norm's own work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrize import is_parametrized

from msngan import norms
from msngan.bench.references import REFERENCES, layers_of, seeded
from msngan.bench.settings import Settings
from msngan.networks import Critic, frozen
from msngan.norms import NormLayer, SigmaBank


@dataclass
class Variant:
    """A critic to be measured. `reference`: it is PyTorch's, and used as plain loops use it."""

    name: str
    norm: str
    layout: str
    critic: nn.Module
    bank: SigmaBank
    settings: Settings
    reference: bool = False

    @classmethod
    def of(cls, norm: str, settings: Settings, *, contiguous: bool = False) -> Variant:
        """A norm of the table, or one of REFERENCES."""
        width, reference = settings.width, norm in REFERENCES
        plain = "none" if reference else norm
        critic = seeded(lambda: REFERENCES.get(norm, _as_it_is)(Critic(plain, width)))
        layout = "contiguous" if contiguous else "channels_last"
        critic.to(settings.device)
        if not contiguous:
            critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        name = f"{norm}, contiguous" if contiguous else norm
        return cls(name, norm, layout, critic, SigmaBank(critic), settings, reference)

    def laid_out(self, images: Tensor) -> Tensor:
        if self.layout == "contiguous":
            return images.contiguous()
        return images.contiguous(memory_format=torch.channels_last)

    def both_ways(self, images: Tensor) -> None:
        """Forward and backward once, and one update of the norm."""
        self.critic.zero_grad(set_to_none=True)
        self.forward(images).backward()
        self.bank.update()

    def forward(self, images: Tensor) -> Tensor:
        with self.bank.shared(), self.settings.autocast():
            return self.critic(images).float().sum()

    def gan_step(self, real: Tensor, fake: Tensor, *, freeze: bool) -> None:
        """The critic's share of a step: a pass of real and one of fake images, and the generator's.

        freeze: whether the critic's weights ask for no gradient in the generator's pass.
        """
        self.critic.zero_grad(set_to_none=True)
        fake = fake.detach()
        with self.bank.shared(), self.settings.autocast():
            real_logits, fake_logits = self.critic(real), self.critic(fake)
            loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        loss.backward()
        self.bank.update()
        with self._frozen(freeze):
            with self.bank.shared(), self.settings.autocast():
                loss = softplus(-self.critic(fake.requires_grad_())).mean()
            loss.backward()

    @contextmanager
    def _frozen(self, freeze: bool) -> Iterator[None]:
        if not freeze:
            yield
            return
        with frozen(self.critic), norms.statistics(self.critic, "batch"):
            yield

    def own_work(self) -> OwnWork | None:
        """The norm's work on weights alone; None where it has none or it cannot be had apart."""
        if self.reference:
            layers = [each for each in layers_of(self.critic).values() if is_parametrized(each)]
        else:
            layers = [part for part in self.critic.modules() if _has_weight_part(part)]
        return OwnWork(self, layers) if layers else None


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


def _has_weight_part(part: nn.Module) -> bool:
    return isinstance(part, NormLayer) and part._modules.get("weight_norm") is not None


class OwnWork:
    """All that a norm does to the weights in one GAN step, without the passes.

    Ours: an update, the weights made once, one gradient for the real and the fake pass, the weights
    of the generator's pass. PyTorch's: the weights made anew for each of three passes, with the
    gradient of each.
    """

    def __init__(self, variant: Variant, layers: list[nn.Module]) -> None:
        self.variant, self.layers = variant, layers
        self.parameters = list(dict.fromkeys(p for each in layers for p in each.parameters()))
        self.gradients = [torch.randn_like(weight) for weight in self._weights()]

    def __call__(self) -> None:
        if self.variant.reference:
            for _ in range(3):
                self._gradient(self._weights())
            return
        bank = self.variant.bank
        with bank.shared():
            self._gradient(self._weights())
        bank.update()
        with frozen(self.variant.critic), bank.shared():
            self._weights()

    def _weights(self) -> list[Tensor]:
        def weight(layer: Any) -> Tensor:  # noqa: ANN401  torch's layers have no common type
            return layer.weight

        return [weight(layer) for layer in self.layers]

    def _gradient(self, weights: list[Tensor]) -> None:
        torch.autograd.grad(weights, self.parameters, self.gradients, allow_unused=True)
