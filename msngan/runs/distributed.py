"""Communication between the processes of a run: batches, logits, gradients, decisions.

Every process holds the same weights and a part of each batch. The parts, concatenated in order of
rank, are the batch of a single process; so a loss is taken over the logits of all processes, and
their gradients are summed. With one process these functions need no communication. On a GPU none of
those that a step calls waits for it.

Of one evaluation each process takes every n-th image, and all get all rows back in their places. So
the arithmetic sees what one process would see, and every process computes the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from msngan.runs.folder import Failure, UserError

T = TypeVar("T")

_alone = False  # whether this process computes on its own
_even = False  # whether all processes' parts of a batch are of one size
# Words in the errors of gloo and NCCL when another process is gone.
LOST = ("closed by peer", "reset by peer", "Broken pipe", "gloo", "NCCL", "Socket", "TCPStore")


def count() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if not _alone and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def alone() -> Iterator[None]:
    """In the block this process computes on its own: nothing is synchronised."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@contextmanager
def even() -> Iterator[None]:
    """In the block all processes' parts of a batch are of one size, and sizes are not exchanged."""
    global _even
    before, _even = _even, True
    try:
        yield
    finally:
        _even = before


def are_even() -> bool:
    """Whether all processes' parts of a batch are known to be of one size."""
    return _even


def own(whole: Tensor, parts: int = 1, axis: int = 0) -> Tensor:
    """This process's entries, along `axis`, of a tensor drawn for all processes.

    The axis holds `parts` batches one after the other, each with the entries of all processes in
    order of rank.
    """
    if count() == 1:
        return whole
    each = whole.unflatten(axis, (parts, count(), -1))
    return each.select(axis + 1, rank()).flatten(axis, axis + 1)


def uniform(shape: tuple[int, ...], draw: Generator, device: torch.device) -> Tensor:
    """U[0, 1) of this shape: this process's rows of what a single process would draw."""
    whole = (shape[0] * count(), *shape[1:])
    return own(torch.rand(whole, generator=draw, device=device))


def normal(shape: tuple[int, ...], draw: Generator, device: torch.device, parts: int = 1) -> Tensor:
    """N(0, 1) of this shape: this process's rows of what a single process would draw."""
    whole = (shape[0] * count(), *shape[1:])
    return own(torch.randn(whole, generator=draw, device=device), parts)


def gathered(rows: Tensor) -> Tensor:
    """Concatenate (n, ...) of each process to (processes * n, ...), in order of rank.

    Differentiable: each process's gradient reaches only its own rows, so that the sum of all
    processes' gradients in the weights is that of the whole batch.
    """
    return _applied(_Gather, rows)


def gathered_alike(*rows: Tensor) -> list[Tensor]:
    """The same of several tensors of one shape, in one exchange."""
    if count() == 1:
        return list(rows)
    return list(gathered(torch.stack(rows, 1)).unbind(1))


def of_each(x: Tensor) -> Tensor:
    """Every process's tensor of this shape: (processes, *shape), in order of rank.

    Differentiable any number of times: a process's gradient is the sum of what all processes have
    for its tensor.
    """
    return _applied(_OfEach, x[None]) if count() > 1 else x[None]


@torch.no_grad()
def mean_of(total: Tensor, size: int) -> Tensor:
    """The mean over all processes of values whose sum here is `total`, and number `size`."""
    if _even:
        mean = total / (size * count())
        dist.all_reduce(mean)
        return mean
    both = torch.cat([total.flatten(), total.new_full((1,), size)])
    dist.all_reduce(both)
    return (both[:-1] / both[-1]).view_as(total)


def mean(x: Tensor) -> Tensor:
    """The mean over the processes; its gradient is this process's share."""
    return _applied(_Mean, x)


def _applied(function: type[torch.autograd.Function], x: Tensor) -> Tensor:
    made: Tensor = x if count() == 1 else function.apply(x)  # type: ignore[no-untyped-call]
    return made


def deviation(x: Tensor) -> Tensor:
    """The standard deviation (n - 1) of all entries of all processes, without a gradient."""
    if count() == 1:
        return x.std()
    x = x.detach()
    wide = x.double()
    first = torch.stack([wide.sum(), wide.new_full((), x.numel())])
    dist.all_reduce(first)
    middle, number = first[0] / first[1], first[1]
    second = (wide - middle).square().sum()
    dist.all_reduce(second)
    return (second / (number - 1)).sqrt().to(x.dtype)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its sum over the processes, in one exchange per dtype."""
    if count() > 1:
        _exchange((p.grad for p in parameters if p.grad is not None), dist.all_reduce)


def from_first(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by the first process's, in one exchange per dtype."""
    if count() > 1:
        _exchange(tensors, lambda flat: dist.broadcast(flat, 0))


