"""The norm of the linear map that a layer is, with its stride, padding, dilation and groups.

Spectral normalisation takes a convolution's weight for a matrix; the map x -> conv(x, W) itself can
be up to sqrt(ceil(k / stride)^2) larger. Farnia, Zhang & Tse 2019 (arXiv:1811.07457, algorithm 1)
and Gouk et al. 2018 (arXiv:1804.04368, section 3) find its largest singular value by a power
iteration on the map: v <- A^T A v / |A^T A v|, v an input of the layer, sigma = |A v|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from msngan.norms.base import Norm
from msngan.norms.estimate import SETTLED, SQUARINGS, leading, looks, moves, orthonormal, start
from msngan.norms.layers import stored
from msngan.norms.parts import full_precision
from msngan.norms.spectral import Estimated

# Images, each of which costs what an image of the batch costs, and products of a pass over them.
BLOCK, PRODUCTS = 4, 3
# A pass whose rise of sigma^2 is within ENOUGH has an error far below that.
ENOUGH, MOST, MOST_SETTLING = 0.2, 2, 30
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Operator:
    """What a layer without its bias does to a batch (N, inputs, *size), given its weight.

    size: none for a linear layer, whose token axes are batch axes.
    """

    inputs: int
    axes: int  # how many a size has
    transposed: bool
    options: dict[str, Any]  # of the functional convolution
    padding: tuple[int, ...]  # as F.pad takes it
    padding_mode: str

    @classmethod
    def of(cls, layer: nn.Module, name: str = "weight") -> Operator:
        """That of a convolution, or the matrix that another weight of a torch layer is."""
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
        # Numbers also where the layer's padding is 'same' or 'valid'.
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
        """The size of the layer's input, batched or not; None if the layer will refuse it."""
        if not self.axes:
            return ()
        leading = x.dim() - self.axes
        if leading not in (1, 2) or x.shape[leading - 1] != self.inputs:
            return None
        return tuple(x.shape[leading:])


