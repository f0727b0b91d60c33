"""A norm on a network's layers, another on the rest: what every network here does with its norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from msngan.norms import convert
from msngan.norms.select import configured, select


def check_norms(norm: str, other_norm: str, options: Mapping[str, Any] | None) -> None:
    """ValueError for an unknown norm or an option that it does not have."""
    configured(norm, options or {})
    configured(other_norm, {})


def put_norms(
    network: nn.Module,
    norm: str,
    *,
    head: str,
    conv_bias: bool = False,
    norm_options: Mapping[str, Any] | None = None,
    norm_layers: Sequence[int | str] | None = None,
    other_norm: str = "none",
) -> None:
    """Put `norm` on the layers that norm_layers selects (None: all), `other_norm` on the others.

    In place, as `msngan.norms.convert` does it. ValueError for what neither can mean, as a norm of
    outputs alone for the head alone.
    """
    chosen = select(network, norm_layers)
    rest = [name for name in select(network) if name not in chosen]
    if other_norm != "none" and not rest:
        raise ValueError(
            f"other_norm {other_norm!r} has no layer: norm_layers leaves none; name fewer there"
        )
    options = norm_options or {}
    for each, given, names in ((norm, options, list(chosen)), (other_norm, {}, rest)):
        entry = configured(each, given)
        if names == [head] and entry.output and not entry.weight:
            raise ValueError(
                f"norm {each!r} has no part for the weights, and the last layer, {head}, gets no"
                " other: nothing would be normed; choose further layers"
            )
    convert(network, norm, head=head, conv_bias=conv_bias, layers=[*chosen], **options)
    if rest:
        convert(network, other_norm, head=head, conv_bias=conv_bias, layers=rest)
