"""Penalties of the critic's logits: consistency under augmentation, and LeCam."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from msngan.losses.augment import laid_out_like, moved, shifts
from msngan.runs import distributed as processes

if TYPE_CHECKING:
    from msngan.losses.penalties import ScoredBatch

DECAY = 0.99  # of LeCam's moving averages, per batch of the critic; that of its paper


def disturbed(images: Tensor, draw: Generator) -> Tensor:
    """Images (N, C, H, W), half of them mirrored, moved by up to 1/8 of their size: 4 pixels of 32.

    The pixels at the edge are repeated where nothing is.
    """
    draws = processes.uniform((len(images), 3), draw, images.device)
    height, width = images.shape[2:]
    down, right = shifts(draws[:, :2], images.shape)
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    columns = torch.where(draws[:, 2:] < 0.5, width - 1 - columns, columns)
    made = moved(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return laid_out_like(made, images)


def consistency(update: ScoredBatch) -> Tensor:
    """E (D(x) - D(T(x)))^2 + E (D(G(z)) - D(T(G(z))))^2, T drawn anew for each image.

    Balanced consistency regularisation, bCR: Zhao et al. 2020, arXiv:2002.04724. T mirrors
    and shifts images, as in the paper's experiments; see `disturbed`.
    """
    real, fake = (disturbed(images, update.draw) for images in (update.real, update.fake))
    real_logits, fake_logits = update.again(real, fake)
    of_real = (update.real_logits - real_logits).square().mean()
    return of_real + (update.fake_logits - fake_logits).square().mean()


def track_logits(critic: nn.Module) -> None:
    """Hang moving averages on a critic, all 0: of real and of fake logits, and of 1."""
    critic.register_buffer("lecam_averages", torch.zeros(3))


def lecam(update: ScoredBatch) -> Tensor:
    """E (D(x) - a_F)^2 + E (D(G(z)) - a_R)^2. Tseng et al. 2021, arXiv:2104.03310.

    a_R and a_F are moving averages of the logits of real and of fake images, constants for the
    gradient. They include this update's logits, and are divided by the same average of 1, so that
    the first ones are means of what was seen and not nearly 0. The authors' code takes only real
    logits above a_F and fake ones below a_R; their paper all. Raises ValueError for a critic that
    `track_logits` has not prepared.
    """
    averages = getattr(update.critic, "lecam_averages", None)
    if averages is None:
        raise ValueError("lecam needs a prepared critic; call track_logits(critic)")
    real, fake = update.real_logits, update.fake_logits
    with torch.no_grad():
        now = torch.stack([real.mean(), fake.mean(), torch.ones_like(real[0])])
        averages.lerp_(now.to(averages.dtype), 1 - DECAY)
        of_real, of_fake = averages[:2] / averages[2]
    return (real - of_fake).square().mean() + (fake - of_real).square().mean()