def krylov(product: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of x, M x and M^2 x, as far as there is room for them, and M times it.

    x: (length, k), orthonormal. Its Ritz values converge far faster than those of x alone (Golub &
    Van Loan, Matrix Computations, chapter 10.3).
    """
    basis, images = x, product(x)
    new = x.shape[1]
    for _ in range(PRODUCTS - 1):
        room = min(new, len(x) - basis.shape[1])
        if room == 0:
            break
        more = orthonormal(torch.cat([basis, images[:, -new:]], 1))[:, basis.shape[1] :][:, :room]
        basis, images = torch.cat([basis, more], 1), torch.cat([images, product(more)], 1)
        new = room
    return basis, images


def leading_several(gram: Tensor, count: int) -> Tensor:
    """A basis, (size, count), of the leading eigenvectors of a small symmetric matrix."""
    vectors = gram[:, :count]
    for _ in range(SQUARINGS):
        vectors = gram @ orthonormal(vectors)
    return orthonormal(vectors)


class OperatorNorm(Estimated):
    """Keeps an estimate, from below, of the largest singular value of the layer as a linear map.

    Buffers, in float32 at least whatever the module is cast to: v (1, inputs, *size), a unit
    vector; last_sigma (), |A v| as the last iteration found it; block (k, inputs, *size), k = 4,
    orthonormal; (0,) as long as the size of the layer's input is not known.

    iterations: the least number of passes, of three products each, that one call of `iterate`
    makes; on a CPU one more follows where sigma rose by a tenth.

    The size is learnt from the first training input; a linear layer has none and is ready at once.
    The norm depends on it: with zero padding it grows with the size, towards a limit. So where
    inputs differ, the largest size of each axis seen in training counts, for which the bound holds
    for the smaller ones too. Evaluation takes what training has found, on inputs of any size.
    The starting block is the same in every process and every run and draws on no global generator.
    """

    precise = ("v", "last_sigma", "block")
    count, most = BLOCK, MOST  # vectors, and iterations an update
    block: Tensor

    def __init__(self, layer: nn.Module, name: str = "weight", *, iterations: int = 1) -> None:
        super().__init__()
        self.operator = Operator.of(layer, name)
        self.iterations = iterations
        weight = getattr(layer, name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.register_buffer("v", torch.empty(0, dtype=dtype, device=weight.device))
        self.register_buffer("last_sigma", torch.ones((), dtype=dtype, device=weight.device))
        self.register_buffer("block", torch.empty(0, dtype=dtype, device=weight.device))
        if not self.operator.axes:
            self._start(weight, ())

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate |A v|, a scalar >= 0, differentiable in `weight` with v constant.

        Its gradient is that of <u, A v> for u = A v / |A v| constant. It needs `known`.
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
        """In training, learn the size of the input; an estimate for a new one is started anew."""
        size = self.operator.size_of(x) if self.training else None
        if size is None:
            return
        if self.known:
            size = tuple(max(pair) for pair in zip(size, self.v.shape[2:], strict=True))
        if not self.known or size != self.v.shape[2:]:
            self._start(weight, size)
            # A bank that lent a weight for this pass did so without knowing this size.
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
        """The next block (length, k), and the leading vector times sigma^2 (length,), and sigma."""
        weight = weight.detach().to(self.v.dtype)

        def product(x: Tensor) -> Tensor:
            """A^T A of the columns of x (length, k)."""
            return self._there_and_back(x.mT.reshape(-1, *self.v.shape[1:]), weight).flatten(1).mT

        values = looks(block) or (enough < ENOUGH and not torch.compiler.is_compiling())
        x = block.flatten(1).mT
        with full_precision(weight):
            while True:
                basis, images = krylov(product, x)
                gram = basis.mT @ images
                x, most = orthonormal(images @ leading_several(gram, x.shape[1])), most - 1
                value, vector = leading(gram)
                before = leading(gram[: x.shape[1], : x.shape[1]])[0]
                if most <= 0 or not values or not moves(float(before), float(value), enough):
                    return x, images @ vector, value.clamp_min(0).sqrt()

    def _iterate(self, weight: Tensor, enough: float, most: int) -> None:
        block, left, _ = self._found(weight, self.block, enough, most)
        with full_precision(weight):
            # In the direction of before, not in the opposite one.
            left = torch.where(left @ self.v.flatten() < 0, -left, left)
            length = left.norm().clamp_min(torch.finfo(left.dtype).tiny)
            self.v.copy_((left / length).view(self.v.shape))
            self.block.copy_(block.mT.reshape(self.block.shape))
            self.last_sigma.copy_(self.sigma(weight))

    def _there_and_back(self, v: Tensor, weight: Tensor) -> Tensor:
        """A^T A v; the transpose of any padding mode, stride and dilation is a gradient."""
        if torch.compiler.is_compiling():
            y, transpose = torch.func.vjp(lambda x: self.operator(x, weight), v)  # type: ignore[misc]
            return transpose(y)[0]
        # The same; the above refuses to run where hooks on saved tensors are set, and those of
        # activation checkpointing must not count what is saved here.
        with torch.enable_grad(), saved_tensors_hooks(lambda x: x, lambda x: x):
            point = v.detach().requires_grad_()
            y = self.operator(point, weight)
            return torch.autograd.grad(y, point, y.detach())[0]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "v")
        # One of another layer stays as it is here, for torch to refuse.
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
    """Map a weight W to W / max(1, sigma / beta), sigma the operator's norm.

    Farnia, Zhang & Tse 2019, arXiv:1811.07457, section 4. Where sigma > beta the gradient goes
    through sigma, so that <dL/dW, W> = 0; elsewhere the map is the identity. Until the layer's
    first training input, whose size sigma needs, the weight is used as it is, also in eval and in a
    fold.
    """

    def __init__(
        self, layer: nn.Module, name: str = "weight", *, beta: float = 1.0, iterations: int = 1
    ) -> None:
        super().__init__(layer, name, iterations=iterations)
        self.beta = beta

    def extra_repr(self) -> str:
        return f"beta={self.beta}"

    def normalised(self, weight: Tensor) -> Tensor:
        """W / max(1, sigma / beta), differentiable in W; v as it is."""
        if not self.known:
            return weight.view_as(weight)  # a parameter that is lent would be registered
        return weight / (self.sigma(weight) / self.beta).clamp_min(1).to(weight.dtype)


class LipschitzProjection(OperatorNorm):
    """Keep the operator's norm of a weight within `bound`, by scaling the parameter in place.

    Gouk, Frank, Pfahringer & Cree 2018, arXiv:1804.04368, algorithm 1: W <- W / max(1, sigma /
    bound). No gradient goes through sigma, and the layer computes with the weight as it is. This
    acts in `iterate` alone: under a SigmaBank after each optimizer step, or where the user calls
    it. Without a bank a training forward changes no weight, for an earlier pass may still be due
    its backward: make `SigmaBank(network, optimizer)`. Until the layer's first training input,
    whose size sigma needs, `iterate` does nothing.
    """

    may_iterate_in_passes = False

    def __init__(
        self, layer: nn.Module, name: str = "weight", *, bound: float = 1.0, iterations: int = 1
    ) -> None:
        super().__init__(layer, name, iterations=iterations)
        self.bound = bound

    def extra_repr(self) -> str:
        return f"bound={self.bound}"

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def follow(self, weight: Tensor) -> None:
        """Nothing: a pass does not look at sigma."""

    def normalised(self, weight: Tensor) -> Tensor:
        """The weight as it is."""
        return weight.view_as(weight)  # a parameter that is lent would be registered

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Improve the estimate, then W <- W / max(1, sigma / bound), in place."""
        super().iterate(weight)
        if self.known:
            weight.div_((self.last_sigma / self.bound).clamp_min(1).to(weight.dtype))
            self.last_sigma.clamp_max_(self.bound)

    def fits(self, weight: Tensor) -> bool:
        return True


def checked_bound(name: str, value: float) -> float:
    """An option that bounds a norm; ValueError unless it is above 0 and finite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        raise ValueError(f"{name} must be a number above 0, got {value!r}; 1.0 is the usual bound")
    return float(value)


def checked_iterations(value: int) -> int:
    """The option `iterations`; ValueError unless it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"iterations must be a whole number of at least 1, got {value!r}")
    return value


def spectral_clip(beta: float = 1.0, iterations: int = 1) -> Norm:
    """beta: the largest norm that a layer may have, above 0.

    iterations: power iterations an update; more follow larger steps. Raises ValueError for others.
    """
    beta, iterations = checked_bound("beta", beta), checked_iterations(iterations)
    return Norm(
        weight=partial(SpectralClip, beta=beta, iterations=iterations), options=spectral_clip
    )


def lipschitz_projection(bound: float = 1.0, iterations: int = 1) -> Norm:
    """bound: the largest norm that a layer may have after an update, above 0.

    iterations: power iterations an update; more follow larger steps. Raises ValueError for others.
    """
    bound, iterations = checked_bound("bound", bound), checked_iterations(iterations)
    return Norm(
        weight=partial(LipschitzProjection, bound=bound, iterations=iterations),
        options=lipschitz_projection,
    )


SPECTRAL_CLIP, LIPSCHITZ_PROJECTION = spectral_clip(), lipschitz_projection()
