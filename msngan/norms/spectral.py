"""Spectral normalisation: divide a weight by its largest singular value.

Miyato et al. 2018, arXiv:1802.05957, algorithm 1; in the paper equations 2, 8 and 9. The norm is
that of the weight as a matrix, (outputs) x (inputs * kernel), not of the convolution as an
operator, which is up to sqrt(ceil(k / stride)^2) larger.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from msngan.norms.base import Norm
from msngan.norms.parts import MatrixPart
from msngan.norms.precision import widened

# Added to each new vector times the old one: a zero weight then leaves u and v as they are and
# becomes zero, and a weight that is not zero has the same singular vectors.
TINY = 1e-12


class SigmaPart(MatrixPart):
    """Map a weight W to scale * W / sigma(W)."""

    scale: float

    def extra_repr(self) -> str:
        return f"scale={self.scale}" if self.scale != 1 else ""

    def normalised(self, weight: Tensor) -> Tensor:
        """scale * W / sigma, differentiable in W; what sigma is estimated by as it is."""
        return weight / (self.sigma(weight) / self.scale).to(weight.dtype)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate, a scalar > 0, differentiable in W."""
        raise NotImplementedError


class SpectralNorm(SigmaPart):
    """Map a weight W to scale * W / sigma(W), sigma estimated by a persistent power iteration.

    u, v: buffers of unit vectors, one pair per group, in float32 at least whatever the module is
    cast to: u (groups, outputs / groups), v (groups, inputs / groups, *kernel). sigma = max over
    groups of u^T W v, so that a grouped convolution is taken as the block diagonal operator that it
    is. last_sigma: buffer (), sigma as the last iteration found it.

    The gradient takes u and v as constants (equation 9), so <dL/dW, W> = 0. Under autocast all of
    this stays in float32.
    """

    precise = ("u", "v", "last_sigma")
    u: Tensor
    v: Tensor
    last_sigma: Tensor

    def __init__(
        self,
        weight: Tensor,
        *,
        output_axis: int = 0,
        groups: int = 1,
        scale: float = 1.0,
        warm_up: int = 15,
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        self.scale = scale
        with torch.no_grad():
            matrix = self.matrix(weight)
            rows = matrix.shape[1]
            columns = (weight.shape[0] // groups if output_axis else weight.shape[1],)
            self.register_buffer("u", F.normalize(matrix.new_empty(groups, rows).normal_(), dim=1))
            v = matrix.new_ones(groups, *columns, *weight.shape[2:])
            if is_channels_last(weight):  # so that both are read in one order
                v = v.movedim(1, -1).contiguous().movedim(-1, 1)
            self.register_buffer("v", v / v[0].numel() ** 0.5)
            self.register_buffer("last_sigma", matrix.new_ones(()))
            self.iterate(weight, warm_up)

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate u^T W v, a scalar > 0, differentiable in W."""
        with torch.autocast(weight.device.type, enabled=False):
            # Copies: a later iteration writes u and v in place, which must not reach this graph.
            u, v = self.u.clone(), self.columns(self.v, weight).clone()
            product = torch.bmm(self.matrix(weight), v.unsqueeze(2)).squeeze(2)
            return (u * product).sum(1).max().clamp_min(TINY)

    @torch.no_grad()
    def iterate(self, weight: Tensor, times: int = 1) -> None:
        """v <- W^T u / |W^T u|, u <- W v / |W v|, sigma <- |W v|, in place."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self.matrix(weight)
            flat = self.columns(self.v, weight)
            for _ in range(times):
                v = torch.bmm(self.u.unsqueeze(1), matrix).squeeze(1) + TINY * flat
                flat = v / v.norm(dim=1, keepdim=True)
                u = torch.bmm(matrix, flat.unsqueeze(2)).squeeze(2) + TINY * self.u
                sigma = u.norm(dim=1, keepdim=True)
                self.u.copy_(u / sigma)
                self.last_sigma.copy_(sigma.max())
            self.v.copy_(self.uncolumned(flat, weight))

    @torch.no_grad()
    def correct(self, weight: Tensor) -> None:
        """last_sigma of a weight that was written without an iteration, u and v as they are.

        It stays if it is right but for rounding: a resumed run then goes on with the same bits.
        """
        sigma = self.sigma(weight)
        rounding = 100 * torch.finfo(sigma.dtype).eps
        if not torch.isclose(sigma, self.last_sigma, rtol=rounding, atol=2 * TINY):
            self.last_sigma.copy_(sigma)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # The first states of this class had v flat and no sigma; `correct` then finds it.
        v = state_dict.get(prefix + "v")
        if isinstance(v, Tensor) and v.shape == self.v.flatten(1).shape:
            state_dict[prefix + "v"] = v.view(self.v.shape)
            state_dict.setdefault(prefix + "last_sigma", torch.ones_like(self.last_sigma))
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

    def unmatrixed(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """The inverse of `matrix`, for weights with the output axis first."""
        if is_channels_last(weight):
            outputs, channels, *kernel = weight.shape
            return matrix.view(outputs, *kernel, channels).movedim(-1, 1)
        return matrix.view(weight.shape)

    def columns(self, v: Tensor, weight: Tensor) -> Tensor:
        """v as (groups, columns), in the order of the columns of `matrix(weight)`."""
        if self.output_axis == 0 and is_channels_last(weight):
            v = v.movedim(1, -1)
        return v.flatten(1)

    def rows(self, u: Tensor) -> Tensor:
        """u of a single group in the shape of the weight's outputs: (outputs, 1, ...)."""
        return u.view(-1, *[1] * (self.v.dim() - 1))

    def uncolumned(self, flat: Tensor, weight: Tensor) -> Tensor:
        """The inverse of `columns`."""
        channels, *kernel = self.v.shape[1:]
        if self.output_axis == 0 and is_channels_last(weight):
            return flat.view(self.groups, *kernel, channels).movedim(-1, 1)
        return flat.view(self.v.shape)


def is_channels_last(weight: Tensor) -> bool:
    """Whether the weight lies in memory with its channels last and not as torch makes it."""
    return not weight.is_contiguous() and weight.movedim(1, -1).is_contiguous()


SPECTRAL = Norm(weight=SpectralNorm.of)
