"""Randomness derived from (seed, step, rank, stream), never stored.

Every random draw of a run comes from a generator that is made for it on the spot. So a checkpoint
needs no random state to be exact, the ranks of a distributed run differ by construction, and
what a callback draws does not change what training draws.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

Stream = Literal[
    "init",  # the networks' first weights
    "order",  # which images each step uses
    "flip",  # which of them are mirrored
    "crop",  # how far they are shifted
    "validation",  # which training images a classifier does not train on
    "test",  # which images of a folder are not trained on
    "critic",  # latents of the critic's fakes
    "generator",  # latents of the generator's batch
    "augment",  # how images are augmented before the critic scores them
    "penalty",  # points at which a gradient penalty is taken
    "global",  # what a layer (dropout, say) draws from torch's global generator
    "labels",  # labels of scored samples
    "samples",  # latents of grids and of scored samples
    "standing",  # latents and labels of standing statistics
    "scores",  # which real images a score uses
    "health",  # latents of the collapse checks
    "extractor",  # training of an embedded feature extractor
    "degradation",  # how real images are degraded to compare extractors
]

LEAST_TRUNCATION = 0.01  # of normal numbers; one within it takes 125 draws


def derive(seed: int, step: int, rank: int, stream: Stream) -> int:
    """A 63-bit seed; two tuples have the same one with probability 2**-63."""
    key = f"{seed}/{step}/{rank}/{stream}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def generator(
    seed: int, step: int, rank: int, stream: Stream, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator for one stream of one step; the same arguments give the same draws."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, step, rank, stream))


class Draws:
    """The generators of some streams on a device, which last: each step seeds them anew.

    They draw what `generator` does. A CUDA graph of a step can hold them.
    """

    def __init__(self, streams: Iterable[Stream], device: torch.device) -> None:
        import torch

        self.device = device
        self._generators = {stream: torch.Generator(device) for stream in streams}

    def begin(self, seed: int, step: int) -> None:
        for stream, each in self._generators.items():
            each.manual_seed(derive(seed, step, 0, stream))

    def __getitem__(self, stream: Stream) -> torch.Generator:
        return self._generators[stream]

    def __iter__(self) -> Iterator[torch.Generator]:
        return iter(self._generators.values())


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of a device.

    As torch.manual_seed does, which also queues a call, with its stack, for each kind of device
    that is not there.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


@contextmanager
def untouched() -> Iterator[None]:
    """Restore torch's, NumPy's and Python's global generators after the block."""
    import random

    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
