"""SigmaBank: computes the spectral norms of a whole network once per update.

Iterating at each access of a weight, as PyTorch does, costs several times as much in a GAN step,
and the real and the fake batch then see different weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from msngan.norms.estimate import ENOUGH, advance, looks, moves
from msngan.norms.layers import parts_of, stored
from msngan.norms.optional_spectral import OptionalSpectralNorm, decide
from msngan.norms.parts import WeightPart, listed, needs_graph, normal_mode, stamp
from msngan.norms.spectral import SpectralNorm, quotient_gradient


@dataclass(eq=False)
class Owned:
    """A part that the bank updates, and where its weight is."""

    part: WeightPart
    layer: nn.Module
    name: str

    def weight(self) -> Tensor:
        return stored(self.layer, self.name)


class SigmaBank:
    """Takes over the iterations (and projections, and gates) of a network's norms.

    Call `update()` after each optimizer step, or pass the optimizer, which then calls it; it must
    hold all parameters of the network that require a gradient, else ValueError. Run forward passes
    whose losses go into one backward inside `shared()`: they use the same weights, and their
    gradients are summed and divided by sigma once.

    each_pass: do not take over norms that can iterate in each forward pass, as PyTorch's do.

    The bank notices a weight that was written between two updates, and estimates it anew; a write
    through `.data` only on a CPU: on other devices call `update()` after it. A weight that pruning
    or another hook makes in each pass is not lent.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        each_pass: bool = False,
    ) -> None:
        if optimizer is not None:
            _check_holds(optimizer, module)
        self._owned = [
            Owned(part, layer, name)
            for layer, name, part in parts_of(module)
            if isinstance(part, WeightPart) and not (each_pass and part.may_iterate_in_passes)
        ]
        for each in self._owned:
            each.part.managed = True
        self._sort()
        self._sigmas: list[Tensor] = []
        self._seen: list[Any] = []  # the stamps of the weights that `_divided` is made of
        self.updates = 0
        if optimizer is not None:
            optimizer.register_step_post_hook(lambda *_: self.update())

    def _sort(self) -> None:
        """Split into parts that are iterated together, all of one dtype and device, and others."""
        kinds = [_kind_of(each.part) for each in self._owned]
        self._kind = next((kind for kind in kinds if kind), None)
        self._fast = [
            each for each in self._owned if self._kind and _kind_of(each.part) == self._kind
        ]
        self._norms = [cast(SpectralNorm, each.part) for each in self._fast]
        self._slow = [each for each in self._owned if each not in self._fast]
        self.parts = [each.part for each in self._owned]
        self._blocks = _Blocks(self._norms)
        self._divided: list[Tensor] = []  # scale * W / sigma of the fast ones

    def _resort(self) -> None:
        """Give up parts whose weight is not a parameter now, made by pruning or another hook; sort
        again where parts were cast or moved."""
        made = [each for each in self._owned if each.layer._parameters.get(each.name) is None]
        for each in made:
            each.part.managed = False
        if made or any(_kind_of(norm) != self._kind for norm in self._norms):
            self._owned = [each for each in self._owned if each not in made]
            self._sort()

    @torch.no_grad()
    def update(self) -> None:
        """Iterate for each weight as it is now."""
        self.updates += 1
        self._divided = []
        self._resort()
        for part in self.parts:
            part._past = None
        gates = []
        for each in self._slow:
            if isinstance(each.part, OptionalSpectralNorm):
                weight = each.weight()
                gates.append((each.part, weight, each.part.measured(weight)))
            else:
                each.part.iterate(each.weight())
        decide(gates)
        if self._fast:
            self._blocks.iterate([each.weight() for each in self._fast])
        self.mark()

    def mark(self) -> None:
        """Record that the estimates are those of the weights as they are now."""
        for each in self._slow:
            each.part.mark(each.weight())
        self._seen = [each.part.mark(each.weight()) for each in self._fast]

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
            for each in self._slow:
                part, weight = each.part, each.weight()
                part.follow(weight)
                if needs_graph(weight):
                    part.lend(_Lend.apply(part, weight, *part.parameters()))  # type: ignore[no-untyped-call]
                else:
                    part.lend(part.quotient(weight))
            if self._fast:
                weights = [each.weight() for each in self._fast]
                with normal_mode(weights[0]):
                    self._refresh(weights)
                made = _Divide.apply(self, *weights)  # type: ignore[no-untyped-call]
                for norm, weight in zip(self._norms, made, strict=True):
                    norm.lend(weight)
            yield
        finally:
            for part, lent in zip(parts, before, strict=True):
                part.lend(lent)

    @torch.no_grad()
    def _refresh(self, weights: list[Tensor]) -> None:
        """Compute W / sigma of the fast ones, unless it is there already."""
        seen = [stamp(weight) for weight in weights]
        if self._divided and self._seen == seen:
            return
        norms = self._norms
        if self._seen != seen:
            # Written since the last update: by a checkpoint with its own sigma, or by hand.
            for norm, weight in zip(norms, weights, strict=True):
                if not norm.fits(weight):
                    norm.settle(weight)
        self._seen = seen
        self._divided = []  # freed before the next are made
        self._sigmas = [n.last_sigma if n.scale == 1 else n.last_sigma / n.scale for n in norms]
        self._divided = list(torch._foreach_div(weights, self._sigmas))


