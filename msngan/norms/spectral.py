"""Spectral normalisation: divide a weight by its largest singular value.

Miyato et al. 2018, arXiv:1802.05957, algorithm 1; in the paper equations 2, 8 and 9. The norm is
that of the weight as a matrix, (outputs) x (inputs * kernel), not of the convolution as an
operator, which is up to sqrt(ceil(k / stride)^2) larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvTransposeNd


class SpectralNorm(nn.Module):
    """Map a weight W to W / sigma(W), with sigma estimated by a persistent power iteration.

    u, v: buffers (groups, outputs / groups) and (groups, inputs / groups * kernel) of unit rows, in
    float32 at least whatever the module is cast to. sigma = max over groups of u^T W v, so that a
    grouped convolution is taken as the block diagonal operator that it is.

    In training each call does one power iteration first, unless a SigmaBank has taken over. In eval
    u and v stand still and nothing is written. The gradient takes u and v as constants (equation
    9), so <dL/dW, W> = 0. Under autocast all of this stays in float32.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, warm_up: int = 15
    ) -> None:
        super().__init__()
        self.output_axis, self.groups = output_axis, groups
        self.managed = False  # a SigmaBank iterates, once per update
        self._shared: Tensor | None = None  # the normalised weight that a SigmaBank lends
        self._eps = 1e-12
        with torch.no_grad():
            matrix = self._matrix(weight)
            rows, columns = matrix.shape[1:]
            self.register_buffer("u", F.normalize(matrix.new_empty(groups, rows).normal_(), dim=1))
            self.register_buffer("v", F.normalize(matrix.new_ones(groups, columns), dim=1))
            self.iterate(weight, warm_up)

    @classmethod
    def of(cls, layer: nn.Module) -> SpectralNorm:
        """The norm of a torch convolution, transposed convolution or linear layer."""
        weight, groups = layer.weight, getattr(layer, "groups", 1)
        assert isinstance(weight, Tensor)
        assert isinstance(groups, int)
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        return cls(weight, output_axis=axis, groups=groups)

    def forward(self, weight: Tensor) -> Tensor:
        if self._shared is not None:
            return self._shared
        if self.training and not self.managed:
            self.iterate(weight)
        return self.normalised(weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """W / sigma, differentiable in W; u and v as they are."""
        return weight / self.sigma(weight).to(weight.dtype)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate u^T W v, a scalar, differentiable in W."""
        with torch.autocast(weight.device.type, enabled=False):
            # Copies: a later iteration writes u and v in place, which must not reach this graph.
            u, v = self.u.clone(), self.v.clone()
            product = torch.bmm(self._matrix(weight), v.unsqueeze(2)).squeeze(2)
            return (u * product).sum(1).max()

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """v <- W^T u / |W^T u|, u <- W v / |W v|, in place."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self._matrix(weight)
            for _ in range(times):
                v = torch.bmm(self.u.unsqueeze(1), matrix).squeeze(1)
                self.v.copy_(F.normalize(v, dim=1, eps=self._eps))
                u = torch.bmm(matrix, self.v.unsqueeze(2)).squeeze(2)
                self.u.copy_(F.normalize(u, dim=1, eps=self._eps))

    def _matrix(self, weight: Tensor) -> Tensor:
        """(groups, outputs / groups, inputs / groups * kernel), in float32 at least."""
        if weight.dtype in (torch.float16, torch.bfloat16):
            weight = weight.float()
        if self.output_axis == 1:  # (inputs, outputs / groups, kernel)
            weight = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
            return weight.flatten(2)
        return weight.unflatten(0, (self.groups, -1)).flatten(2)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        super()._apply(fn, recurse)
        for name in ("u", "v"):
            buffer = getattr(self, name)
            if buffer.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, F.normalize(buffer.float(), dim=1))
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SpectralNorm:
        # A lent weight belongs to the bank's graph and cannot be copied.
        copy = SpectralNorm.__new__(SpectralNorm)
        nn.Module.__init__(copy)
        memo[id(self)] = copy
        copy.output_axis, copy.groups = self.output_axis, self.groups
        copy.managed, copy._shared, copy._eps = self.managed, None, self._eps
        copy.register_buffer("u", self.u.clone())
        copy.register_buffer("v", self.v.clone())
        return copy.train(self.training)


class SigmaBank:
    """One power iteration per update of a network, and one normalised weight for all its passes.

    Miyato's algorithm iterates once per update. Iterating at every access, as PyTorch does, costs
    three times as much in a GAN's step, and the real and the fake batch then meet different
    weights. Call `update()` after each optimizer step; run forward passes whose losses are summed
    into one backward inside `shared()`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.pairs: list[tuple[SpectralNorm, nn.Module]] = []
        for layer in module.modules():
            norm = getattr(layer, "weight_norm", None)
            if isinstance(norm, SpectralNorm):
                norm.managed = True
                self.pairs.append((norm, layer))

    def update(self) -> None:
        """One power iteration for each weight as it is now."""
        for norm, layer in self.pairs:
            norm.iterate(layer.weight)  # type: ignore[arg-type]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, every pass uses the same normalised weights, computed once on entry.

        They carry a graph if grad mode is on at entry: one backward may go through it.
        """
        before = [norm._shared for norm, _ in self.pairs]
        try:
            for norm, layer in self.pairs:
                norm._shared = norm.normalised(layer.weight)  # type: ignore[arg-type]
            yield
        finally:
            for (norm, _), weight in zip(self.pairs, before, strict=True):
                norm._shared = weight
