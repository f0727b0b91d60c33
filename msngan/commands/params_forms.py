"""The forms in which `msngan params` builds and counts a network under a norm.

Table III of Subramanian & Chong 2019, arXiv:1907.04003, is beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Shape = dict[str, Any]  # width, size and channels

# The networks and their sizes in Table III; `resnet18` is not in it.
SHAPES: dict[str, Shape] = {
    "cnn3": {"width": 16, "size": 28, "channels": 1},
    "vgg7": {"width": 32, "size": 32, "channels": 3},
    "densenet_bc": {"width": 12, "size": 32, "channels": 3},
    "critic": {"width": 64, "size": 32, "channels": 3},
    "resnet18": {"width": 64, "size": 32, "channels": 3},
}
TABLE_III: dict[str, dict[str, int]] = {
    "cnn3": {"batch": 103_562, "spectral": 103_406, "mean_spectral": 103_486},
    "vgg7": {"batch": 438_314, "spectral": 437_168, "mean_spectral": 437_744},
    "densenet_bc": {"batch": 1_009_730, "spectral": 1_007_608, "mean_spectral": 1_008_670},
    "critic": {"batch": 2_938_689, "spectral": 2_935_873, "mean_spectral": 2_937_282},
}
# Those of Table III, and what the paper leaves out.
PAPERS_NORMS = ("none", "batch", "spectral", "mean_spectral")


@dataclass(frozen=True)
class Form:
    """A way to build a network.

    options: the network's. scalars: with one more parameter for each norm of a weight, as the
    authors' code counts it. everywhere: the outputs of the critic's head are normed too. note: true
    at any size.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    scalars: bool = False
    everywhere: bool = False
    note: str = ""


# The forms that Table III counts; `code` is what the authors' code itself makes.
REBUILT, CODE = ("as_released", "rebuilt"), "code"
KEPT = {"conv_bias": True}
CRITIC: dict[str, list[Form]] = {
    "batch": [Form("rebuilt", KEPT, note="with conv_bias")],
    "spectral": [
        Form("rebuilt"),
        Form(CODE, scalars=True, note="with a scalar for each of eight layers that is not trained"),
    ],
    "mean_spectral": [
        Form(
            "rebuilt",
            KEPT,
            everywhere=True,
            note="with conv_bias and m on the head, which fixes the mean score of a batch, so that"
            " a Wasserstein critic learns nothing; the one parameter that this is more than"
            " conv_bias may also be a scalar that is not trained",
        ),
        Form(
            CODE,
            {
                "norm_layers": [3, 5, 6],
                "other_norm": "spectral",
                "norm_options": {"gain": True},
                **KEPT,
            },
            scalars=True,
            note="MSN with gain on convolutions 3, 5 and 6 counted from 0, spectral norm on the"
            " rest, conv_bias, and the eight scalars",
        ),
    ],
}


def forms(network: str, norm: str) -> list[Form]:
    """The forms of a network under an entry of NORMS, `default` among them; imports torch."""
    from msngan.networks.released import RELEASED
    from msngan.norms import NORMS

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
    gain = {"norm_options": {"gain": True}} if norm == "mean_spectral" else {}
    return [*found, Form("as_released", code), Form(CODE, code | gain)]


@dataclass(frozen=True)
class Count:
    """A row; against_none: parameters more than of the default form without a norm.

    None where the norm refuses a network of this size; the note then says why.
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


def counts(network: str, shape: Shape, norms: Iterable[str]) -> list[Count]:
    """A row for each form of each norm. Raises ValueError for no size of the network."""
    plain = parameters_of(build(network, "none", Form("default"), shape))
    published = TABLE_III.get(network, {}) if shape == SHAPES[network] else {}
    rows = []
    for norm in norms:
        for form in forms(network, norm):
            table_iii = published.get(norm) if form.name in REBUILT else None
            about: dict[str, Any] = {"network": network, **shape, "norm": norm, "form": form.name}
            try:
                made = build(network, norm, form, shape)
                run_once(made, shape)
            except ValueError as problem:
                rows.append(Count(**about, table_iii=table_iii, note=str(problem)))
                continue
            total, buffers = parameters_of(made), sum(each.numel() for each in made.buffers())
            about |= {"parameters": total, "against_none": total - plain, "buffers": buffers}
            rows.append(Count(**about, table_iii=table_iii, note=form.note))
    return rows


def build(network: str, norm: str, form: Form, shape: Shape) -> nn.Module:
    from msngan.networks import CLASSIFIERS, Critic
    from msngan.networks.released import with_scalars
    from msngan.norms import convert

    if form.everywhere:
        made = convert(Critic("none", **shape), norm, **form.options)
    elif network == "critic":
        made = Critic(norm, **shape, **form.options)
    else:
        made = CLASSIFIERS[network](norm, **shape, **form.options)
    return with_scalars(made) if form.scalars else made


def run_once(network: nn.Module, shape: Shape) -> None:
    """Show it two images, as some norms make their buffers then."""
    import torch

    with torch.no_grad():
        network(torch.zeros(2, shape["channels"], shape["size"], shape["size"]))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
