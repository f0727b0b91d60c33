"""ACTIVATIONS of the classifiers, each a module of its own, so that what enters it can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

ACTIVATIONS = ("leaky_relu", "relu")

if TYPE_CHECKING:
    ActivationName = str
else:
    ActivationName = Literal[ACTIVATIONS]


def activation(name: ActivationName, slope: float) -> nn.Module:
    """A new activation, in place; slope: of the LeakyReLU for negative inputs."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return nn.LeakyReLU(slope, inplace=True) if name == "leaky_relu" else nn.ReLU(inplace=True)


def activated(name: ActivationName, slope: float, dropout: float) -> list[nn.Module]:
    """An activation, and dropout after it where there is any."""
    rest: list[nn.Module] = [nn.Dropout(dropout)] if dropout > 0 else []
    return [activation(name, slope), *rest]
