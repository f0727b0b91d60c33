"""What the networks share: their activations, and norms on the layers that the options select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from msngan.networks.attention import keys_and_values
from msngan.norms import Norm, SampleNorm, configured, convert, layers_of, normalise, select

ACTIVATIONS = ("leaky_relu", "relu")
# Names of last layers, whose output a norm leaves alone: a network's head, a critic's class heads.
HEADS = ("head", "classifier", "embedding")

if TYPE_CHECKING:
    ActivationName = str
else:
    ActivationName = Literal[ACTIVATIONS]


@dataclass(frozen=True)
class Activation:
    """What follows a convolution: an activation, and dropout where it is above 0.

    slope: of LeakyReLU for negative inputs.
    """

    name: ActivationName = "leaky_relu"
    slope: float = 0.1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"unknown activation {self.name!r}; choose one of {known}")

    def parts(self) -> dict[str, nn.Module]:
        """New ones, in place, by name. Each is a module, so that hooks can see its input."""
        leaky = self.name == "leaky_relu"
        made = nn.LeakyReLU(self.slope, inplace=True) if leaky else nn.ReLU(inplace=True)
        return {"activation": made} | (
            {"dropout": nn.Dropout(self.dropout)} if self.dropout > 0 else {}
        )

    def initialise(self, network: nn.Module) -> None:
        """Initialise the convolutions by He et al. 2015, arXiv:1502.01852."""
        for layer in layers_of(network).values():
            if isinstance(layer, nn.Conv2d):
                slope = self.slope if self.name == "leaky_relu" else 0.0
                nn.init.kaiming_normal_(layer.weight, slope)


def put_norms(
    network: nn.Module,
    norm: str,
    *,
    heads: Sequence[str] = HEADS,
    conv_bias: bool = False,
    norm_options: Mapping[str, Any] | None = None,
    norm_layers: Sequence[int | str] | None = None,
    other_norm: str = "none",
    before_activation: bool = False,
) -> None:
    """Put `norm` on the layers that norm_layers selects (None: all), `other_norm` on the others.

    In place, as `msngan.norms.convert` does. heads: names of last layers, which get the weight part
    only; those that there are, and `keys_and_values` of self-attention. before_activation: put the
    output parts into the places before activations (see `places_before`), not on the layers'
    outputs. Raises ValueError for what has no effect: other_norm without a layer, and a norm with
    an output part only for layers that cannot have it.
    """
    options = norm_options or {}
    heads = [name for name in (*heads, *keys_and_values(network)) if name in layers_of(network)]
    chosen = list(select(network, norm_layers))
    rest = [name for name in layers_of(network) if name not in chosen]
    if other_norm != "none" and not rest:
        raise ValueError(
            f"other_norm {other_norm!r} has no layer: norm_layers leaves none; name fewer there"
        )
    places = places_before(network) if before_activation else {}
    for each, given, names in ((norm, options, chosen), (other_norm, {}, rest)):
        entry = configured(each, given)
        has_no_place = not any(places[name] for name in names) if places else {*names} <= {*heads}
        if names and has_no_place and entry.output and not entry.weight:
            raise ValueError(
                f"norm {each!r} has no part for weights, and its output part cannot be on"
                f" {', '.join(names)}: nothing would be normed; choose further layers"
                + (", or placement 'after_layer'" if before_activation else "")
            )
        if before_activation:
            put_weight_parts(network, entry, names)
            put_output_parts_before(network, entry, names)
    if before_activation:
        return
    convert(network, norm, head=heads, conv_bias=conv_bias, layers=chosen, **options)
    if rest:
        convert(network, other_norm, head=heads, conv_bias=conv_bias, layers=rest)


def put_weight_parts(network: nn.Module, norm: Norm, names: Iterable[str]) -> None:
    """Put the norm's weight part on the layers of these names."""
    for name in names:
        normalise(network.get_submodule(name), replace(norm, output=None, cancels_bias=False))


def put_output_parts_before(network: nn.Module, norm: Norm, names: Iterable[str]) -> None:
    """Put the norm's output part into the places before the layers of these names."""
    places = places_before(network)
    for name in names:
        if norm.output and places[name]:
            layer = network.get_submodule(name)
            inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            # Output parts are made for a layer: here for one with this many output channels.
            maker = nn.Conv2d(1, inputs, 1, device="meta")  # type: ignore[arg-type]
            network.set_submodule(places[name], norm.output(maker))


def places_before(network: nn.Module) -> dict[str, str]:
    """The name of the nn.Identity before each layer, by the name of the layer; "" for none."""
    found, place = {}, ""
    layers = layers_of(network)
    for name, part in network.named_modules():
        if isinstance(part, nn.Identity):
            place = name
        elif name in layers:
            found[name], place = place, ""
    return found


def refuse_instance_norm(layers: Iterable[nn.Module], message: str) -> None:
    """ValueError if a layer whose output is one pixel has an instance norm."""
    norms = [getattr(layer, "output_norm", None) for layer in layers]
    if any(isinstance(norm, SampleNorm) and norm.over == "space" for norm in norms):
        raise ValueError(
            f"an instance norm has one value per channel to average over in {message}, or leave"
            " it out by norm_layers"
        )
