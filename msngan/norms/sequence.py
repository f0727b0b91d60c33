"""nn.Sequential that computes a centred layer and the LeakyReLU after it as one operation."""

from __future__ import annotations

from torch import Tensor, nn

from msngan.norms.centring import Centring
from msngan.norms.layers import NormLayer


class FusedSequential(nn.Sequential):
    """nn.Sequential with the same parts, keys and numbers, faster where MSN meets LeakyReLU.

    The gradient that comes out of the activation belongs to nobody else, so it is centred where it
    lies. Parts with hooks are called by themselves, for hooks to see what goes in and out.
    """

    def forward(self, input: Tensor) -> Tensor:
        parts = iter([*self, None])
        part = next(parts)
        while part is not None:
            following = next(parts)
            if following is not None and _fuse(part, following):
                input = part.activated(input, following.negative_slope)
                following = next(parts)
            else:
                input = part(input)
            part = following
        return input


def _fuse(layer: nn.Module, activation: nn.Module) -> bool:
    if not isinstance(layer, NormLayer) or not isinstance(activation, nn.LeakyReLU):
        return False
    norm = layer.output_norm
    centres = isinstance(norm, Centring) and norm.by_batch and norm.weight is None
    leaks = activation.inplace and activation.negative_slope > 0
    return centres and leaks and not any(map(_has_hooks, (layer, norm, activation)))


def _has_hooks(module: nn.Module | None) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind, None) for kind in kinds)
