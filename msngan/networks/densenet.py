"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993) as the paper has it, for CIFAR-10.

Subramanian & Chong 2019, arXiv:1907.04003, section IV-A and Table III: 100 layers, growth rate 12,
a bottleneck of 4 times that, and a compression of 0.8 where Huang et al. have 0.5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from msngan.networks.activations import ActivationName, activated
from msngan.networks.normed import check_norms, put_norms
from msngan.norms import Norm, NormName, normalise
from msngan.norms.select import configured, layers_of, select
from msngan.norms.sequence import FusedSequential

PLACEMENTS = ("before_activation", "after_layer")

if TYPE_CHECKING:
    PlacementName = str
else:
    PlacementName = Literal[PLACEMENTS]


class DenseBlock(nn.ModuleList):
    """Dense layers, each of which sees the outputs of all those before it beside the input."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self:
            # A new tensor each time, of one part too: norms and activations write over it.
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class DenseNetBC(nn.Module):
    """Images (N, channels, size, size) to logits (N, classes).

    A 3x3 convolution (`stem`) to 2 * width channels; three blocks of `depth` dense layers (`conv1`,
    1x1 to 4 * width channels, and `conv2`, 3x3 to width), between which `conv`, 1x1 to 0.8 times
    the channels, and average pooling; the mean over the image; a linear head. An activation, and
    dropout if any, comes before each convolution but the first, and before the head. size: a
    multiple of 4, 8 or more. No convolution has a bias, under no norm.

    placement: where a norm's output part goes; its weight part is on every layer.
        before_activation: on what enters an activation, as in DenseNet. Such a place belongs to the
        layer after it, so that norm_layers selects layers together with the places before them.
        The first convolution has none.
        after_layer: on what each convolution puts out, the paper's equations 6 and 7; the head gets
        the weight part alone.
    At width 12, depth 16 and 3 x 32 x 32: none and spectral 978,772 parameters; batch 1,009,730
    (985,506 after_layer); mean_spectral 994,251 (982,139 after_layer).
    """

    def __init__(
        self,
        norm: NormName = "mean_spectral",
        classes: int = 10,
        channels: int = 3,
        size: int = 32,
        *,
        width: int | None = None,
        depth: int | None = None,
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
        conv_bias: bool = False,
        placement: PlacementName = "before_activation",
        norm_options: Mapping[str, Any] | None = None,
        norm_layers: Sequence[int | str] | None = None,
        other_norm: NormName = "none",
    ) -> None:
        super().__init__()
        check_norms(norm, other_norm, norm_options)
        _check(size, placement, conv_bias)
        before = placement == "before_activation"
        k, layers = 12 if width is None else width, 16 if depth is None else depth
        self._build(classes, channels, k, layers, before, activation, slope, dropout)
        for layer in layers_of(self).values():
            if isinstance(layer, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852
                nn.init.kaiming_normal_(layer.weight, slope if activation == "leaky_relu" else 0.0)
        put_norms_here = put_norms_before if before else partial(put_norms, head="head")
        put_norms_here(
            self,
            norm,
            norm_options=norm_options,
            norm_layers=norm_layers,
            other_norm=other_norm,
        )

    def _build(
        self,
        classes: int,
        channels: int,
        width: int,
        depth: int,
        before: bool,
        activation: ActivationName,
        slope: float,
        dropout: float,
    ) -> None:
        """The network without a norm; `before`: with an nn.Identity where an output part may go."""

        def activations(number: str = "") -> dict[str, nn.Module]:
            parts = activated(activation, slope, dropout)
            made = dict(zip(("activation", "dropout"), parts, strict=False))
            place = {"norm": nn.Identity()} if before else {}
            return {f"{name}{number}": part for name, part in (place | made).items()}

        def dense_layer(inputs: int) -> nn.Module:
            first = activations("1") | {"conv1": nn.Conv2d(inputs, 4 * width, 1, bias=False)}
            conv2 = nn.Conv2d(4 * width, width, 3, padding=1, bias=False)
            return _sequence(first | activations("2") | {"conv2": conv2})

        features = 2 * width
        self.stem = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for last in (False, False, True):
            blocks.append(DenseBlock(dense_layer(features + i * width) for i in range(depth)))
            features += depth * width
            if not last:
                kept = features * 4 // 5
                conv = {"conv": nn.Conv2d(features, kept, 1, bias=False), "pool": nn.AvgPool2d(2)}
                blocks.append(_sequence(activations() | conv))
                features = kept
        self.blocks = nn.Sequential(*blocks)
        pooled = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        self.last = _sequence(activations() | pooled)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(images))))


def put_norms_before(
    network: DenseNetBC,
    norm: str,
    *,
    norm_options: Mapping[str, Any] | None = None,
    norm_layers: Sequence[int | str] | None = None,
    other_norm: str = "none",
) -> None:
    """As `put_norms`, with the output parts in the places before the activations.

    ValueError for what cannot mean anything: other_norm without a layer, and a norm of outputs
    alone for layers of which none has a place before it.
    """
    chosen = select(network, norm_layers)
    rest = [name for name in layers_of(network) if name not in chosen]
    if other_norm != "none" and not rest:
        raise ValueError(
            f"other_norm {other_norm!r} has no layer: norm_layers leaves none; name fewer there"
        )
    places = places_before(network)
    for name, options, names in ((norm, norm_options or {}, list(chosen)), (other_norm, {}, rest)):
        entry = configured(name, options)
        if names and entry.output and not entry.weight and not any(places[each] for each in names):
            raise ValueError(
                f"norm {name!r} has no part for the weights, and no activation comes before"
                f" {', '.join(names)}: nothing would be normed; choose further layers, or placement"
                " 'after_layer'"
            )
        norm_weights(network, entry, names)
        norm_places(network, entry, names)


def norm_weights(network: DenseNetBC, norm: Norm, names: Iterable[str]) -> None:
    """Put the norm's weight part on the layers of these names."""
    for name in names:
        normalise(network.get_submodule(name), replace(norm, output=None, cancels_bias=False))


def norm_places(network: DenseNetBC, norm: Norm, names: Iterable[str]) -> None:
    """Put the norm's output part in the places before the layers of these names."""
    places = places_before(network)
    for name in names:
        if norm.output and places[name]:
            layer = network.get_submodule(name)
            inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            # Output parts are made for a layer: for one that would put these channels out.
            maker = nn.Conv2d(1, inputs, 1, device="meta")  # type: ignore[arg-type]
            network.set_submodule(places[name], norm.output(maker))


def places_before(network: DenseNetBC) -> dict[str, str]:
    """The name of the free place before each layer, by the layer's name; "" where there is none."""
    found, place = {}, ""
    layers = layers_of(network)
    for name, part in network.named_modules():
        if isinstance(part, nn.Identity):
            place = name
        elif name in layers:
            found[name], place = place, ""
    return found


def _check(size: int, placement: str, conv_bias: bool) -> None:
    if size < 8 or size % 4:
        raise ValueError(f"densenet_bc takes images of a multiple of 4 and at least 8, not {size}")
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose one of {', '.join(PLACEMENTS)}")
    if conv_bias:
        raise ValueError("densenet_bc has no convolution with a bias to keep; leave conv_bias out")


def _sequence(parts: Mapping[str, nn.Module]) -> nn.Module:
    return FusedSequential(OrderedDict(parts))
