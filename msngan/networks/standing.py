"""Standing statistics: a generator's batch norms with the statistics of many batches of samples.

Brock, Donahue & Simonyan 2019, arXiv:1809.11096, section 4.1 and appendix C.1. Running averages
follow the last batches of training, whose weights have changed since, and latents that are not
truncated.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msngan.networks.sampling import applied, classes_of, latents
from msngan.norms import Centring
from msngan.norms.classic import BATCH_COUPLED
from msngan.runs import distributed, rng

BATCH = 64  # latents in each batch


def with_standing_statistics(
    generator: nn.Module,
    batches: int,
    seed: int = 0,
    *,
    truncation: float | None = None,
    labels: Tensor | None = None,
) -> nn.Module:
    """A copy, in eval mode, whose running statistics are the means over `batches` batches of 64.

    In them, each batch norm (and each norm that centres) uses its batch, as in training; all else
    is as in eval. seed: of their latents, which are no sample's. truncation: see `latents`. labels:
    int64 (64 * batches,), for a conditional generator; None: drawn uniformly. ValueError for a
    generator without running statistics.
    """
    tracked(generator)  # refuses, before it is copied, what cannot be
    made = copy.deepcopy(generator).eval()
    parts = tracked(made)
    first = next(made.parameters())
    z = latents(batches * BATCH, cast(int, made.latent_dim), seed, truncation, stream="standing")
    if labels is None and (classes := classes_of(made)):
        draw = rng.generator(seed, 1, 0, "standing")
        labels = torch.randint(classes, (len(z),), generator=draw)
    momenta = [part.momentum for part in parts]
    for part in parts:
        assert part.num_batches_tracked is not None
        part.num_batches_tracked.zero_()
        part.momentum, part.training = None, True  # the mean over all batches from here on
    with torch.no_grad(), distributed.alone():
        for start in range(0, len(z), BATCH):
            own = None if labels is None else labels[start : start + BATCH].to(first.device)
            applied(made, z[start : start + BATCH].to(first.device, first.dtype), own)
    for part, momentum in zip(parts, momenta, strict=True):
        part.momentum, part.training = momentum, False
    return made


def tracked(generator: nn.Module) -> list[_BatchNorm | Centring]:
    """The modules with running statistics of batches; ValueError if there are none."""
    coupled = [part for part in generator.modules() if isinstance(part, BATCH_COUPLED)]
    if parts := [part for part in coupled if part.running_mean is not None]:
        return parts
    raise ValueError(
        "the generator has no batch norm, whose statistics would be computed anew; leave it out"
    )
