"""Whether the machine can hold the networks of a config, found before any is built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from msngan.networks import CLASSIFIERS, CRITICS, GENERATORS
from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.runs.hardware import memory

COPIES = 4  # weights, gradients, and Adam's two moments
BYTES = 4
DEEPEST = 1000  # layers of a block


@contextmanager
def room_for(task: str, options: dict[str, Any]) -> Iterator[None]:
    """UserError, before the block is run or in it, for networks that memory cannot hold."""
    need, have = COPIES * BYTES * _values(task, options), memory()
    if have is not None and need > have:
        raise UserError(
            f"training these networks takes {need / 2**30:,.0f} GiB of memory, this machine has"
            f" {have / 2**30:,.0f}; lower {_sized_by(task)}"
        )
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "allocate memory" not in str(problem):
            raise
        raise UserError(
            f"the networks do not fit into memory; lower {_sized_by(task)}"
        ) from problem


def _sized_by(task: str) -> str:
    return "--model.width" if task == "gan" else "--model.width or --model.depth"


def _values(task: str, options: dict[str, Any]) -> int:
    """Parameters of the networks, without their norms'."""
    o = options
    shape = o["channels"], o["size"]
    if max(o.get("depth") or 0, 0) > DEEPEST:  # each layer takes its time, of whatever size it is
        return 2**62
    try:
        with rng.untouched(), torch.device("meta"):
            if task == "gan":
                width = o["critic_width"] or o["width"]
                nets = [
                    GENERATORS[o["generator"]](o["latent_dim"], o["width"], *shape),
                    CRITICS[o["critic"]]("none", width, *shape),
                ]
            else:
                sizes = {name: o[name] for name in ("width", "depth") if o[name] is not None}
                nets = [CLASSIFIERS[o["network"]]("none", o["classes"], *shape, **sizes)]
    except (ValueError, TypeError, OverflowError):  # said where the network is built
        return 0
    except RuntimeError:  # of so many values that no number of bytes holds them
        return 2**62
    return sum(each.numel() for net in nets for each in net.parameters())
