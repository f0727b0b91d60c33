"""One evaluation shared by several processes of torch.distributed.

Each process takes every n-th image, and all get all rows back in their places. So the arithmetic
sees what one process would see, and every process computes the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from msngan.runs.distributed import count as process_count


def share(count: int) -> Tensor:
    """This process's int64 indices of range(count): rank, rank + n, rank + 2n and so on.

    All of them with one process; none for the last of more processes than indices.
    """
    many = process_count() > 1
    return torch.arange(count)[distributed.get_rank() if many else 0 :: process_count()]


def gather(rows: Tensor, indices: Tensor, count: int) -> Tensor:
    """The rows (n, ...) of all processes as one tensor (count, ...), in the order of `indices`.

    indices: (n,), where this process's rows belong. n may differ between processes and may be 0,
    but rows must agree in shape and dtype; their bits are kept. Every process must call it, and
    gets all rows, on the CPU if there are several. ValueError, in every process, unless each of
    range(count) is there exactly once: if every process held the whole, an average would be right
    but a kernel distance wrong, since a row and its copy are not independent.
    """
    parts = [(rows, indices.cpu())]
    if process_count() > 1:
        parts = [parts[0]] * process_count()
        distributed.all_gather_object(parts, (rows.detach().cpu(), indices.cpu()))
    for rank, (part, places) in enumerate(parts):
        if len(part) != len(places):
            raise ValueError(f"process {rank} has {len(part)} rows, but indices for {len(places)}")
    if len({(part.shape[1:], part.dtype) for part, _ in parts}) > 1:
        raise ValueError("the processes' rows differ in shape or dtype")
    order = torch.cat([places for _, places in parts])
    if not torch.equal(order.sort().values, torch.arange(count)):
        raise ValueError(
            f"{len(order)} rows, {len(order.unique())} of them different, came together for"
            f" {count}; each process must hold its own share of them and not the whole"
        )
    return torch.cat([part for part, _ in parts])[order.argsort()]


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block before the others, which then find what it wrote."""
    many = process_count() > 1
    first = not many or distributed.get_rank() == 0
    if not first:
        distributed.barrier()
    try:
        yield
    finally:
        if first and many:
            distributed.barrier()
