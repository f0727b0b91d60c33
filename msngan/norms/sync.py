"""Statistics of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from msngan.norms.base import BATCH_COUPLED
from msngan.norms.batch import Shared
from msngan.norms.centring import Centring


def synchronise(module: nn.Module) -> None:
    """Let every norm that couples the batch use the batches of all processes, in training.

    One process's arithmetic on the same global batch is the measure; for one process nothing
    changes. torch's own batch norms, in a network of another's making, stay as they are.
    """
    for part in module.modules():
        if isinstance(part, (Centring, Shared)):
            part.sync = True


def own_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The running statistics that each process moves by its own batches alone."""
    for part in module.modules():
        if isinstance(part, BATCH_COUPLED) and not getattr(part, "sync", False):
            yield from part.buffers(recurse=False)
