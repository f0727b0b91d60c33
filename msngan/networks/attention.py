"""Self-attention over the pixels of a map, as in SAGAN.

Zhang et al. 2019, arXiv:1805.08318, section 3. Keys and values are pooled to half the height and
width, and values have half the channels, as in the authors' code and in BigGAN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """x + gamma * attention(x): (N, C, H, W) to the same, H and W even.

    Each pixel gets a mean of the values of all pixels, with the softmax of query * key for weights:
    1x1 convolutions to C / 8 channels (queries, keys) and to C / 2 (values), at least one, and back
    to C, without biases. gamma is learned from 0, so that the layer begins as the identity.

    A norm is put on its convolutions as on all others, but keys and values get the weight part
    only. The softmax cancels a shift of the keys, and the last convolution's own centring one of
    the values. An offset would have no gradient but rounding errors, which Adam makes as large as
    any other.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.project = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (N, C / 8, HW)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (N, C / 8, HW / 4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (N, C / 2, HW / 4)
        weights = (query.transpose(1, 2) @ key).softmax(2)  # (N, HW, HW / 4)
        seen = (value @ weights.transpose(1, 2)).view(-1, value.shape[1], *x.shape[2:])
        return x + self.gamma * self.project(seen)


def keys_and_values(network: nn.Module) -> list[str]:
    """The names of the convolutions that make keys and values."""
    layers = [name for name, part in network.named_modules() if isinstance(part, SelfAttention)]
    return [f"{layer}.{name}".lstrip(".") for layer in layers for name in ("key", "value")]


def with_attention(
    blocks: Sequence[nn.Module], outputs: Sequence[tuple[int, int]], size: int | None
) -> nn.Sequential:
    """The blocks, with self-attention after the first whose map has `size` pixels; None: without.

    outputs: (channels, pixels) of each block's map. ValueError if no map has this size.
    """
    parts = list(blocks)
    if size is not None:
        sizes = [pixels for _, pixels in outputs]
        if size not in sizes:
            known = ", ".join(map(str, dict.fromkeys(sizes)))
            raise ValueError(f"attention {size}: its maps have {known} pixels; choose one of them")
        at = sizes.index(size)
        parts.insert(at + 1, SelfAttention(outputs[at][0]))
    return nn.Sequential(*parts)
