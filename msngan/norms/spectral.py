"""Spectral normalisation: divide a weight by its largest singular value.

Miyato et al. 2018, arXiv:1802.05957; in the paper equations 2, 8 and 9. The norm is that of the
weight as a matrix, (outputs) x (inputs * kernel), not of the convolution as an operator, which is
up to sqrt(ceil(k / stride)^2) larger. Scaled and bidirectional forms: Lin, Sekar & Fanti 2021,
arXiv:2009.02773.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from msngan.norms.base import Norm
from msngan.norms.estimate import (
    BLOCK,
    ENOUGH,
    MOST,
    MOST_SETTLING,
    SETTLED,
    Found,
    iterated,
    looks,
    start,
)
from msngan.norms.parts import LOW_PRECISION, MatrixPart, WeightPart, full_precision, widened

# In all of the grids of Lin et al.: 0.7 to 4.0 on CIFAR-10, 0.7 to 1.6 on STL-10 and CelebA. They
# search it for each data set; 1 is spectral normalisation as it was.
SCALE = 1.4
ROUNDING = 100  # units of rounding between two sigmas of one weight
ALLOWED = 1.015  # sigma over its estimate, where that is kept


class Estimated(WeightPart):
    """What the parts share that estimate a largest singular value by a block of vectors.

    v: buffer, a unit vector. last_sigma: buffer (), the estimate that v gives, as it was found.
    """

    v: Tensor
    last_sigma: Tensor
    most = MOST  # iterations an update; `bench sigma` measures 1, of one vector

    @property
    def known(self) -> bool:
        """Whether there is an estimate."""
        return self.v.numel() > 0

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate, a scalar, differentiable in W."""
        raise NotImplementedError

    def anew(self, weight: Tensor) -> Tensor:
        """An estimate that starts from nothing and writes nothing."""
        raise NotImplementedError

    def improve(self, weight: Tensor) -> None:
        """The iterations of one update."""
        raise NotImplementedError

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Iterate the block, in place; on a CPU once more while that still raises sigma."""
        if self.known:
            self.improve(weight)
            # Of a weight of NaN, and this one is not.
            lost = looks(weight) and bool(self.last_sigma.isnan())
            if lost and bool(weight.isfinite().all()):
                self.settle(weight)

    @torch.no_grad()
    def fits(self, weight: Tensor) -> bool:
        """Whether last_sigma is that of v, and near to what an estimate made anew finds."""
        if not self.known:
            return True
        # NaN of a zero weight, whose sigma is 1.
        return self.consistent(weight) and not (
            float(self.anew(weight)) > ALLOWED * float(self.last_sigma)
        )

    @torch.no_grad()
    def consistent(self, weight: Tensor) -> bool:
        if not self.known:
            return True
        sigma, last = float(self.sigma(weight)), float(self.last_sigma)
        return abs(sigma - last) <= ROUNDING * torch.finfo(self.v.dtype).eps * last


class SigmaPart(MatrixPart):
    """Map a weight W to scale * W / sigma(W); a zero weight has sigma taken as 1."""

    scale: float

    def extra_repr(self) -> str:
        return f"scale={self.scale}" if self.scale != 1 else ""

    def normalised(self, weight: Tensor) -> Tensor:
        """scale * W / sigma, differentiable in W; what sigma is estimated by as it is."""
        return weight / (self.sigma(weight) / self.scale).to(weight.dtype)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate, a scalar, differentiable in W."""
        raise NotImplementedError


