"""Norms that bound a layer as a linear map, with its stride, padding, dilation and groups.

Spectral normalisation views the weight of a convolution as a matrix; the norm of the map
x -> conv(x, W) can be up to sqrt(ceil(k / stride)^2) times larger. Farnia, Zhang & Tse 2019
(arXiv:1811.07457, algorithm 1) and Gouk et al. 2018 (arXiv:1804.04368, section 3) find its largest
singular value by power iteration on the map: v <- A^T A v / |A^T A v|, where v is an input of the
layer and sigma = |A v|.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from msngan.norms.estimate import (
    SETTLED,
    Estimated,
    checked_iterations,
    checked_positive,
    krylov,
    leading,
    leading_several,
    looks,
    moves,
    orthonormal,
    start,
)
from msngan.norms.layers import stored
from msngan.norms.parts import Entries, Norm, full_float32, full_precision

# A block has BLOCK images, each of which costs as much as an image of the batch; one iteration
# takes PRODUCTS products with it.
BLOCK, PRODUCTS = 4, 3
# Where an iteration raises sigma^2 by a share below ENOUGH, the error left is far smaller.
ENOUGH, MOST, MOST_SETTLING = 0.2, 2, 30
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _exact(weight: Tensor) -> AbstractContextManager[None]:
    """On a GPU, float32 and not the TensorFloat-32 of cuDNN's convolutions."""
    on = weight.is_cuda and not torch.compiler.is_compiling()
    return full_float32() if on else nullcontext()


@dataclass(frozen=True)
class Operator:
    """A layer without its bias as a function of a batch (N, inputs, *size) and its weight.

    size: empty for a linear layer, whose token axes are batch axes.
    """

    inputs: int
    axes: int  # the length of `size`
    transposed: bool
    options: dict[str, Any]  # of the functional convolution
    padding: tuple[int, ...]  # as F.pad takes it
    padding_mode: str

    @classmethod
    def of(cls, layer: nn.Module, name: str = "weight") -> Operator:
        """The map of a convolution; for any other weight its matrix."""
        if not isinstance(layer, _ConvNd):
            return cls(stored(layer, name)[0].numel(), 0, False, {}, (), "constant")
        options: dict[str, Any] = {
            "stride": layer.stride,
            "dilation": layer.dilation,
            "groups": layer.groups,
        }
        axes, transposed = len(layer.kernel_size), isinstance(layer, _ConvTransposeNd)
        if transposed:
            options |= {"padding": layer.padding, "output_padding": layer.output_padding}
            return cls(layer.in_channels, axes, True, options, (), "constant")
        # This attribute has numbers even if the padding is 'same' or 'valid'.
        padding = tuple(layer._reversed_padding_repeated_twice)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return cls(layer.in_channels, axes, False, options, padding, mode)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.axes:
            return F.linear(x, weight.flatten(1))
        if any(self.padding):
            x = F.pad(x, self.padding, self.padding_mode)
        function = (TRANSPOSED if self.transposed else CONVOLUTIONS)[self.axes]
        return function(x, weight, **self.options)

    def size_of(self, x: Tensor) -> tuple[int, ...] | None:
        """The size of the layer's input, batched or not; None if the layer refuses the shape."""
        if not self.axes:
            return ()
        leading = x.dim() - self.axes
        if leading not in (1, 2) or x.shape[leading - 1] != self.inputs:
            return None
        return tuple(x.shape[leading:])


