"""Spectral normalisation: divide a weight by its largest singular value.

Miyato et al. 2018, arXiv:1802.05957; in the paper equations 2, 8 and 9. The norm is that of the
weight as a matrix, (outputs) x (inputs * kernel), not of the convolution as an operator, which is
up to sqrt(ceil(k / stride)^2) larger. Scaled and bidirectional forms: Lin, Sekar & Fanti 2021,
arXiv:2009.02773. `released_spectral` is the authors' released code of the MSN paper.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from msngan.norms.estimate import (
    BLOCK,
    ENOUGH,
    MOST_SETTLING,
    SETTLED,
    Estimated,
    Found,
    checked_iterations,
    checked_positive,
    iterated,
    start,
)
from msngan.norms.parts import (
    LOW_PRECISION,
    Entries,
    MatrixPart,
    Norm,
    full_precision,
    needs_graph,
    recomputing,
    widened,
)

# A value in all grids of Lin et al., who search it for each data set: 0.7 to 4.0 on CIFAR-10, 0.7
# to 1.6 on STL-10 and CelebA. 1 is plain spectral normalisation.
SCALE = 1.4
TINY = 1e-12  # keeps a zero weight zero, and its u, in ReleasedSpectralNorm


class SpectralNorm(Estimated, MatrixPart):
    """Map a weight W to scale * W / sigma(W), sigma estimated by a persistent block of vectors.

    The weight is viewed as a matrix, (outputs) x (inputs * kernel); for a grouped convolution as
    one block per group, and sigma is the largest. A zero weight stays as it is. Buffers, in float32
    or above whatever the module is cast to: u (groups, outputs / groups) and v (groups, inputs /
    groups, *kernel), the leading singular vectors, or zeros for a zero weight; last_sigma (),
    u^T W v at the last iteration; block (groups, k, outputs / groups), orthonormal, k = 16 or the
    smaller side of the matrix.

    sigma(W') is within 0.98 to 1.02 in training, eval and fold (tests/test_norm_accuracy.py). The
    gradient takes u and v as constants (equation 9), so <dL/dW, W> = 0. Under autocast all of this
    stays in float32.
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
            if is_channels_last(weight):  # so that both have one memory order
                v = v.movedim(1, -1).contiguous().movedim(-1, 1)
            self.register_buffer("v", v)
            self.register_buffer("last_sigma", matrix.new_ones(()))
            count = min(BLOCK, rows, columns)
            self.register_buffer("block", matrix.new_zeros(groups, count, rows))
            if not weight.is_meta:
                self.settle(weight)

    def extra_repr(self) -> str:
        return f"scale={self.scale}" if self.scale != 1 else ""

    def normalised(self, weight: Tensor) -> Tensor:
        """scale * W / sigma, differentiable in W; u and v are constants."""
        return weight / (self.sigma(weight) / self.scale).to(weight.dtype)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate u^T W v, a scalar, differentiable in W."""
        # Copies: a later iteration writes u and v in place, which must not reach this graph.
        return self._estimate(weight, self.u.clone(), self.v.clone())

    def _estimate(self, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        # bmm with one column per group also works on a meta device and in forward-mode AD.
        with full_precision(weight):
            product = torch.bmm(self.matrix(weight), self.columns(v, weight).unsqueeze(2))
            sigma = (u * product.squeeze(2)).sum(1)
            sigma = sigma[0] if self.groups == 1 else sigma.max()
            return torch.where(sigma == 0, torch.ones_like(sigma), sigma)

    def quotient(self, weight: Tensor) -> Tensor:
        if self.groups == 1 and needs_graph(weight):
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
            least = torch.finfo(y.dtype).tiny  # for a zero weight u and v are 0, and sigma is 1
            right = torch.bmm(y.mT, found.vector).squeeze(2)
            lengths = [x.norm(dim=1, keepdim=True).clamp_min(least) for x in (found.left, right)]
            self.u.copy_(found.left / lengths[0])
            self.v.copy_(self.uncolumned(right / lengths[1], weight))
            self.block.copy_(found.block)
            self.last_sigma.copy_((lengths[0] / lengths[1]).max())

    def loaded(self, weight: Tensor) -> None:
        """As for any part, but a state of torch or of an older version keeps its sigma."""
        if self.last_sigma.isnan() and not weight.is_meta:
            with torch.no_grad():
                sigma = self._estimate(weight, self.u, self.v)
                matrix, v = self.matrix(weight), self.columns(self.v, weight)
                left = torch.bmm(self.u.unsqueeze(1), matrix).norm(dim=2).max()
                right = torch.bmm(matrix, v.unsqueeze(2)).norm(dim=1).max()
                if sigma > 0.9 * min(left, right):  # u and v belong to this weight
                    self.last_sigma.copy_(sigma)
                    self.known_in_eval(weight)
                    return
        super().loaded(weight)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Also read states of torch and of older versions, which have fewer buffers."""
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
        """(groups, outputs / groups, inputs / groups * kernel), in float32 or above.

        The columns are in memory order, so that the weight of a convolution is not copied, whether
        it is in channels_last or not.
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
        """The inverse of `columns`, for any number of rows."""
        channels, *kernel = self.v.shape[1:]
        if self.output_axis == 0 and is_channels_last(weight):
            return flat.view(-1, *kernel, channels).movedim(-1, 1)
        return flat.view(-1, channels, *kernel)


def is_channels_last(weight: Tensor) -> bool:
    """Whether the weight is in channels_last and not contiguous."""
    return not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous()


def quotient_gradient(
    part: SpectralNorm, gradient: Tensor, divided: Tensor, sigma: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """Equation 9 for W' = scale * W / sigma, G = dL/dW': (scale * G - <G, W'> u v^T) / sigma.

    divided: W'. sigma: already divided by the scale. For one group.
    """
    if gradient.dtype in LOW_PRECISION:
        return quotient_gradient(part, gradient.float(), divided, sigma, u, v).to(gradient.dtype)
    outer = part.columns(v, gradient)
    matrix = part.matrix(gradient)[0]
    inner = torch.dot(matrix.reshape(-1), part.matrix(divided)[0].reshape(-1).to(gradient.dtype))
    if gradient.is_cpu:  # Python numbers do not wait here, and save a pass over the gradient
        size = float(sigma.numpy())
        alpha = -float(inner.numpy()) / (size * part.scale)
        made = torch.addr(matrix, u[0], outer[0], beta=1 / size, alpha=alpha)
    else:
        column = (u[0] * inner)[:, None]
        made = torch.addcmul(matrix, column, outer[0], value=-1 / part.scale) / sigma
    made = part.uncolumned(made, gradient)
    return made.transpose(0, 1) if part.output_axis else made


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
        if torch.is_grad_enabled():  # with create_graph
            divided = weight / (part._estimate(weight, u, v) / part.scale).to(weight.dtype)
            return torch.autograd.grad(divided, weight, given, create_graph=True)[0], None
        divided = weight / sigma.to(weight.dtype)
        return quotient_gradient(part, given, divided, sigma, u, v), None


class BidirectionalSpectralNorm(MatrixPart):
    """Map a weight W to scale * W / sigma(W), sigma the mean over two directions.

    The weight of a convolution is a matrix in two ways: (outputs) x (inputs * kernel), which bounds
    the forward pass, and (inputs) x (outputs * kernel), which bounds the backward pass. by_outputs
    and by_inputs are a SpectralNorm each. For a linear layer one matrix is the transpose of the
    other, so by_inputs is None and this is SpectralNorm. A grouped convolution is block diagonal
    in both ways: each direction takes its largest group.
    """

    by_inputs: SpectralNorm | None

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        self.scale, self.unit = scale, scale == 1
        self.by_outputs = SpectralNorm(weight, output_axis=output_axis, groups=groups)
        # Transposed convolutions store the inputs first, so the two directions swap.
        other = partial(SpectralNorm, output_axis=1 - output_axis, groups=groups)
        self.by_inputs = other(weight) if weight.dim() > 2 else None

    extra_repr = SpectralNorm.extra_repr
    normalised = SpectralNorm.normalised

    def sigma(self, weight: Tensor) -> Tensor:
        """The mean of the two estimates u^T W v, a scalar, differentiable in W."""
        sigmas = [direction.sigma(weight) for direction in self.estimates()]  # type: ignore[operator]
        return sum(sigmas) / len(sigmas)


class ReleasedSpectralNorm(MatrixPart):
    """Overwrite the weight with W / sigma(W), as the authors' code does. For comparison only.

    github.com/AntixK/mean-spectral-norm, commit 9772d81: sigma comes from 100 power iterations, and
    no gradient goes through it: a projection, not the reparametrisation of equations 2, 8 and 9.

    u: buffer (groups, outputs / groups, 1), unit vectors in float32 or above; zeros until the first
    projection. The first training pass overwrites the weight; later each update of a SigmaBank
    does, or without a bank each training pass. Eval writes nothing; before the first projection it
    divides by sigma.
    """

    precise = ("u",)
    u: Tensor

    def __init__(self, weight: Tensor, *, iterations: int = 100, **layout: int) -> None:
        super().__init__(weight, **layout)
        self.iterations, self.known = iterations, False
        rows = weight.shape[self.output_axis] // (1 if self.output_axis else self.groups)
        self.register_buffer("u", widened(weight.detach()).new_zeros(self.groups, rows, 1))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and not (self.managed and self.known) and not recomputing():
            self.iterate(weight)
        return self.normalised(weight)

    def normalised(self, weight: Tensor) -> Tensor:
        """A view of the weight; before the first projection W / sigma, with sigma constant."""
        if self.known:
            return weight.view_as(weight)
        return weight / self._estimate(weight, self.iterations)[1].to(weight.dtype)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Improve u, then W <- W / sigma, in place."""
        u, sigma = self._estimate(weight, self.iterations)
        self.u.copy_(u)
        # .data, as in the released code: a forward pass may still await its backward.
        weight.data.div_(sigma.to(weight.dtype))
        self.known = True

    @torch.no_grad()
    def _estimate(self, weight: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """u and sigma, a scalar > 0, after `times` power iterations from the stored u."""
        with full_precision(weight):
            blocks = widened(weight.detach()).unflatten(0, (self.groups, -1))
            if self.output_axis:  # (groups, inputs / groups, outputs / groups, *kernel)
                blocks = blocks.transpose(1, 2)
            matrix = blocks.flatten(2)
            length = matrix.norm().clamp_min(TINY)
            square = (matrix / length) @ (matrix / length).mT  # small, for u <- W (W^T u)
            square.diagonal(dim1=1, dim2=2).add_(TINY)
            u = self.u if self.known else start(self.u.mT.shape, self.u).mT
            for _ in range(times):
                u = square @ u
                u = u / u.norm(dim=1, keepdim=True)
            return u, (matrix.mT @ u).norm(dim=1).max().clamp_min(TINY)

    def loaded(self, weight: Tensor) -> None:
        self.known = not self.u.is_meta and bool(self.u.any())


def scaled(scale: float = SCALE) -> Norm:
    """Spectral normalisation times `scale` > 0, the same for every layer."""
    return Norm(weight=partial(SpectralNorm.of, scale=checked_positive("scale", scale)))


def bidirectional_scaled(scale: float = SCALE) -> Norm:
    """Bidirectional spectral normalisation times `scale` > 0, the same for every layer."""
    scale = checked_positive("scale", scale)
    return Norm(weight=partial(BidirectionalSpectralNorm.of, scale=scale))


def released_spectral(iterations: int = 100) -> Norm:
    """iterations: power iterations of each projection, at least 1."""
    iterations = checked_iterations(iterations)
    return Norm(weight=partial(ReleasedSpectralNorm.of, iterations=iterations))


ENTRIES: Entries = {
    "spectral": Norm(weight=SpectralNorm.of),
    "bidirectional": Norm(weight=BidirectionalSpectralNorm.of),
    "scaled": scaled,
    "bidirectional_scaled": bidirectional_scaled,
    "released_spectral": released_spectral,
}
