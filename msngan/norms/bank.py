"""SigmaBank: the spectral norms of a whole network, done once per update.

Miyato's algorithm iterates once per update. Iterating at every access of a weight, as PyTorch does,
costs several times as much in a GAN's step, and the real and the fake batch then meet different
weights. Here two products per layer serve the real, the fake and the generator's pass, and the
gradient of all of them goes through the division once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from msngan.norms.estimate import ENOUGH, advance, looks, moves
from msngan.norms.layers import parts_of, stored
from msngan.norms.parts import WeightPart, normal_mode, stamp
from msngan.norms.spectral import SpectralNorm, quotient_gradient

Owned = tuple[WeightPart, nn.Module, str]


class SigmaBank:
    """Takes over the iterations (and projections, and gates) of a network's norms.

    Call `update()` after each optimizer step, or give the optimizer, which then calls it; it must
    hold all parameters of the network that ask for a gradient, else ValueError. Run forward passes
    whose losses go into one backward inside `shared()`: they use the same weights, whose gradients
    are collected and divided by sigma once.

    each_pass: leave the norms that can iterate in each of their passes, as PyTorch's do, alone.

    A weight that was written between two updates is noticed, and estimated anew; one written
    through `.data` on a CPU alone: on other devices call `update()` after such a write. A weight
    that pruning or another hook makes in each pass is not lent.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        each_pass: bool = False,
    ) -> None:
        if optimizer is not None:
            _check_holds(optimizer, module)
        self._owned: list[Owned] = [
            (part, layer, name)
            for layer, name, part in parts_of(module)
            if isinstance(part, WeightPart) and not (each_pass and part.may_iterate_in_passes)
        ]
        for part, _, _ in self._owned:
            part.managed = True
        self._sort()
        self._sigmas: list[Tensor] = []
        self._seen: list[Any] = []  # of which weights
        self.updates = 0
        if optimizer is not None:
            optimizer.register_step_post_hook(self._after_step)

    def _sort(self) -> None:
        """Those that are iterated together, all of one kind, and those that each are by itself."""
        self._fast: list[tuple[SpectralNorm, nn.Module, str]] = []
        self._slow: list[Owned] = []
        for part, layer, name in self._owned:
            if _is_fast(part) and (not self._fast or _alike(part, self._fast[0][0])):
                assert isinstance(part, SpectralNorm)
                self._fast.append((part, layer, name))
            else:
                self._slow.append((part, layer, name))
        self.parts = [part for part, _, _ in self._owned]
        self._block = _Blocks([part for part, _, _ in self._fast])
        self._divided: list[Tensor] = []  # scale * W / sigma of the fast ones

    def _after_step(self, *_: Any) -> None:
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """An iteration for each weight as it is now."""
        self.updates += 1
        self._divided = []
        self._resort()
        for part in self.parts:
            part._past = None
        for part, layer, name in self._slow:
            weight = stored(layer, name)
            part.iterate(weight)
            part.mark(weight)
        if self._fast:
            norms, weights = self._fast_ones()
            self._block.iterate(weights)
            self._seen = [norm.mark(weight) for norm, weight in zip(norms, weights, strict=True)]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, every pass uses the same normalised weights, computed once.

        They carry a graph if grad mode is on at entry: one backward may go through it, before the
        next update.
        """
        self._resort()
        parts = self.parts
        before = [part._lent for part in parts]
        try:
            for part, layer, name in self._slow:
                weight = stored(layer, name)
                part.follow(weight)
                part.lend(_lent(part, weight))
            if self._fast:
                norms, weights = self._fast_ones()
                with normal_mode(weights[0]):
                    self._refresh(norms, weights)
                made = _Divide.apply(self, *weights)  # type: ignore[no-untyped-call]
                for norm, weight in zip(norms, made, strict=True):
                    norm.lend(weight)
            yield
        finally:
            for part, lent in zip(parts, before, strict=True):
                part.lend(lent)

    def _resort(self) -> None:
        """Where a weight is made in each pass now, by pruning or another hook, leave its part
        alone; where parts were cast or moved, sort them anew."""
        made = [each for each in self._owned if not _is_parameter(*each[1:])]
        for part, _, _ in made:
            part.managed = False
        first = self._fast[0][0] if self._fast else None
        changed = first and not all(_alike(part, first) for part, _, _ in self._fast)
        if made or changed or not self._block.made_for(first):
            self._owned = [each for each in self._owned if each not in made]
            self._sort()

    def _fast_ones(self) -> tuple[list[SpectralNorm], list[Tensor]]:
        norms = [norm for norm, _, _ in self._fast]
        return norms, [stored(layer, name) for _, layer, name in self._fast]

    @torch.no_grad()
    def _refresh(self, norms: list[SpectralNorm], weights: list[Tensor]) -> None:
        """W / sigma of the fast ones, unless it is there already."""
        seen = [stamp(weight) for weight in weights]
        if self._divided and self._seen == seen:
            return
        if self._seen != seen:
            # Written since the last update: by a checkpoint with its own sigma, or by hand.
            for norm, weight in zip(norms, weights, strict=True):
                if not norm.fits(weight):
                    norm.settle(weight)
        self._seen = seen
        self._divided = []  # freed before the next are made
        self._sigmas = [n.last_sigma if n.scale == 1 else n.last_sigma / n.scale for n in norms]
        self._divided = list(torch._foreach_div(weights, self._sigmas))


def _is_fast(part: WeightPart) -> bool:
    return type(part) is SpectralNorm and part.groups == 1 and not part.output_axis


def _alike(part: WeightPart, other: WeightPart) -> bool:
    a, b = part.last_sigma, other.last_sigma
    return a.dtype == b.dtype and a.device == b.device


def _check_holds(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = module.named_parameters()
    left = [name for name, p in named if p.requires_grad and id(p) not in held]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise ValueError(
            f"the optimizer does not hold {', '.join(left[:5])}{more} of the network; make it after"
            " `convert`, from network.parameters()"
        )


def _is_parameter(layer: nn.Module, name: str) -> bool:
    return layer._parameters.get(name) is not None


class _Blocks:
    """The iterations of many spectral norms, of one group each, with the small algebra batched."""

    def __init__(self, norms: list[SpectralNorm]) -> None:
        self.norms = norms
        self._x = torch.empty(0)

    def _make_room(self) -> None:
        """x (layers, k, d), z (layers, d, k), y (k, sum of n): zeros where a layer has less."""
        like = self.norms[0].block
        shapes = [norm.block.shape[1:] for norm in self.norms]
        most, rows = (max(sizes) for sizes in zip(*shapes, strict=True))
        self._lengths = [norm.v.numel() for norm in self.norms]
        self._x = like.new_zeros(len(shapes), most, rows)
        self._z = like.new_zeros(len(shapes), rows, most)
        self._y = like.new_zeros(most, sum(self._lengths))
        ys = self._y.split(self._lengths, 1)
        self._views = [
            (x[:k, :d], y[:k], z[:d, :k])
            for x, y, z, (k, d) in zip(self._x, ys, self._z, shapes, strict=True)
        ]

    def made_for(self, norm: SpectralNorm | None) -> bool:
        """Whether the room, if there is any, is of the dtype and on the device of the norm."""
        x = self._x
        fits = norm is None or (x.dtype == norm.block.dtype and x.device == norm.block.device)
        return fits or not x.numel()

    def iterate(self, weights: list[Tensor]) -> None:
        if not self._x.numel():
            self._make_room()
        with torch.autocast(weights[0].device.type, enabled=False):
            matrices = [n.matrix(w)[0] for n, w in zip(self.norms, weights, strict=True)]
            values, lengths = self._iterate(matrices, weights)
        # More for those whose estimate still moves; where a look does not make a device wait.
        if looks(values):
            sizes = [length.numpy().item() for length in lengths]
            for norm, weight, value, size in zip(
                self.norms, weights, values.tolist(), sizes, strict=True
            ):
                if norm.most > 1 and (moves(value, size, ENOUGH) or value != value):
                    norm.iterate(weight)

    def _iterate(
        self, matrices: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """An iteration of all blocks; the value that each had, and the length of its `left`."""
        norms, blocks = self.norms, [norm.block[0] for norm in self.norms]
        torch._foreach_copy_([x for x, _, _ in self._views], blocks)
        for a, (x, y, z) in zip(matrices, self._views, strict=True):
            torch.mm(x, a, out=y)
            torch.mm(a, y.t(), out=z)
        found = advance(self._x, self._z)
        shapes = [x.shape for x, _, _ in self._views]
        vectors = [vector[:k] for vector, (k, _) in zip(found.vector, shapes, strict=True)]
        torch._foreach_mul_([y for _, y, _ in self._views], vectors)
        rights = self._y.sum(0).split(self._lengths)
        lefts = [left[:d] for left, (_, d) in zip(found.left, shapes, strict=True)]
        following = [each[:k, :d] for each, (k, d) in zip(found.block, shapes, strict=True)]
        both = [*lefts, *rights]
        lengths = torch._foreach_norm(both)
        torch._foreach_clamp_min_(lengths, torch.finfo(self._y.dtype).tiny)
        units = torch._foreach_div(both, lengths)
        sigmas = torch._foreach_div(lengths[: len(lefts)], lengths[len(lefts) :])
        columns = [n.columns(n.v, weight)[0] for n, weight in zip(norms, weights, strict=True)]
        buffers = [*(n.u[0] for n in norms), *columns, *(n.last_sigma for n in norms), *blocks]
        torch._foreach_copy_(buffers, [*units, *sigmas, *following])
        for norm, column, weight in zip(norms, columns, weights, strict=True):
            if column.data_ptr() != norm.v.data_ptr():  # v lies in memory in another order
                norm.v.copy_(norm.uncolumned(column[None], weight))
        return found.value, lengths[: len(lefts)]


def _lent(part: WeightPart, weight: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return part.quotient(weight)
    made: Tensor = _Lend.apply(part, weight, *part.parameters())  # type: ignore[no-untyped-call]
    return made


class _Lend(torch.autograd.Function):
    """The weight of a part, through which several backward passes can go, as through _Divide."""

    @staticmethod
    def forward(ctx: Any, part: WeightPart, weight: Tensor, *own: Tensor) -> Tensor:
        with torch.enable_grad():
            source = weight.detach().requires_grad_()
            made = part.quotient(source)
        ctx.part, ctx.given, ctx.graph = part, (weight, *own), (made, (source, *own))
        return made.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # this gradient is to be differentiated again
        made, sources = ctx.graph
        if again:
            made, sources = ctx.part.normalised(ctx.given[0]), ctx.given
        found = torch.autograd.grad(
            made, sources, gradient, retain_graph=True, create_graph=again, allow_unused=True
        )
        return (None, *found)


class _Divide(torch.autograd.Function):
    """W -> scale * W / sigma for many weights, u and v constant (equation 9)."""

    @staticmethod
    def forward(ctx: Any, bank: SigmaBank, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        # u, v and sigma are buffers, which are written in place (also by others, as when several
        # processes start alike): `updates` guards them, and nothing of them is saved here. Nor are
        # the weights, so that several backward passes can go through.
        ctx.bank, ctx.updates, ctx.weights = bank, bank.updates, weights
        return tuple(weight.detach() for weight in bank._divided)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        bank: SigmaBank = ctx.bank
        if ctx.updates != bank.updates:
            raise RuntimeError(
                "the bank was updated between a forward pass and its backward; call update() after"
            )
        found: list[Tensor | None] = [None] * len(gradients)
        wanted = [index for index, gradient in enumerate(gradients) if gradient is not None]
        given = [gradient for gradient in gradients if gradient is not None]
        made: Sequence[Tensor]
        if torch.is_grad_enabled():  # this gradient is to be differentiated again
            weights = [ctx.weights[index] for index in wanted]
            norms = [bank._fast[index][0] for index in wanted]
            outputs = [n.normalised(weight) for n, weight in zip(norms, weights, strict=True)]
            made = torch.autograd.grad(outputs, weights, given, create_graph=True)
        else:
            made = [_gradient(bank, index, each) for index, each in zip(wanted, given, strict=True)]
        for index, gradient in zip(wanted, made, strict=True):
            found[index] = gradient
        return (None, *found)


def _gradient(bank: SigmaBank, index: int, given: Tensor) -> Tensor:
    norm = bank._fast[index][0]
    divided, sigma = bank._divided[index], bank._sigmas[index]
    return quotient_gradient(norm, given, divided, sigma, norm.u, norm.v)
