"""References: networks with PyTorch's spectral norm, and with MSN as one would first write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

TORCH, NAIVE = "torch SN", "naive MSN"
DESCRIPTIONS = {
    TORCH: "torch.nn.utils.parametrizations.spectral_norm on every layer",
    NAIVE: "torch SN, then x - x.mean((0, 2, 3)) + m after every convolution",
}


class Centred(nn.Module):
    """A convolution without bias, then x - mean + m."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.bias = nn.Parameter(convolution.weight.new_zeros(1, convolution.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return y - y.mean((0, 2, 3), keepdim=True) + self.bias


def layers_of(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: part for name, part in network.named_modules() if isinstance(part, kinds)}


def torch_spectral(network: nn.Module) -> nn.Module:
    """Put torch.nn.utils.parametrizations.spectral_norm on every layer, in place."""
    for layer in layers_of(network).values():
        spectral_norm(layer)
    return network


def naive_mean_spectral(network: nn.Module) -> nn.Module:
    """`torch_spectral`, and every convolution centred by plain operations, in place."""
    for name, layer in layers_of(network).items():
        if isinstance(layer, nn.Conv2d):
            layer.register_parameter("bias", None)
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, Centred(layer))
    return torch_spectral(network)


REFERENCES: dict[str, Callable[[nn.Module], nn.Module]] = {
    TORCH: torch_spectral,
    NAIVE: naive_mean_spectral,
}


def built(make: Callable[[str], nn.Module], norm: str) -> nn.Module:
    """make(norm) with the first weights of seed 0; for a reference make("none"), then changed."""
    torch.manual_seed(0)
    return REFERENCES[norm](make("none")) if norm in REFERENCES else make(norm)
