"""One evaluation shared by several processes of torch.distributed.

Each process takes every n-th image, and all get all rows back in their places. So the arithmetic
sees what one process would see, and every process computes the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from msngan.runs import distributed as processes


def share(count: int) -> Tensor:
    """This process's int64 indices of range(count): rank, rank + n, rank + 2n and so on.

    All of them with one process; none for the last of more processes than indices.
    """
    indices = torch.arange(count)
    return indices[distributed.get_rank() :: distributed.get_world_size()] if _many() else indices


def gather(rows: Tensor, indices: Tensor, count: int) -> Tensor:
    """The rows (n, ...) of all processes as one tensor (count, ...), in the order of `indices`.

    indices: (n,), where this process's rows belong. n may differ between processes and may be 0,
    but rows must agree in shape and dtype; their bits are kept. Every process must call it, and
    gets all rows, on the CPU if there are several. ValueError, in every process, unless each of
    range(count) is there exactly once: if every process held the whole, an average would be right
    but a kernel distance wrong, since a row and its copy are not independent.
    """
    if not _many():
        if len(rows) != len(indices):
            raise ValueError(f"{len(rows)} rows came with {len(indices)} indices")
        _check_cover(indices.cpu(), count)
        return rows if torch.equal(indices.cpu(), torch.arange(count)) else rows[indices.argsort()]
    rows, indices = rows.detach().cpu(), indices.detach().cpu().long()
    shape, dtype = rows.shape[1:], rows.dtype
    width = math.prod(shape)
    sizes = _from_all(torch.tensor([len(rows), len(indices), width, dtype.itemsize]))
    _check_sizes(sizes)
    counts = sizes[:, 0].tolist()
    longest = max(1, *counts)
    places = _cut(_from_all(_padded(indices, longest)), counts)
    _check_cover(torch.cat(places), count)
    # as bytes, which every backend carries and none rounds
    own = rows.reshape(len(rows), width).contiguous().view(torch.uint8)
    whole = torch.empty(count, width * dtype.itemsize, dtype=torch.uint8)
    for place, part in zip(places, _cut(_from_all(_padded(own, longest)), counts), strict=True):
        whole[place] = part
    return whole.view(dtype).reshape(count, *shape)


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block before the others, which then find what it wrote."""
    first = not _many() or distributed.get_rank() == 0
    if not first:
        distributed.barrier()
    try:
        yield
    finally:
        if first and _many():
            distributed.barrier()


def _many() -> bool:
    return processes.count() > 1


def _from_all(part: Tensor) -> Tensor:
    """Tensors of one shape, (...) in each process, as (processes, ...) on the CPU."""
    if distributed.get_backend() == "nccl":
        part = part.cuda()  # it carries no other tensors
    whole = part.new_empty(distributed.get_world_size(), *part.shape)
    distributed.all_gather(list(whole), part)
    return whole.cpu()


def _padded(rows: Tensor, length: int) -> Tensor:
    padded = rows.new_zeros(length, *rows.shape[1:])
    padded[: len(rows)] = rows
    return padded


def _cut(padded: Tensor, counts: list[int]) -> list[Tensor]:
    return [part[:count] for part, count in zip(padded, counts, strict=True)]


def _check_sizes(sizes: Tensor) -> None:
    """sizes: (processes, 4): rows, indices, values in a row, bytes of a value."""
    for rank, (rows, indices, *_) in enumerate(sizes.tolist()):
        if rows != indices:
            raise ValueError(f"process {rank} has {rows} rows, but indices for {indices}")
    if len(sizes[:, 2:].unique(dim=0)) > 1:
        raise ValueError("the processes' rows differ in shape or dtype")


def _check_cover(indices: Tensor, count: int) -> None:
    if not torch.equal(indices.sort().values, torch.arange(count)):
        raise ValueError(
            f"{len(indices)} rows, {len(indices.unique())} of them different, came together for"
            f" {count}; each process must hold its own share of them and not the whole"
        )
