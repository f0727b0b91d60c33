"""What of a variant is the same on every run: its operations and its memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from msngan.bench.counting import difference, live_bytes, operations, saved_bytes
from msngan.bench.passes import Variant


@dataclass(frozen=True)
class Footprint:
    """Of one critic.

    both_ways: operations of a pass with its update. step: of the critic's share of a GAN's step, in
    the generator's pass with and without gradients for the critic's weights. memory: bytes of a
    pass. activations: the part that grows with the batch; peak: what lives at once; saved: what the
    backward pass needs.
    """

    reference: bool
    both_ways: Counter[str]
    frozen_step: Counter[str]
    open_step: Counter[str]
    memory: dict[str, int]

    @classmethod
    def of(cls, variant: Variant) -> Footprint:
        real, fake = (variant.laid_out(variant.settings.images(seed)) for seed in (0, 1))
        variant.both_ways(real)  # what a first pass does once is not counted
        variant.gan_step(real, fake, freeze=True)
        return cls(
            variant.reference,
            operations(lambda: variant.both_ways(real)),
            operations(lambda: variant.gan_step(real, fake, freeze=True)),
            operations(lambda: variant.gan_step(real, fake, freeze=False)),
            _memory(variant),
        )

    def against(self, plain: Footprint) -> dict[str, Any]:
        """Operations beyond those of `plain`, and memory as a ratio to it.

        Ours is used with a frozen critic in the generator's pass, PyTorch's without.
        """
        step = (
            _extra(self.open_step, plain.open_step)
            if self.reference
            else _extra(self.frozen_step, plain.frozen_step)
        )
        ratios = {name: size / plain.memory[name] for name, size in self.memory.items()}
        return {
            "operations": {"pass": _extra(self.both_ways, plain.both_ways), "step": step},
            "memory": {**self.memory, "ratio": ratios},
        }


def _extra(counted: Counter[str], plain: Counter[str]) -> dict[str, Any]:
    more = difference(counted, plain)
    return {"extra": sum(more.values()), "total": sum(counted.values()), "by_name": more}


def _memory(variant: Variant) -> dict[str, int]:
    live, saved = [], []
    for batch in (variant.settings.batch, 2 * variant.settings.batch):
        images = variant.laid_out(variant.settings.images(batch=batch))
        saved.append(saved_bytes(variant.critic, partial(variant.forward, images)))
        variant.bank.update()  # frees what the norm keeps between passes: a pass makes it anew
        variant.critic.zero_grad(set_to_none=True)
        live.append(live_bytes(partial(variant.both_ways, images)))
    found = {
        "peak": max(live[0]),
        # Both batches take the same operations, so what differs after each is the activations.
        "peak_activations": max(two - one for one, two in zip(*live, strict=True)),
        "saved": saved[0],
        "saved_activations": saved[1] - saved[0],
    }
    if variant.settings.device == "cuda":
        found["peak_allocated"] = _allocated(variant)
    return found


def _allocated(variant: Variant) -> int:
    """What the CUDA allocator saw at its peak above what was there before."""
    images = variant.laid_out(variant.settings.images())
    variant.critic.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    variant.both_ways(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
