"""The classifiers of the authors' released code, in which more than the norm differs.

Subramanian & Chong 2019, arXiv:1907.04003; github.com/AntixK/mean-spectral-norm, commit 9772d81.
Table III counts these networks, and the critic of `msngan.networks.dcgan`; `msngan params` shows
that the counts are met. What differs between the norms beside the norm itself:

cnn3: ReLU without a norm, LeakyReLU of slope 0.1 under any.
vgg7: ReLU and dropout of 0.3 under `batch`; LeakyReLU of slope 0.1 and no dropout under `spectral`
    and `mean_spectral`, where the head has no norm.
densenet_bc: under `spectral` and `mean_spectral` the 96 convolutions of the dense layers have batch
    norm. Only the first convolution, the two between the blocks and, under `spectral`, the head are
    spectrally normed; `mean_spectral` centres before the latter two and before the head. ReLU, and
    batch norm before each activation under `batch`.

Biases that a norm cancels are kept. Each spectral norm has a scalar that is counted as a parameter
but is never trained. The norms themselves are ours: sigma is estimated by an iterated block of
vectors, its gradient is that of equation 9, and MSN has no gain, as the paper counts it. The
released code multiplies by a learned gain per channel, runs a hundred power iterations a pass,
overwrites the weight with the normed weight, and leaves sigma out of the gradient. norm_options
{"gain": true} adds the gain alone, which is not the released method; the norm `released_spectral`
has the projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from msngan.networks.cnn3 import CNN3
from msngan.networks.densenet import DenseNetBC, norm_places, norm_weights
from msngan.networks.vgg7 import VGG7
from msngan.norms.select import configured, layers_of

WITH_NORMS = ("batch", "spectral", "mean_spectral")
# The norms that each network was released with.
RELEASED: dict[str, tuple[str, ...]] = {
    "cnn3": ("none", *WITH_NORMS),
    "vgg7": WITH_NORMS,
    "densenet_bc": WITH_NORMS,
}
# The layers of densenet_bc outside the dense layers, the head last.
OUTER = ("stem", "blocks.1.conv", "blocks.3.conv", "head")


def released(
    network: str, norm: str, norm_options: Mapping[str, Any] | None = None, **shape: Any
) -> nn.Module:
    """The network as released. shape: classes, channels, size, width, depth, as the network's own.

    Raises ValueError for a network or norm without a released form.
    """
    if network not in RELEASED:
        raise ValueError(
            f"{network} has no released form; those that have one are {', '.join(RELEASED)}"
        )
    if norm not in RELEASED[network]:
        raise ValueError(
            f"{network} was not released with norm {norm!r}; choose one of"
            f" {', '.join(RELEASED[network])}, or leave as_released out"
        )
    options = norm_options or {}
    if network == "densenet_bc":
        made = _densenet(norm, options, **shape)
    elif network == "vgg7":
        made = _vgg7(norm, options, **shape)
    else:
        made = _cnn3(norm, options, **shape)
    return with_scalars(made)


def with_scalars(network: nn.Module) -> nn.Module:
    """The network, with the released code's `renorm` in each norm of a weight.

    A parameter (1, 1) that is 1 and that no loss depends on, so that it has no gradient and no
    optimizer moves it.
    """
    for layer in layers_of(network).values():
        part = getattr(layer, "weight_norm", None)
        if isinstance(part, nn.Module):
            part.renorm = nn.Parameter(torch.ones(1, 1))
    return network


def _cnn3(norm: str, options: Mapping[str, Any], **shape: Any) -> nn.Module:
    activation = "relu" if norm == "none" else "leaky_relu"
    return CNN3(norm, activation=activation, conv_bias=True, norm_options=options, **shape)


def _vgg7(norm: str, options: Mapping[str, Any], **shape: Any) -> nn.Module:
    differs: dict[str, Any] = {"activation": "relu", "dropout": 0.3} if norm == "batch" else {}
    kept: dict[str, Any] = {"conv_bias": True, "norm_layers": ["!head"]}
    return VGG7(norm, norm_options=options, **kept, **differs, **shape)


def _densenet(norm: str, options: Mapping[str, Any], **shape: Any) -> nn.Module:
    network = DenseNetBC("none", activation="relu", **shape)
    entry = configured(norm, options)
    inner = [name for name in layers_of(network) if name not in OUTER]
    norm_places(network, configured("batch", {}), inner)
    norm_places(network, entry, OUTER)
    norm_weights(network, entry, OUTER if norm == "spectral" else OUTER[:-1])
    return network
