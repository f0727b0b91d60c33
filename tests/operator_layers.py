"""Layers as linear maps: their kinds and options, and their explicit matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from msngan.norms import configured, normalise

# A layer and the shape of one input.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 3, 3), (2, 7)),
    "conv1d, same": (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2), (2, 8)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "conv2d, stride": (lambda: nn.Conv2d(2, 3, 4, 2, 1), (2, 6, 5)),
    "conv2d, uneven": (lambda: nn.Conv2d(2, 3, (3, 2), (1, 2), (0, 1), (2, 1)), (2, 6, 5)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid", stride=2), (2, 6, 5)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4, 4)),
    "conv2d, circular": (lambda: nn.Conv2d(2, 3, 3, 2, 1, padding_mode="circular"), (2, 5, 4)),
    "conv2d, reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 4)),
    "conv2d, replicate, same": (
        lambda: nn.Conv2d(2, 3, (2, 3), padding="same", padding_mode="replicate"),
        (2, 5, 4),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1, stride=2), (2, 3, 4, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 3, 4, 2, 1), (2, 4, 3)),
    "conv_transpose2d, every option": (
        lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, 1, groups=2, dilation=2),
        (4, 4, 3),
    ),
    "linear": (lambda: nn.Linear(6, 4), (6,)),
}

BOUNDED = ["spectral_clip", "lipschitz_projection"]


def operator_matrix(plain: nn.Module, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The outputs of torch's own layer, without its bias, for every unit vector of its input."""
    probe = copy.deepcopy(plain).double()
    probe.bias = None
    inputs = torch.Size(shape).numel()
    units = torch.eye(inputs, dtype=torch.float64).view(inputs, *shape)
    return torch.func.functional_call(probe, {"weight": weight}, (units,)).flatten(1)


def exact_norm(plain: nn.Module, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.linalg.svdvals(operator_matrix(plain, weight.double(), shape))[0]


def bounded(
    kind: str, name: str, factor: float = 3.0, **options: float
) -> tuple[nn.Module, nn.Module, Tensor]:
    """The plain layer, a copy of it under a norm, weights times `factor`, float64, and a batch."""
    make, shape = LAYERS[kind]
    plain = make().double()
    plain.weight.data *= factor
    layer = normalise(copy.deepcopy(plain), configured(name, options))
    return plain, layer, torch.randn(2, *shape, dtype=torch.float64)