def _kind_of(part: WeightPart) -> tuple[torch.dtype, torch.device] | None:
    """The dtype and device of a part that is iterated together with others; None for the rest."""
    if type(part) is not SpectralNorm or part.groups > 1 or part.output_axis:
        return None
    return part.block.dtype, part.block.device


def _check_holds(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = module.named_parameters()
    left = [name for name, p in named if p.requires_grad and id(p) not in held]
    if left:
        raise ValueError(
            f"the optimizer does not hold {listed(left)} of the network; make it after `convert`,"
            " from network.parameters()"
        )


class _Blocks:
    """The iterations of many spectral norms of one group each, with the small algebra batched.

    All norms have one dtype and device. x (layers, k, d), z (layers, d, k) and y (k, sum of n) hold
    the blocks and their products, with zeros where a layer has fewer vectors or rows.
    """

    def __init__(self, norms: list[SpectralNorm]) -> None:
        self.norms = norms
        self._x: Tensor | None = None

    def _allocate(self) -> Tensor:
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
        return self._x

    def iterate(self, weights: list[Tensor]) -> None:
        with torch.autocast(weights[0].device.type, enabled=False):
            matrices = [n.matrix(w)[0] for n, w in zip(self.norms, weights, strict=True)]
            values, lengths = self._iterate(matrices, weights)
        # Iterate again where the estimate still moves, if values may be read.
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
        """Iterate all blocks once; the value of each before that, and the length of its `left`."""
        norms, blocks = self.norms, [norm.block[0] for norm in self.norms]
        whole = self._allocate() if self._x is None else self._x
        torch._foreach_copy_([x for x, _, _ in self._views], blocks)
        for a, (x, y, z) in zip(matrices, self._views, strict=True):
            torch.mm(x, a, out=y)
            torch.mm(a, y.t(), out=z)
        found = advance(whole, self._z)
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
            if column.data_ptr() != norm.v.data_ptr():  # v has another memory order
                norm.v.copy_(norm.uncolumned(column[None], weight))
        return found.value, lengths[: len(lefts)]


class _Lend(torch.autograd.Function):
    """The weight of a part; like _Divide, it allows several backward passes."""

    @staticmethod
    def forward(ctx: Any, part: WeightPart, weight: Tensor, *own: Tensor) -> Tensor:
        with torch.enable_grad():
            source = weight.detach().requires_grad_()
            made = part.quotient(source)
        ctx.part, ctx.given, ctx.graph = part, (weight, *own), (made, (source, *own))
        return made.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # with create_graph
        made, sources = ctx.graph
        if again:
            made, sources = ctx.part.normalised(ctx.given[0]), ctx.given
        found = torch.autograd.grad(
            made, sources, gradient, retain_graph=True, create_graph=again, allow_unused=True
        )
        return (None, *found)


class _Divide(torch.autograd.Function):
    """W -> scale * W / sigma for many weights, with u and v constant (equation 9)."""

    @staticmethod
    def forward(ctx: Any, bank: SigmaBank, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        # Nothing is saved for the backward pass, so that several of them are possible. The buffers
        # u, v and sigma may be written in place; `updates` guards them.
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
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            norm = bank._norms[index]
            if torch.is_grad_enabled():  # with create_graph
                weight = ctx.weights[index]
                made = norm.normalised(weight)
                (found[index],) = torch.autograd.grad(made, weight, gradient, create_graph=True)
            else:
                divided, sigma = bank._divided[index], bank._sigmas[index]
                found[index] = quotient_gradient(norm, gradient, divided, sigma, norm.u, norm.v)
        return (None, *found)
