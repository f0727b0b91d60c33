"""LOSSES: what critic and generator minimise.

Higher is real. Logits are (N,), before any sigmoid; every function returns a scalar. Each pair of
losses is written with its source's equation. A new loss is one pair of functions and one line in
LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.nn.functional import relu, softplus

Half = Callable[[Tensor, Tensor], Tensor]  # (real logits, fake logits) -> loss


@dataclass(frozen=True)
class Loss:
    """critic(real, fake) and generator(real, fake), both to be minimised.

    paired: the generator's half compares with real logits; otherwise it ignores them and they need
    not be computed. boundary: the logit between real and fake, of what might as well be either;
    None if only differences of logits have a meaning.
    """

    critic: Half
    generator: Half
    paired: bool = False
    boundary: float | None = 0.0


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))). Lim & Ye 2017, arXiv:1705.02894."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def linear_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-E D(G(z)): the generator's half of the hinge and the Wasserstein loss."""
    return -fake.mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) - E D(x). Arjovsky et al. 2017, arXiv:1701.07875, equation 2."""
    return fake.mean() - real.mean()


def logistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(x)) - E log(1 - s(D(G(z)))), s the sigmoid. Goodfellow et al. 2014, equation 1."""
    return softplus(-real).mean() + softplus(fake).mean()


def nonsaturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(G(z))). Goodfellow et al. 2014, section 3; what the MSN authors' code uses."""
    return softplus(-fake).mean()


def minimax_generator(real: Tensor, fake: Tensor) -> Tensor:
    """E log(1 - s(D(G(z)))): equation 11 of arXiv:1907.04003 as it is written. It saturates."""
    return -softplus(fake).mean()


def least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2. Mao et al. 2017, arXiv:1611.04076, equation 9."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(G(z)) - 1)^2 / 2. Mao et al. 2017, equation 9."""
    return (fake - 1).square().mean() / 2


def relativistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """E log(1 + exp(D(G(z)) - D(x))), in pairs. Jolicoeur-Martineau 2018, arXiv:1807.00734."""
    return softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """E log(1 + exp(D(x) - D(G(z)))), in pairs. Jolicoeur-Martineau 2018."""
    return softplus(real - fake).mean()


LOSSES: dict[str, Loss] = {
    "hinge": Loss(hinge_critic, linear_generator),
    "wasserstein": Loss(wasserstein_critic, linear_generator, boundary=None),
    "nonsaturating": Loss(logistic_critic, nonsaturating_generator),
    "minimax": Loss(logistic_critic, minimax_generator),
    "least_squares": Loss(least_squares_critic, least_squares_generator, boundary=0.5),
    "relativistic_paired": Loss(
        relativistic_critic, relativistic_generator, paired=True, boundary=None
    ),
}

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]
