"""CLASSIFIERS: the paper's networks by name, and a residual one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from msngan.networks.activations import ActivationName
from msngan.networks.cnn3 import CNN3
from msngan.networks.densenet import PLACEMENTS, DenseNetBC, PlacementName
from msngan.networks.released import released
from msngan.networks.resnet import ResNet18
from msngan.networks.vgg7 import VGG7
from msngan.norms import NormName


def _made(
    network: str,
    make: Callable[..., nn.Module],
    norm: NormName = "mean_spectral",
    classes: int = 10,
    channels: int | None = None,
    size: int | None = None,
    *,
    width: int | None = None,
    depth: int | None = None,
    activation: ActivationName = "leaky_relu",
    slope: float = 0.1,
    dropout: float = 0.0,
    conv_bias: bool = False,
    placement: PlacementName = "before_activation",
    as_released: bool = False,
    norm_options: Mapping[str, Any] | None = None,
    norm_layers: Sequence[int | str] | None = None,
    other_norm: NormName = "none",
) -> nn.Module:
    """A network: images (N, channels, size, size), float, to logits (N, classes).

    None for channels, size, width and depth: the network's own. placement: see DenseNetBC; in the
    other networks both are the same place. as_released: the form of the authors' code (see
    `msngan.networks.released`), whose activation, slope, dropout, conv_bias and placement hold
    whatever is given here. One seed gives the same first weights under every norm.

    Raises ValueError for what the network or the norm cannot have.
    """
    shape = {"classes": classes, "channels": channels, "size": size, "width": width, "depth": depth}
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    _check(network, make, given, slope, dropout)
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    if as_released:
        if norm_layers is not None or other_norm != "none":
            raise ValueError(
                "as_released says which layers have which norm; leave norm_layers and other_norm"
                " out, or as_released"
            )
        return released(network, norm, norm_options, **given)
    if "placement" in signature(make).parameters:
        given["placement"] = placement
    return make(
        norm,
        activation=activation,
        slope=slope,
        dropout=dropout,
        conv_bias=conv_bias,
        norm_options=norm_options,
        norm_layers=norm_layers,
        other_norm=other_norm,
        **given,
    )


def _check(
    network: str,
    make: Callable[..., nn.Module],
    shape: Mapping[str, Any],
    slope: float,
    dropout: float,
) -> None:
    if "depth" in shape and "depth" not in signature(make).parameters:
        raise ValueError(f"{network} has the depth that its name says; leave depth out")
    for name, least in (("classes", 2), ("size", 1), ("width", 1), ("depth", 1)):
        if shape.get(name, least) < least:
            raise ValueError(f"{name} {shape[name]} is less than {least}")
    if shape.get("channels", 1) not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {shape['channels']}")
    if not 0 <= slope < math.inf:
        raise ValueError(f"slope {slope} is negative or not finite; 0.1 is the paper's")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is not in [0, 1)")


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "cnn3": partial(_made, "cnn3", CNN3),
    "vgg7": partial(_made, "vgg7", VGG7),
    "densenet_bc": partial(_made, "densenet_bc", DenseNetBC),
    "resnet18": partial(_made, "resnet18", ResNet18),
}

if TYPE_CHECKING:
    ClassifierName = str
else:
    ClassifierName = Literal[tuple(CLASSIFIERS)]