class OperatorNorm(Estimated):
    """An estimate, from below, of the largest singular value of the layer as a linear map.

    Buffers, in float32 or above: v (1, inputs, *size), a unit vector; last_sigma (), |A v| at the
    last iteration; block (k, inputs, *size), k = 4, orthonormal. v and block have shape (0,) until
    the size of the layer's input is known: that of the first training input; where inputs differ,
    the largest of each axis, for which the bound holds for smaller inputs too. A linear layer needs
    none.

    bound: what the classes below keep sigma within. iterations: of three products each, in one call
    of `iterate`; on a CPU one more follows where sigma rose by a tenth.
    """

    precise = ("v", "last_sigma", "block")
    count, most = BLOCK, MOST  # vectors, and iterations an update
    block: Tensor

    def __init__(
        self, layer: nn.Module, name: str = "weight", *, bound: float = 1.0, iterations: int = 1
    ) -> None:
        super().__init__()
        self.operator = Operator.of(layer, name)
        self.bound, self.iterations = bound, iterations
        weight = getattr(layer, name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.register_buffer("v", torch.empty(0, dtype=dtype, device=weight.device))
        self.register_buffer("last_sigma", torch.ones((), dtype=dtype, device=weight.device))
        self.register_buffer("block", torch.empty(0, dtype=dtype, device=weight.device))
        if not self.operator.axes:
            self._start(weight, ())

    def extra_repr(self) -> str:
        return f"bound={self.bound}"

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate |A v|, a scalar >= 0, differentiable in `weight` with v constant.

        Its gradient is that of <u, A v> with u = A v / |A v| constant. Only where `known`.
        """
        with full_precision(weight):
            # A copy: a later iteration writes v in place, which must not reach this graph.
            return self.operator(self.v.clone(), weight.to(self.v.dtype)).norm()

    def anew(self, weight: Tensor) -> Tensor:
        fresh = self._fresh(tuple(self.v.shape[2:]))
        return self._found(weight, fresh, SETTLED, MOST_SETTLING)[2]

    def improve(self, weight: Tensor) -> None:
        for _ in range(self.iterations - 1):
            self._iterate(weight, ENOUGH, 1)
        self._iterate(weight, ENOUGH, self.most)

    @torch.no_grad()
    def settle(self, weight: Tensor) -> None:
        if self.known:
            self._start(weight, tuple(self.v.shape[2:]))

    @torch.no_grad()
    def prepare(self, weight: Tensor, x: Tensor) -> None:
        """In training, note the size of the input; for a larger size, estimate anew."""
        size = self.operator.size_of(x) if self.training else None
        if size is None:
            return
        if self.known:
            size = tuple(max(pair) for pair in zip(size, self.v.shape[2:], strict=True))
        if not self.known or size != self.v.shape[2:]:
            self._start(weight, size)
            # The weight that a bank lent for this pass was made for the former size.
            self._lent = self._past = None

    @torch.no_grad()
    def _start(self, weight: Tensor, size: tuple[int, ...]) -> None:
        self.block = self._fresh(size)
        self.v = self.block[:1].clone()
        if not weight.is_meta:
            self._iterate(weight, SETTLED, MOST_SETTLING)

    def _fresh(self, size: tuple[int, ...]) -> Tensor:
        shape = (self.operator.inputs, *size)
        length = math.prod(shape)
        return start((1, min(self.count, length), length), self.v).view(-1, *shape)

    def _found(
        self, weight: Tensor, block: Tensor, enough: float, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next block (length, k), the leading vector times sigma^2 (length,), and sigma."""
        weight = weight.detach().to(self.v.dtype)

        def product(x: Tensor) -> Tensor:
            """A^T A of the columns of x (length, k)."""
            return self._there_and_back(x.mT.reshape(-1, *self.v.shape[1:]), weight).flatten(1).mT

        values = looks(block) or (enough < ENOUGH and not torch.compiler.is_compiling())
        x = block.flatten(1).mT
        with full_precision(weight), _exact(weight):
            while True:
                basis, images = krylov(product, x, PRODUCTS)
                gram = basis.mT @ images
                x, most = orthonormal(images @ leading_several(gram, x.shape[1])), most - 1
                value, vector = leading(gram)
                before = leading(gram[: x.shape[1], : x.shape[1]])[0]
                if most <= 0 or not values or not moves(float(before), float(value), enough):
                    return x, images @ vector, value.clamp_min(0).sqrt()

    def _iterate(self, weight: Tensor, enough: float, most: int) -> None:
        block, left, _ = self._found(weight, self.block, enough, most)
        with full_precision(weight), _exact(weight):
            # Keep the sign of v from one iteration to the next.
            left = torch.where(left @ self.v.flatten() < 0, -left, left)
            length = left.norm().clamp_min(torch.finfo(left.dtype).tiny)
            self.v.copy_((left / length).view(self.v.shape))
            self.block.copy_(block.mT.reshape(self.block.shape))
            self.last_sigma.copy_(self.sigma(weight))

    def _there_and_back(self, v: Tensor, weight: Tensor) -> Tensor:
        """A^T A v, with A^T as a gradient, for any padding mode, stride and dilation."""
        if torch.compiler.is_compiling():
            y, transpose = torch.func.vjp(lambda x: self.operator(x, weight), v)  # type: ignore[misc]
            return transpose(y)[0]
        # torch.func refuses to run under hooks on saved tensors; and those of activation
        # checkpointing must not see what is saved here.
        with torch.enable_grad(), saved_tensors_hooks(lambda x: x, lambda x: x):
            point = v.detach().requires_grad_()
            y = self.operator(point, weight)
            return torch.autograd.grad(y, point, y.detach())[0]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "v")
        # torch itself refuses a state of another layer.
        ours = isinstance(saved, Tensor) and saved.shape[1:2] in [(), (self.operator.inputs,)]
        if ours and saved.shape != self.v.shape:
            self.v = self.v.new_empty(saved.shape)
            self.block = self.v.new_empty(0)
            if self.known:
                self.block = self._fresh(tuple(saved.shape[2:]))
        if ours:  # older states have v alone
            state_dict.setdefault(prefix + "last_sigma", self.last_sigma.new_tensor(math.nan))
            state_dict.setdefault(prefix + "block", self.block.clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def loaded(self, weight: Tensor) -> None:
        if self.known and not weight.is_meta and self.last_sigma.isnan():
            self.last_sigma.copy_(self.sigma(weight))
        super().loaded(weight)


class SpectralClip(OperatorNorm):
    """Map a weight W to W / max(1, sigma / bound), where sigma is the norm of the operator.

    Farnia, Zhang & Tse 2019, arXiv:1811.07457, section 4. Where sigma > bound the gradient goes
    through sigma, so that <dL/dW, W> = 0; elsewhere the map is the identity. Until the layer's
    first training input, which gives the size that sigma needs, the weight is used as it is, also
    in eval and in a fold.
    """

    def normalised(self, weight: Tensor) -> Tensor:
        """W / max(1, sigma / bound), differentiable in W; v is constant."""
        if not self.known:
            return weight.view_as(weight)  # a view, as torch would register a parameter itself
        return weight / (self.sigma(weight) / self.bound).clamp_min(1).to(weight.dtype)


class LipschitzProjection(OperatorNorm):
    """Keep the norm of the operator within `bound`, by scaling the parameter in place.

    Gouk, Frank, Pfahringer & Cree 2018, arXiv:1804.04368, algorithm 1: W <- W / max(1, sigma /
    bound). The layer computes with the stored weight. Only `iterate` scales it, which a SigmaBank
    with the optimizer calls after each step: an earlier pass may still await its backward. Until
    the size of the layer's input is known, `iterate` does nothing.
    """

    may_iterate_in_passes = False

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def follow(self, weight: Tensor) -> None:
        """Do nothing: a pass does not use sigma."""

    def normalised(self, weight: Tensor) -> Tensor:
        """A view of the stored weight."""
        return weight.view_as(weight)  # a view, as torch would register a parameter itself

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Improve the estimate, then W <- W / max(1, sigma / bound), in place."""
        super().iterate(weight)
        if self.known:
            weight.div_((self.last_sigma / self.bound).clamp_min(1).to(weight.dtype))
            self.last_sigma.clamp_max_(self.bound)

    def fits(self, weight: Tensor) -> bool:
        return True


def spectral_clip(beta: float = 1.0, iterations: int = 1) -> Norm:
    """beta: the largest norm of a layer; above 0.

    iterations: the least number per update; larger steps get more.
    """
    beta, iterations = checked_positive("beta", beta), checked_iterations(iterations)
    return Norm(weight=partial(SpectralClip, bound=beta, iterations=iterations))


def lipschitz_projection(bound: float = 1.0, iterations: int = 1) -> Norm:
    """bound: the largest norm of a layer after an update; above 0.

    iterations: the least number per update; larger steps get more.
    """
    bound, iterations = checked_positive("bound", bound), checked_iterations(iterations)
    return Norm(weight=partial(LipschitzProjection, bound=bound, iterations=iterations))


ENTRIES: Entries = {
    "spectral_clip": spectral_clip,
    "lipschitz_projection": lipschitz_projection,
}
