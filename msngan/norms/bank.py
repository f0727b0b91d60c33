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

from msngan.norms.parts import WeightPart
from msngan.norms.precision import LOW_PRECISION
from msngan.norms.spectral import TINY, SpectralNorm, is_channels_last


class SigmaBank:
    """Takes over the power iterations (and projections, and gates) of a network's norms.

    Call `update()` after each optimizer step, or give the optimizer, which then calls it. Run
    forward passes whose losses go into one backward inside `shared()`: they use the same weights,
    whose gradients are collected and divided by sigma once.

    each_pass: leave the norms that can iterate in each of their passes, as PyTorch's do, alone.

    A change of a weight between two updates is noticed by its version. Fused optimizers and writes
    through `.data` leave the version alone: there only `update()` makes the new weight known.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        each_pass: bool = False,
    ) -> None:
        self.parts: list[WeightPart] = []
        self._fast: list[tuple[SpectralNorm, nn.Module]] = []  # all of them together
        self._slow: list[tuple[WeightPart, nn.Module]] = []  # each by itself
        for layer in module.modules():
            part = getattr(layer, "weight_norm", None)
            if isinstance(part, WeightPart) and not (each_pass and part.may_iterate_in_passes):
                part.managed = True
                self.parts.append(part)
                if type(part) is SpectralNorm and part.groups == 1 and not part.output_axis:
                    self._fast.append((part, layer))
                else:
                    self._slow.append((part, layer))
        self._divided: list[Tensor] = []  # scale * W / sigma of the fast ones
        self._sigmas: list[Tensor] = []
        self._seen: list[tuple[int, int]] = []  # of which weights
        self.updates = 0
        if optimizer is not None:
            optimizer.register_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """One power iteration for each weight as it is now."""
        self.updates += 1
        self._divided = []
        for part, layer in self._slow:
            part.iterate(_weight(layer))
        if self._fast:
            norms, weights = self._fast_ones()
            with torch.autocast(weights[0].device.type, enabled=False):
                self._iterate_fast(norms, weights)
            self._seen = [_stamp(weight) for weight in weights]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, every pass uses the same normalised weights, computed once.

        They carry a graph if grad mode is on at entry: one backward may go through it, before the
        next update.
        """
        before = [part._shared for part in self.parts]
        try:
            for part, layer in self._slow:
                part.lend(part.normalised(_weight(layer)))
            if self._fast:
                norms, weights = self._fast_ones()
                self._refresh(norms, weights)
                for norm, weight in zip(norms, _Divide.apply(self, *weights), strict=True):
                    norm.lend(weight)
            yield
        finally:
            for part, weight in zip(self.parts, before, strict=True):
                part.lend(weight)

    def _fast_ones(self) -> tuple[list[SpectralNorm], list[Tensor]]:
        return [norm for norm, _ in self._fast], [_weight(layer) for _, layer in self._fast]

    def _iterate_fast(self, norms: list[SpectralNorm], weights: list[Tensor]) -> None:
        """Two products a layer; the norms and quotients of all layers together."""
        matrices = [norm.matrix(weight)[0] for norm, weight in zip(norms, weights, strict=True)]
        us = [norm.u[0] for norm in norms]
        vs = [norm.columns(norm.v, weight)[0] for norm, weight in zip(norms, weights, strict=True)]
        for u, v, matrix in zip(us, vs, matrices, strict=True):
            torch.addmv(v, matrix.t(), u, beta=TINY, out=v)
        torch._foreach_div_(vs, torch._foreach_norm(vs))
        for u, v, matrix in zip(us, vs, matrices, strict=True):
            torch.addmv(u, matrix, v, beta=TINY, out=u)
        sigmas = torch._foreach_norm(us)
        torch._foreach_div_(us, sigmas)
        torch._foreach_copy_([norm.last_sigma for norm in norms], sigmas)
        for norm, v, weight in zip(norms, vs, weights, strict=True):
            if v.data_ptr() != norm.v.data_ptr():  # v lies in memory in another order
                norm.v.copy_(norm.uncolumned(v[None], weight))

    @torch.no_grad()
    def _refresh(self, norms: list[SpectralNorm], weights: list[Tensor]) -> None:
        """W / sigma of the fast ones, unless it is there already."""
        seen = [_stamp(weight) for weight in weights]
        if self._divided and self._seen == seen:
            return
        if self._seen != seen:
            # Written since the last update: by a checkpoint with its own sigma, or by hand.
            for norm, weight in zip(norms, weights, strict=True):
                norm.correct(weight)
        self._seen = seen
        self._divided = []  # freed before the next are made
        self._sigmas = [n.last_sigma if n.scale == 1 else n.last_sigma / n.scale for n in norms]
        self._divided = list(torch._foreach_div(weights, self._sigmas))

    def _divided_gradients(self, wanted: list[int], given: list[Tensor]) -> list[Tensor]:
        norms = [self._fast[index][0] for index in wanted]
        divided = [self._divided[index] for index in wanted]
        sigmas = [self._sigmas[index] for index in wanted]
        if any(gradient.dtype in LOW_PRECISION for gradient in given):
            wide = self._divided_gradients(wanted, [gradient.float() for gradient in given])
            return [each.to(gradient.dtype) for each, gradient in zip(wide, given, strict=True)]
        if given[0].is_cpu:  # numbers cost nothing here, and save a pass over each gradient
            each = zip(norms, given, divided, sigmas, strict=True)
            return [_divided_gradient(*arguments) for arguments in each]
        made = list(torch._foreach_div(given, sigmas))
        inner = [_inner(each, weight) for each, weight in zip(made, divided, strict=True)]
        us = torch._foreach_mul([norm.rows(norm.u) for norm in norms], inner)
        scales = [-1 / norm.scale for norm in norms]
        torch._foreach_addcmul_(made, us, [norm.v for norm in norms], scales)
        return made


def _divided_gradient(norm: SpectralNorm, given: Tensor, divided: Tensor, sigma: Tensor) -> Tensor:
    inner, size = _number(_inner(given, divided)), _number(sigma)
    v = norm.columns(norm.v, given)[0]
    alpha = -inner / (size * norm.scale)
    made = torch.addr(norm.matrix(given)[0], norm.u[0], v, beta=1 / size, alpha=alpha)
    return norm.unmatrixed(made[None], given)


def _number(x: Tensor) -> float:
    return float(x.numpy())


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _stamp(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b>, without a copy where both lie alike in memory."""
    if is_channels_last(a) and is_channels_last(b):
        a, b = a.movedim(1, -1), b.movedim(1, -1)
    return torch.dot(a.flatten(), b.flatten().to(a.dtype))


class _Divide(torch.autograd.Function):
    """W -> scale * W / sigma for many weights, u and v constant (equation 9).

    dL/dW = (scale * G - <G, W'> u v^T) / sigma for W' = scale * W / sigma and G = dL/dW'.
    """

    @staticmethod
    def forward(ctx: Any, bank: SigmaBank, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.bank, ctx.updates = bank, bank.updates
        # u, v and sigma are buffers, which are written in place (also by others, as when several
        # processes start alike): `updates` guards them, and nothing of them is saved here.
        ctx.save_for_backward(*weights)
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
            weights = [ctx.saved_tensors[index] for index in wanted]
            norms = [bank._fast[index][0] for index in wanted]
            outputs = [n.normalised(weight) for n, weight in zip(norms, weights, strict=True)]
            made = torch.autograd.grad(outputs, weights, given, create_graph=True)
        else:
            made = bank._divided_gradients(wanted, given)
        for index, gradient in zip(wanted, made, strict=True):
            found[index] = gradient
        return (None, *found)