@torch.no_grad()
def _exchange(tensors: Iterable[Tensor], do: Callable[[Tensor], Any]) -> None:
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for each in tensors:
        by_dtype.setdefault(each.dtype, []).append(each)
    for alike in by_dtype.values():
        flat = torch.cat([each.detach().reshape(-1) for each in alike])
        do(flat)
        parts = zip(alike, flat.split([each.numel() for each in alike]), strict=True)
        torch._foreach_copy_(alike, [part.view(each.shape) for each, part in parts])


def decided(decide: Callable[[], T]) -> T:
    """Call `decide` in the first process and return its plain value in all.

    If it raises a UserError or a Failure, all processes raise it at the same place.
    """
    if count() == 1:
        return decide()
    said: list[Any] = [None]
    if rank() == 0:
        try:
            said = [(decide(), None)]
        except (UserError, Failure) as raised:
            dist.broadcast_object_list([(None, (type(raised), str(raised)))], 0)
            raise
    dist.broadcast_object_list(said, 0)
    value, failed = said[0]
    if failed is not None:
        kind, text = failed
        problem: UserError | Failure = kind(text)
        problem.together = True
        raise problem
    return value


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if count() == 1:
        return number
    # `msngan fit` can exchange a tensor on the CPU too, where no GPU is waited for.
    numbers = torch.tensor([number], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def lost(problem: BaseException) -> bool:
    """Whether an exception means that another process of the run has ended."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    said = isinstance(problem, RuntimeError) and any(word in str(problem) for word in LOST)
    return isinstance(problem, dist.DistError) or said


def _sum(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        whole = rows.new_empty(dist.get_world_size(), *rows.shape)
        dist.all_gather(list(whole), rows)
        return whole.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _OfEach(torch.autograd.Function):
    """As a sum, of rows that are zero but for the process's own: NCCL gathers with a copy a row."""

    @staticmethod
    def forward(ctx: Any, row: Tensor) -> Tensor:
        rows = row.new_zeros(dist.get_world_size(), *row.shape[1:])
        rows[dist.get_rank()] = row[0]
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        made: Tensor = _Total.apply(gradient)  # type: ignore[no-untyped-call]
        return made[dist.get_rank()][None]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        made: Tensor = _Total.apply(gradient)  # type: ignore[no-untyped-call]
        return made


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x) / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / dist.get_world_size()


def share(total: int) -> Tensor:
    """This process's int64 indices of range(total): rank, rank + n, rank + 2n and so on.

    All of them with one process; none for the last of more processes than indices.
    """
    return torch.arange(total)[rank() if count() > 1 else 0 :: count()]


def gather(rows: Tensor, indices: Tensor, total: int) -> Tensor:
    """The rows (n, ...) of all processes as one tensor (total, ...), in the order of `indices`.

    indices: (n,), where this process's rows belong. n may differ between processes and may be 0,
    but rows must agree in shape and dtype; their bits are kept. Every process must call it, and
    gets all rows, on the CPU if there are several. ValueError, in every process, unless each of
    range(total) is there exactly once: if every process held the whole, an average would be right
    but a kernel distance wrong, since a row and its copy are not independent.
    """
    parts = [(rows, indices.cpu())]
    if count() > 1:
        parts = [parts[0]] * count()
        dist.all_gather_object(parts, (rows.detach().cpu(), indices.cpu()))
    for rank, (part, places) in enumerate(parts):
        if len(part) != len(places):
            raise ValueError(f"process {rank} has {len(part)} rows, but indices for {len(places)}")
    if len({(part.shape[1:], part.dtype) for part, _ in parts}) > 1:
        raise ValueError("the processes' rows differ in shape or dtype")
    order = torch.cat([places for _, places in parts])
    if not torch.equal(order.sort().values, torch.arange(total)):
        raise ValueError(
            f"{len(order)} rows, {len(order.unique())} of them different, came together for"
            f" {total}; each process must hold its own share of them and not the whole"
        )
    return torch.cat([part for part, _ in parts])[order.argsort()]


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block before the others, which then find what it wrote."""
    many, first = count() > 1, rank() == 0
    if many and not first:
        dist.barrier()
    try:
        yield
    finally:
        if many and first:
            dist.barrier()
