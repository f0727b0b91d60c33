"""The networks as released: Table III's counts, and what differs beside the norm."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msngan.networks import CLASSIFIERS
from msngan.networks.released import RELEASED
from msngan.norms import NORMS, Centring, SigmaBank, layers_of, stored

# Table III of arXiv:1907.04003, and the counts of the authors' code, whose MSN has a gain.
GAIN = {"norm_options": {"gain": True}}
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("cnn3", "none", {}, 103_402),
    ("cnn3", "batch", {}, 103_562),
    ("cnn3", "spectral", {}, 103_406),
    ("cnn3", "mean_spectral", {}, 103_486),
    ("cnn3", "mean_spectral", GAIN, 103_566),
    ("vgg7", "batch", {}, 438_314),
    ("vgg7", "spectral", {}, 437_168),
    ("vgg7", "mean_spectral", {}, 437_744),
    ("vgg7", "mean_spectral", GAIN, 438_320),
    ("densenet_bc", "batch", {}, 1_009_730),
    ("densenet_bc", "spectral", {}, 1_007_608),
    ("densenet_bc", "mean_spectral", {}, 1_008_670),
    ("densenet_bc", "mean_spectral", GAIN, 1_009_733),
]
SMALL: dict[str, dict[str, Any]] = {
    "cnn3": {"width": 2, "size": 8},
    "vgg7": {"width": 1},
    "densenet_bc": {"width": 2, "depth": 2, "size": 8},
}
FORMS = [(name, norm) for name, norms in RELEASED.items() for norm in norms]
every_form = pytest.mark.parametrize(("name", "norm"), FORMS)


def released(name: str, norm: str, **options: Any) -> nn.Module:
    return CLASSIFIERS[name](norm, as_released=True, **options)


def tiny(name: str, norm: str, **options: Any) -> nn.Module:
    return released(name, norm, **SMALL[name] | options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def kinds(module: nn.Module) -> Counter[str]:
    return Counter(type(part).__name__ for part in module.modules())


def scalars(module: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.removesuffix(".weight_norm.renorm"): parameter
        for name, parameter in module.named_parameters()
        if name.endswith("renorm")
    }


@pytest.mark.parametrize(("name", "norm", "options", "expected"), COUNTS)
def test_the_published_counts(name, norm, options, expected):
    with torch.device("meta"):
        assert count(released(name, norm, **options)) == expected


SPECTRAL = {
    "cnn3": ["body.0", "body.2", "body.4", "head"],
    "vgg7": ["body.0", "body.2", "body.5", "body.7", "body.10", "body.13"],
    "densenet_bc": ["stem", "blocks.1.conv", "blocks.3.conv"],
}


@every_form
def test_the_norms_are_on_the_released_layers(name, norm):
    network = tiny(name, norm)
    normed = [
        label for label, layer in layers_of(network).items() if getattr(layer, "weight_norm", None)
    ]
    expected = SPECTRAL[name] if "spectral" in norm else []
    if (name, norm) == ("densenet_bc", "spectral"):
        expected = [*expected, "head"]
    assert normed == expected == [*scalars(network)]


@pytest.mark.parametrize("norm", RELEASED["densenet_bc"])
def test_the_dense_layers_keep_batch_norm(norm):
    network = tiny("densenet_bc", norm)
    found = {
        name: type(part).__name__
        for name, part in network.named_modules()
        if name.rpartition(".")[2].startswith("norm")
    }
    outer = {"batch": "BatchNorm2d", "spectral": "Identity", "mean_spectral": "Centring"}[norm]
    assert len(found) == 3 * 2 * 2 + 3
    for name, kind in found.items():
        places = ("blocks.1.norm", "blocks.3.norm", "last.norm")
        assert kind == (outer if name in places else "BatchNorm2d")


@every_form
def test_activation_dropout_and_biases_are_the_released_ones_whatever_is_asked_for(name, norm):
    asked = {"activation": "relu", "slope": 0.5, "dropout": 0.9, "conv_bias": True}
    asked["placement"] = "after_layer"
    for options in ({}, asked, {"activation": "leaky_relu"}):
        network = tiny(name, norm, **options)
        found = kinds(network)
        relu = name == "densenet_bc" or (name, norm) in {("cnn3", "none"), ("vgg7", "batch")}
        assert bool(found["ReLU"]) == relu
        assert bool(found["LeakyReLU"]) != relu
        slopes = {p.negative_slope for p in network.modules() if isinstance(p, nn.LeakyReLU)}
        assert slopes <= {0.1}
        rates = [part.p for part in network.modules() if isinstance(part, nn.Dropout)]
        assert rates == ([0.3] * 6 if (name, norm) == ("vgg7", "batch") else [])
        *convolutions, head = layers_of(network).values()
        assert {layer.bias is not None for layer in convolutions} == {name != "densenet_bc"}
        assert head.bias is not None


@every_form
def test_the_counted_scalars_stay_one_and_everything_else_learns(name, norm):
    torch.manual_seed(0)
    network = tiny(name, norm)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1, weight_decay=0.5)
    bank = SigmaBank(network, optimizer)
    channels = next(iter(layers_of(network).values())).in_channels
    images = torch.randn(4, channels, SMALL[name].get("size", 32), SMALL[name].get("size", 32))
    for _ in range(2):
        with bank.shared():
            loss = F.cross_entropy(network(images), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    dead = scalars(network).values()
    assert all(each.shape == (1, 1) and each.requires_grad for each in dead)
    assert all(each.grad is None and each.item() == 1 for each in dead)
    others = [p for p in network.parameters() if not any(p is each for each in dead)]
    assert all(parameter.grad is not None for parameter in others)
    with torch.no_grad():
        assert network.eval()(images).isfinite().all()


@every_form
def test_one_seed_gives_the_released_arms_the_same_first_weights(name, norm):
    made = []
    for make in (lambda: tiny(name, norm), lambda: CLASSIFIERS[name]("none", **SMALL[name])):
        torch.manual_seed(1)
        made.append([stored(layer) for layer in layers_of(make()).values()])
    if name == "densenet_bc":  # another activation, so another deviation
        made = [[weight / weight.std() for weight in weights] for weights in made]
    for ours, plain in zip(*made, strict=True):
        assert torch.allclose(ours, plain)


def test_the_gain_is_on_the_centred_places_alone():
    network = tiny("densenet_bc", "mean_spectral", norm_options={"gain": True})
    centred = [part for part in network.modules() if isinstance(part, Centring)]
    assert len(centred) == 3
    assert all(part.weight is not None for part in centred)


@pytest.mark.parametrize("name", [*CLASSIFIERS])
def test_a_norm_without_a_released_form_is_refused_with_those_that_have_one(name):
    for norm in NORMS:
        if norm in RELEASED.get(name, ()):
            continue
        words = "no released form; those that have one are cnn3, vgg7, densenet_bc"
        if name in RELEASED:
            words = f"not released with norm '{norm}'; choose one of {', '.join(RELEASED[name])}"
        with pytest.raises(ValueError, match=words):
            released(name, norm)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg7", {"norm_layers": ["head"]}, "leave norm_layers and other_norm out, or as_released"),
        ("vgg7", {"other_norm": "batch"}, "leave norm_layers and other_norm out, or as_released"),
        ("densenet_bc", {"norm_options": {"gain": True}}, "norm 'spectral' has no option 'gain'"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(name, "spectral", **options)
