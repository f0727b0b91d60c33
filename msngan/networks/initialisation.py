"""First weights of any network by a named scheme, also of one that has its norms already."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from msngan.norms import layers_of, stored
from msngan.norms.layers import weights_of
from msngan.norms.parts import widened
from msngan.runs.folder import UserError

InitName = Literal["own", "normal", "orthogonal", "xavier", "kaiming"]
# The factor of each scheme: of normal, the standard deviation, as in DCGAN.
GAINS = {"normal": 0.02, "orthogonal": 1.0, "xavier": 1.0, "kaiming": math.sqrt(2)}


def check_gain(init: str, gain: float | None) -> None:
    """UserError for a gain of the networks' own initialisation, which takes none."""
    if init == "own" and gain is not None:
        raise UserError(
            f"--model.init_gain {gain} with --model.init own: each network's own weights have no"
            f" gain; choose one of {', '.join(GAINS)}"
        )


@torch.no_grad()
def initialise(network: nn.Module, init: str, gain: float | None = None) -> None:
    """Draw the weights of all layers from torch's global generator, in place.

    The layers are those that `convert` can put a norm on: convolutions, linear layers, embeddings
    and so on. Biases and what norms learn stay as they are, but a norm that keeps something of the
    weight (sigma, weight norm's lengths) gets that of the new one. A weight is a matrix here,
    (outputs) x (inputs * kernel), for transposed convolutions too.

    init: own, nothing is done, as for a network on the meta device; normal, N(0, gain^2) (Radford
    et al. 2016, arXiv:1511.06434); orthogonal, all singular values are gain (Saxe et al. 2014,
    arXiv:1312.6120); xavier, U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio
    2010); kaiming, N(0, gain^2 / fan_in) (He et al. 2015, arXiv:1502.01852). gain: None, that of
    GAINS.
    """
    if init == "own" or any(each.is_meta for each in network.parameters()):
        return
    size = GAINS[init] if gain is None else gain
    state = {
        f"{name}.{weight}": _drawn(layer, stored(layer, weight), init, size)
        for name, layer in layers_of(network).items()
        for weight in weights_of(layer)
    }
    # Loading tells a norm that the weight is another one.
    network.load_state_dict({name.lstrip("."): each for name, each in state.items()}, strict=False)


def _drawn(layer: nn.Module, weight: Tensor, init: str, gain: float) -> Tensor:
    """A contiguous weight of the shape of this one, in float32 or above."""
    made = torch.empty_like(widened(weight), memory_format=torch.contiguous_format)
    if not isinstance(layer, _ConvTransposeNd):
        return _draw(made, init, gain)
    # Stored as (inputs, outputs / groups, *kernel).
    groups = layer.groups
    by_outputs = made.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    drawn = _draw(by_outputs, init, gain).unflatten(0, (groups, -1)).transpose(1, 2)
    return made.copy_(drawn.flatten(0, 1))


def _draw(weight: Tensor, init: str, gain: float) -> Tensor:
    """The weight (outputs, inputs, *kernel), drawn anew in place."""
    if init == "normal":
        return nn.init.normal_(weight, 0.0, gain)
    if init == "orthogonal":
        return nn.init.orthogonal_(weight, gain)
    if init == "xavier":
        return nn.init.xavier_uniform_(weight, gain)
    fan_in = weight[0].numel()
    return nn.init.normal_(weight, 0.0, gain / math.sqrt(fan_in))
