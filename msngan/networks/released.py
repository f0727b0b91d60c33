"""The classifiers of the authors' released code, in which more than the norm differs.

Subramanian & Chong 2019, arXiv:1907.04003; github.com/AntixK/mean-spectral-norm, commit 9772d81.
Table III counts these networks; `msngan params` compares the counts. Between the norms differ:

cnn3: ReLU without a norm, LeakyReLU of slope 0.1 under any.
vgg7: ReLU and dropout of 0.3 under `batch`; LeakyReLU of slope 0.1 and no dropout under `spectral`
    and `mean_spectral`, where the head has no norm.
densenet_bc: under `spectral` and `mean_spectral` the convolutions of the dense layers have batch
    norm. Only the first convolution, the two between the blocks and, under `spectral`, the head are
    spectrally normed; `mean_spectral` centres before the latter two and before the head.

Biases that a norm cancels are kept. Each spectral norm has a scalar that counts as a parameter but
is never trained. The norms themselves are ours, without a gain, as the paper counts them; the norm
`released_spectral` has the projection of the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from msngan.networks.norms_and_activations import (
    Activation,
    put_norms,
    put_output_parts_before,
    put_weight_parts,
)
from msngan.norms import configured, layers_of

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
    make: Callable[..., nn.Module],
    network: str,
    norm: str,
    norm_options: Mapping[str, Any] | None = None,
    **shape: Any,
) -> nn.Module:
    """The network that `make` builds, as released.

    shape: classes, channels, size, width, depth, as the network's own. Raises ValueError for a
    network or norm without a released form.
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
    entry = configured(norm, norm_options or {})
    if network == "densenet_bc":
        made = make(activation=Activation("relu"), **shape)
        inner = [name for name in layers_of(made) if name not in OUTER]
        put_output_parts_before(made, configured("batch", {}), inner)
        put_output_parts_before(made, entry, OUTER)
        put_weight_parts(made, entry, OUTER if norm == "spectral" else OUTER[:-1])
    else:
        relu = norm == "none" or (network == "vgg7" and norm == "batch")
        dropout = 0.3 if network == "vgg7" and norm == "batch" else 0.0
        activation = Activation("relu" if relu else "leaky_relu", dropout=dropout)
        made = make(activation=activation, **shape)
        layers = ["!head"] if network == "vgg7" else None
        put_norms(made, norm, conv_bias=True, norm_options=norm_options, norm_layers=layers)
    return with_scalars(made)


def with_scalars(network: nn.Module) -> nn.Module:
    """The network, with the released code's `renorm` in each norm of a weight.

    It is a parameter (1, 1) with the value 1. No loss depends on it, so no optimizer changes it.
    """
    for layer in layers_of(network).values():
        part = getattr(layer, "weight_norm", None)
        if isinstance(part, nn.Module):
            part.renorm = nn.Parameter(torch.ones(1, 1))
    return network
