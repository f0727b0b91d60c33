"""How many parameters and buffers a norm adds to the paper's networks, counted from built networks.

Table III of Subramanian & Chong 2019, arXiv:1907.04003, is beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from msngan.bench.settings import PUBLISHED, REBUILT, SHAPES
from msngan.networks import CLASSIFIERS, Critic
from msngan.networks.released import RELEASED, with_scalars
from msngan.norms import NORMS, convert


@dataclass(frozen=True)
class Form:
    """A way to build a network under a norm.

    options: the network's. scalars: with one more parameter for each norm of a weight, as the
    authors' code counts it. everywhere: the outputs of the critic's head are normed, too.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    scalars: bool = False
    everywhere: bool = False
    note: str = ""


CODE = "code"  # what the authors' code itself makes
KEPT = {"conv_bias": True}
GAIN = {"norm_options": {"gain": True}}
CRITIC: dict[str, list[Form]] = {
    "batch": [Form("rebuilt", KEPT, note="with conv_bias")],
    "spectral": [
        Form("rebuilt"),
        Form(CODE, scalars=True, note="with an untrained scalar for each of eight layers"),
    ],
    "mean_spectral": [
        Form(
            "rebuilt",
            KEPT,
            everywhere=True,
            note="with conv_bias and m on the head, which fixes the mean score of a batch, so a"
            " Wasserstein critic learns nothing; the one parameter more than conv_bias may also be"
            " an untrained scalar",
        ),
        Form(
            CODE,
            {"norm_layers": [3, 5, 6], "other_norm": "spectral", **GAIN, **KEPT},
            scalars=True,
            note="MSN with gain on convolutions 3, 5 and 6 counted from 0, spectral norm on the"
            " rest, conv_bias, and the eight scalars",
        ),
    ],
}


def forms(network: str, norm: str) -> list[Form]:
    """The forms of a network under an entry of NORMS, with `default` first."""
    found = [Form("default")]
    if network == "densenet_bc":
        found += [Form("after_layer", {"placement": "after_layer"})] if NORMS[norm].output else []
    elif NORMS[norm].cancels_bias:
        found.append(Form("conv_bias", KEPT))
    if network == "critic":
        return found + CRITIC.get(norm, [])
    if norm not in RELEASED.get(network, ()):
        return found
    code: dict[str, Any] = {"as_released": True}
    gain = GAIN if norm == "mean_spectral" else {}
    return [*found, Form("as_released", code), Form(CODE, code | gain)]


@dataclass(frozen=True)
class Count:
    """A row; against_none: parameters beyond those of the default form without a norm.

    The numbers are None where the norm refuses a network of this size; note then says why.
    """

    network: str
    width: int
    size: int
    channels: int
    norm: str
    form: str
    parameters: int | None = None
    against_none: int | None = None
    buffers: int | None = None
    table_iii: int | None = None
    note: str = ""


def counts(network: str, shape: dict[str, Any], norms: Iterable[str]) -> list[Count]:
    """A row for each form of each norm. shape: width, size and channels.

    ValueError for a size that the network does not take.
    """
    plain = parameters_of(build(network, "none", Form("default"), shape))
    published = PUBLISHED.get(network, {}) if shape == SHAPES[network] else {}
    rows = []
    for norm in norms:
        for form in forms(network, norm):
            about: dict[str, Any] = {"network": network, **shape, "norm": norm, "form": form.name}
            about["table_iii"] = published.get(norm) if form.name in REBUILT else None
            try:
                made = build(network, norm, form, shape)
                with torch.no_grad():  # some norms make their buffers at the first images
                    made(torch.zeros(2, shape["channels"], shape["size"], shape["size"]))
            except ValueError as problem:
                rows.append(Count(**about, note=str(problem)))
                continue
            total, buffers = parameters_of(made), sum(each.numel() for each in made.buffers())
            about |= {"parameters": total, "against_none": total - plain, "buffers": buffers}
            rows.append(Count(**about, note=form.note))
    return rows


def build(network: str, norm: str, form: Form, shape: dict[str, Any]) -> nn.Module:
    made: nn.Module
    if form.everywhere:
        made = convert(Critic("none", **shape), norm, **form.options)
    elif network == "critic":
        made = Critic(norm, **shape, **form.options)
    else:
        made = CLASSIFIERS[network](norm, **shape, **form.options)
    return with_scalars(made) if form.scalars else made


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
