"""Networks under norms as PyTorch has them, built on plain ones, to be compared with ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm

TORCH, OLD_TORCH = "torch SN", "torch SN (old)"
NAIVE = "naive MSN"


class Centred(nn.Module):
    """A convolution without bias, then x - mean + m: MSN as one writes it down first."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.bias = nn.Parameter(convolution.weight.new_zeros(1, convolution.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return y - y.mean((0, 2, 3), keepdim=True) + self.bias


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: part for name, part in network.named_modules() if isinstance(part, kinds)}


def parametrised(network: nn.Module) -> nn.Module:
    """Spectral norm by torch.nn.utils.parametrizations on every layer."""
    return _on_every_layer(network, parametrizations.spectral_norm)


def old(network: nn.Module) -> nn.Module:
    """Spectral norm by torch.nn.utils.spectral_norm on every layer."""
    return _on_every_layer(network, old_spectral_norm)


def naive(network: nn.Module) -> nn.Module:
    """`parametrised`, and every convolution centred by plain operations."""
    for name, layer in layers_of(network).items():
        if isinstance(layer, nn.Conv2d):
            layer.register_parameter("bias", None)
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, Centred(layer))
        parametrizations.spectral_norm(layer)
    return network


def _on_every_layer(network: nn.Module, put: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for layer in layers_of(network).values():
        put(layer)
    return network


# Each changes a network without a norm, and returns it.
REFERENCES: dict[str, Callable[[nn.Module], nn.Module]] = {
    TORCH: parametrised,
    OLD_TORCH: old,
    NAIVE: naive,
}


DESCRIPTIONS = {
    TORCH: "torch.nn.utils.parametrizations.spectral_norm on every layer",
    OLD_TORCH: "torch.nn.utils.spectral_norm on every layer",
    NAIVE: "torch SN, then x - x.mean((0, 2, 3)) + m after every convolution",
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with the first weights of one and the same seed."""
    torch.manual_seed(0)
    return make()