class SpectralNorm(Estimated, SigmaPart):
    """Map a weight W to scale * W / sigma(W), sigma estimated by a persistent block of vectors.

    The weight is a matrix of (outputs) x (inputs * kernel), in blocks for a grouped convolution,
    whose largest one counts. Buffers, in float32 at least whatever the module is cast to:
    u (groups, outputs / groups) and v (groups, inputs / groups, *kernel), unit vectors, the leading
    singular vectors, or zero for a zero weight; last_sigma (), u^T W v as the last iteration found
    it; block (groups, k, outputs / groups), orthonormal, k = 16 or the smaller side of the matrix.

    sigma(W') lies in 0.98 to 1.02 in training, eval and fold; tests/test_norm_accuracy.py holds it.
    The gradient takes u and v as constants (equation 9), so <dL/dW, W> = 0. Under autocast all of
    this stays in float32.
    """

    precise = ("u", "v", "last_sigma", "block")
    u: Tensor
    block: Tensor

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        self.scale, self.unit = scale, scale == 1
        with torch.no_grad():
            matrix = self.matrix(weight)
            _, rows, columns = matrix.shape
            inputs = weight.shape[0] // groups if output_axis else weight.shape[1]
            self.register_buffer("u", matrix.new_zeros(groups, rows))
            v = matrix.new_zeros(groups, inputs, *weight.shape[2:])
            if is_channels_last(weight):  # so that both are read in one order
                v = v.movedim(1, -1).contiguous().movedim(-1, 1)
            self.register_buffer("v", v)
            self.register_buffer("last_sigma", matrix.new_ones(()))
            count = min(BLOCK, rows, columns)
            self.register_buffer("block", matrix.new_zeros(groups, count, rows))
            if not weight.is_meta:
                self.settle(weight)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate u^T W v, a scalar, differentiable in W."""
        # Copies: a later iteration writes u and v in place, which must not reach this graph.
        return self._estimate(weight, self.u.clone(), self.v.clone())

    def _estimate(self, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        # One column a group, not v alone: with it a meta device, and forward AD, go along.
        with full_precision(weight):
            product = torch.bmm(self.matrix(weight), self.columns(v, weight).unsqueeze(2))
            sigma = (u * product.squeeze(2)).sum(1)
            sigma = sigma[0] if self.groups == 1 else sigma.max()
            return torch.where(sigma == 0, torch.ones_like(sigma), sigma)

    def quotient(self, weight: Tensor) -> Tensor:
        if self.groups == 1 and torch.is_grad_enabled() and weight.requires_grad:
            made: Tensor = _Quotient.apply(weight, self)  # type: ignore[no-untyped-call]
            return made
        return self.normalised(weight)

    def anew(self, weight: Tensor) -> Tensor:
        found, _ = self._found(weight, start(self.block.shape, self.block), SETTLED, MOST_SETTLING)
        return (found.left.norm(dim=1) / found.value.clamp_min(0).sqrt()).max()

    def improve(self, weight: Tensor) -> None:
        self._iterate(weight, ENOUGH, self.most)

    @torch.no_grad()
    def settle(self, weight: Tensor) -> None:
        self.block.copy_(start(self.block.shape, self.block))
        self._iterate(weight, SETTLED, MOST_SETTLING)

    def _found(
        self, weight: Tensor, block: Tensor, enough: float, most: int
    ) -> tuple[Found, Tensor]:
        with full_precision(weight):
            a = self.matrix(weight.detach())

            def products(x: Tensor) -> tuple[Tensor, Tensor]:
                y = torch.bmm(x, a)
                return y, torch.bmm(a, y.mT)

            return iterated(block, products, enough, most)

    def _iterate(self, weight: Tensor, enough: float, most: int) -> None:
        found, y = self._found(weight, self.block, enough, most)
        with full_precision(weight):
            least = torch.finfo(y.dtype).tiny  # of a zero weight u and v are zero, and sigma is 1
            right = torch.bmm(y.mT, found.vector).squeeze(2)
            lengths = [x.norm(dim=1, keepdim=True).clamp_min(least) for x in (found.left, right)]
            self.u.copy_(found.left / lengths[0])
            self.v.copy_(self.uncolumned(right / lengths[1], weight))
            self.block.copy_(found.block)
            self.last_sigma.copy_((lengths[0] / lengths[1]).max())

    def loaded(self, weight: Tensor) -> None:
        """As for any part; a state of torch's, or of an older version, keeps the sigma it has."""
        if self.last_sigma.isnan() and not weight.is_meta:
            with torch.no_grad():
                sigma = self._estimate(weight, self.u, self.v)
                matrix, v = self.matrix(weight), self.columns(self.v, weight)
                left = torch.bmm(self.u.unsqueeze(1), matrix).norm(dim=2).max()
                right = torch.bmm(matrix, v.unsqueeze(2)).norm(dim=1).max()
                if sigma > 0.9 * min(left, right):  # of this weight, and not of another
                    self.last_sigma.copy_(sigma)
                    self.known_in_eval(weight)
                    return
        super().loaded(weight)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Also the states of torch and of older versions, which have fewer buffers."""
        v = state_dict.get(prefix + "v")
        if isinstance(v, Tensor) and v.numel() == self.v.numel() and v.dim() < self.v.dim():
            state_dict[prefix + "v"] = v.reshape(self.v.shape)
        has_both = isinstance(v, Tensor) and isinstance(state_dict.get(prefix + "u"), Tensor)
        newer = {prefix + "block", prefix + "last_sigma"}
        if has_both and not newer <= state_dict.keys():
            state_dict[prefix + "last_sigma"] = torch.full_like(self.last_sigma, torch.nan)
            state_dict[prefix + "block"] = start(self.block.shape, self.block)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def matrix(self, weight: Tensor) -> Tensor:
        """(groups, outputs / groups, inputs / groups * kernel), in float32 at least.

        The columns are in the order in which the weight lies in memory, so that no weight of a
        convolution is copied, whether in channels_last or not.
        """
        weight = widened(weight)
        if self.output_axis == 1:  # (inputs, outputs / groups, *kernel)
            weight = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
            return weight.flatten(2)
        if is_channels_last(weight):
            weight = weight.movedim(1, -1)
        return weight.reshape(self.groups, -1, weight[0].numel())

    def columns(self, v: Tensor, weight: Tensor) -> Tensor:
        """v as (groups, columns), in the order of the columns of `matrix(weight)`."""
        if self.output_axis == 0 and is_channels_last(weight):
            v = v.movedim(1, -1)
        return v.flatten(1)

    def uncolumned(self, flat: Tensor, weight: Tensor) -> Tensor:
        """The inverse of `columns`."""
        channels, *kernel = self.v.shape[1:]
        if self.output_axis == 0 and is_channels_last(weight):
            return flat.view(self.groups, *kernel, channels).movedim(-1, 1)
        return flat.view(self.v.shape)


def is_channels_last(weight: Tensor) -> bool:
    """Whether the weight lies in memory with its channels last and not as torch makes it."""
    return not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous()


def quotient_gradient(
    part: SpectralNorm, given: Tensor, divided: Tensor, sigma: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """Equation 9: (scale * G - <G, W'> u v^T) / sigma of W' = scale * W / sigma, G = dL/dW'.

    sigma: already divided by the scale. For one group.
    """
    if given.dtype in LOW_PRECISION:
        return quotient_gradient(part, given.float(), divided, sigma, u, v).to(given.dtype)
    outer = part.columns(v, given)
    matrix = part.matrix(given)[0]
    inner = torch.dot(matrix.reshape(-1), part.matrix(divided)[0].reshape(-1).to(given.dtype))
    if given.is_cpu:  # numbers cost nothing here, and save a pass over the gradient
        size = float(sigma.numpy())
        alpha = -float(inner.numpy()) / (size * part.scale)
        made = torch.addr(matrix, u[0], outer[0], beta=1 / size, alpha=alpha)
    else:
        scaled = u[0] * (inner / -part.scale)
        made = torch.addcmul(matrix, scaled[:, None], outer[0]) / sigma
    return _unmatrixed(part, made, given)


def _unmatrixed(part: SpectralNorm, matrix: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `matrix` for one group, in the memory layout of the weight."""
    if part.output_axis == 1:
        outputs, inputs, *kernel = weight.transpose(0, 1).shape
        return matrix.view(outputs, inputs, *kernel).transpose(0, 1)
    if is_channels_last(weight):
        outputs, channels, *kernel = weight.shape
        return matrix.view(outputs, *kernel, channels).movedim(-1, 1)
    return matrix.view(weight.shape)


class _Quotient(torch.autograd.Function):
    """W -> scale * W / sigma, u and v constant (equation 9)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, part: SpectralNorm) -> Tensor:
        u, v = part.u.clone(), part.v.clone()  # as in `sigma`
        sigma = part._estimate(weight, u, v) / part.scale
        ctx.part = part
        ctx.save_for_backward(weight, u, v, sigma)
        return weight / sigma.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        weight, u, v, sigma = ctx.saved_tensors
        part = ctx.part
        if torch.is_grad_enabled():  # this gradient is to be differentiated again
            divided = weight / (part._estimate(weight, u, v) / part.scale).to(weight.dtype)
            return torch.autograd.grad(divided, weight, given, create_graph=True)[0], None
        divided = weight / sigma.to(weight.dtype)
        return quotient_gradient(part, given, divided, sigma, u, v), None


class BidirectionalSpectralNorm(SigmaPart):
    """Map a weight W to scale * W / sigma(W), sigma the mean over two directions.

    A convolution's weight is a matrix in two ways, (outputs) x (inputs * kernel), which bounds the
    forward pass, and (inputs) x (outputs * kernel), which bounds the backward pass. by_outputs,
    by_inputs: a SpectralNorm each. Of a linear layer's weight one matrix is the other's transpose,
    so by_inputs is None and this is SpectralNorm. With groups the convolution is block diagonal
    both ways: each direction takes its largest group.
    """

    by_inputs: SpectralNorm | None

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        self.scale, self.unit = scale, scale == 1
        self.by_outputs = SpectralNorm(weight, output_axis=output_axis, groups=groups)
        # Transposed convolutions store the inputs first: each direction is the other's plain one.
        other = partial(SpectralNorm, output_axis=1 - output_axis, groups=groups)
        self.by_inputs = other(weight) if weight.dim() > 2 else None

    def sigma(self, weight: Tensor) -> Tensor:
        """The mean of the two estimates u^T W v, a scalar, differentiable in W."""
        sigmas = [direction.sigma(weight) for direction in self.estimates()]  # type: ignore[operator]
        return sum(sigmas) / len(sigmas)


def _checked(scale: float) -> float:
    if not isinstance(scale, (int, float)) or not 0 < scale < inf:
        raise ValueError(f"scale {scale!r} is not a number above 0; choose 0.7 to 4.0, say")
    return scale


def scaled(scale: float = SCALE) -> Norm:
    """Spectral normalisation times `scale`, which is above 0 and the same for every layer."""
    return Norm(weight=partial(SpectralNorm.of, scale=_checked(scale)), options=scaled)


def bidirectional_scaled(scale: float = SCALE) -> Norm:
    """Bidirectional spectral normalisation times `scale`, above 0, the same for every layer."""
    weight = partial(BidirectionalSpectralNorm.of, scale=_checked(scale))
    return Norm(weight=weight, options=bidirectional_scaled)


SPECTRAL = Norm(weight=SpectralNorm.of)
BIDIRECTIONAL = Norm(weight=BidirectionalSpectralNorm.of)
SCALED, BIDIRECTIONAL_SCALED = scaled(), bidirectional_scaled()
