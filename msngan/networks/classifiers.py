"""CLASSIFIERS: the paper's networks by name, and a residual one, with norms on their layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from msngan.networks.convnets import CNN3, VGG7, ResNet18
from msngan.networks.densenet import PLACEMENTS, DenseNetBC, PlacementName
from msngan.networks.norms_and_activations import ActivationName, put_norms, refuse_instance_norm
from msngan.networks.released import released
from msngan.norms import NormName, configured, layers_of

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn3": CNN3,
    "vgg7": VGG7,
    "densenet_bc": DenseNetBC,
    "resnet18": ResNet18,
}


def classifier(
    network: str,
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

    The norm goes on every layer; the head gets its weight part only. Biases that the norm cancels
    are not created unless conv_bias. None for channels, size, width and depth: the network's own.
    placement: see DenseNetBC; in the other networks both are the same place. as_released: the form
    of the authors' code (see `msngan.networks.released`), which has its own activation, slope,
    dropout, conv_bias and placement, whatever is given here. One seed gives the same first weights
    under every norm.

    Raises ValueError for what the network or the norm cannot have.
    """
    make = NETWORKS[network]
    shape = {"classes": classes, "channels": channels, "size": size, "width": width, "depth": depth}
    given: dict[str, Any] = {name: value for name, value in shape.items() if value is not None}
    if depth is not None and "depth" not in signature(make).parameters:
        raise ValueError(f"{network} has the depth that its name says; leave depth out")
    for name, least in (("classes", 2), ("size", 1), ("width", 1), ("depth", 1)):
        if given.get(name, least) < least:
            raise ValueError(f"{name} {given[name]} is less than {least}")
    if given.get("channels", 1) not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {channels}")
    if not 0 <= slope < math.inf:
        raise ValueError(f"slope {slope} is negative or not finite; 0.1 is the paper's")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is not in [0, 1)")
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    if as_released:
        if norm_layers is not None or other_norm != "none":
            raise ValueError(
                "as_released says which layers have which norm; leave norm_layers and other_norm"
                " out, or as_released"
            )
        return released(make, network, norm, norm_options, **given)
    configured(norm, norm_options or {})
    configured(other_norm, {})
    dense = network == "densenet_bc"
    if dense and conv_bias:
        raise ValueError("densenet_bc has no convolution with a bias to keep; leave conv_bias out")
    given |= {"placement": placement} if dense else {}
    made = make(activation=activation, slope=slope, dropout=dropout, **given)
    put_norms(
        made,
        norm,
        conv_bias=conv_bias,
        norm_options=norm_options,
        norm_layers=norm_layers,
        other_norm=other_norm,
        before_activation=dense and placement == "before_activation",
    )
    if isinstance(made, ResNet18) and size == 8:
        refuse_instance_norm(
            layers_of(made.blocks[-2:]).values(),
            "the last two blocks of resnet18 for images of 8x8; use 9x9 or larger",
        )
    return made


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    name: partial(classifier, name) for name in NETWORKS
}

if TYPE_CHECKING:
    ClassifierName = str
else:
    ClassifierName = Literal[tuple(NETWORKS)]
