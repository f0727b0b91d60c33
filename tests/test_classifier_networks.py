"""The classifiers' networks: counts, places of norms, first weights, refusals, what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import COUPLED
from norm_layers import ONE_OF_EACH_KIND, pairs
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.networks import CLASSIFIERS
from msngan.norms import NORMS, Centring, SigmaBank, fold, layers_of, stored

# The smallest forms, with images that every norm takes.
SMALL: dict[str, dict[str, Any]] = {
    "cnn3": {"width": 2, "channels": 1, "size": 8},
    "vgg7": {"width": 1, "channels": 3, "size": 32},
    "densenet_bc": {"width": 2, "depth": 2, "channels": 3, "size": 8},
    "resnet18": {"width": 2, "channels": 1, "size": 9},
}
CONVOLUTIONS = {"cnn3": 3, "vgg7": 6, "densenet_bc": 1 + 3 * 2 * 2 + 2, "resnet18": 20}
ACTIVATIONS = {"cnn3": 3, "vgg7": 6, "densenet_bc": 3 * 2 * 2 + 2 + 1, "resnet18": 17}
PLACEMENTS = ("before_activation", "after_layer")

every_network = pytest.mark.parametrize("name", list(CLASSIFIERS))
every_pair = pytest.mark.parametrize(("name", "norm"), pairs(CLASSIFIERS))
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)


def small(name: str, norm: str, **options: Any) -> nn.Module:
    return CLASSIFIERS[name](norm, 4, **SMALL[name] | options)


def pictures(name: str, count: int = 5) -> Tensor:
    size = SMALL[name]["size"]
    return torch.randn(count, SMALL[name]["channels"], size, size)


def layers(module: nn.Module) -> dict[str, Any]:
    return dict(layers_of(module))


# By hand: convolutions with biases, and the head.
CNN3 = 25 * 16 + 16 + 9 * 16 * 32 + 32 + 16 * 32 * 32 + 32 + 16 * 16 * 32 * 10 + 10
VGG7 = 9 * 32 * (3 + 32 + 64 + 2 * 64 + 4 * 64 + 8 * 128) + 576 + 256 * 10 + 10
# By block: what the 16 dense layers see, to 48 channels, and 9 * 48 * 12 each; then to 0.8 of them.
SEEN = [16 * first + 12 * 120 for first in (24, 172, 291)]
DENSE = 27 * 24 + 48 * sum(SEEN) + 48 * 9 * 48 * 12 + 216 * 172 + 364 * 291 + 483 * 10 + 10
# What the places before activations see: the dense layers, their 48 channels, and three more.
PLACES = sum(SEEN) + 48 * 48 + 216 + 364 + 483
OUTPUTS = 24 + 48 * (48 + 12) + 172 + 291
RESIDUAL = 9 * (64 * (3 + 4 * 64) + 128 * (64 + 3 * 128) + 256 * (128 + 3 * 256))
RESIDUAL += 9 * 512 * (256 + 3 * 512) + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 10 + 10
BIASES = 64 * 5 + 128 * 5 + 256 * 5 + 512 * 5
AFTER = {"placement": "after_layer"}
KEPT = {"conv_bias": True}
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    *(
        (name, norm, {}, plain)
        for name, plain in [("cnn3", CNN3), ("vgg7", VGG7)]
        for norm in ("none", "spectral", "mean_spectral")
    ),
    ("cnn3", "spectral", KEPT, CNN3),
    ("cnn3", "mean_spectral", KEPT, CNN3 + 80),
    ("cnn3", "batch", {}, CNN3 + 80),
    ("cnn3", "batch", KEPT, 103_562),
    ("vgg7", "mean_spectral", KEPT, 437_738),
    ("vgg7", "batch", {}, VGG7 + 576),
    ("vgg7", "batch", KEPT, 438_314),
    ("densenet_bc", "none", {}, DENSE),
    ("densenet_bc", "spectral", AFTER, DENSE),
    ("densenet_bc", "batch", {}, 1_009_730),
    ("densenet_bc", "batch", AFTER, DENSE + 2 * OUTPUTS),
    ("densenet_bc", "mean_spectral", {}, 994_251),
    ("densenet_bc", "mean_spectral", AFTER, 982_139),
    ("densenet_bc", "spectral_bias", {}, 994_251),
    ("resnet18", "batch", {}, 11_173_962),
    ("resnet18", "none", {}, RESIDUAL + BIASES),
    ("resnet18", "mean_spectral", {}, RESIDUAL + BIASES),
    ("resnet18", "mean_spectral", KEPT, RESIDUAL + 2 * BIASES),
]


def test_the_plain_counts_worked_out_by_hand_are_the_paper_s():
    assert (CNN3, VGG7, DENSE) == (103_402, 437_162, 978_772)
    assert (DENSE + PLACES, DENSE + OUTPUTS) == (994_251, 982_139)
    assert RESIDUAL + 2 * BIASES == 11_173_962


@pytest.mark.quick
@pytest.mark.parametrize(("name", "norm", "options", "expected"), COUNTS)
def test_the_counts_at_the_paper_s_sizes(name, norm, options, expected):
    with torch.device("meta"):
        network = CLASSIFIERS[name](norm, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@every_pair
def test_every_norm_gives_logits_and_gradients_for_all_that_is_learned(name, norm):
    network, images = small(name, norm), pictures(name)
    before = images.clone()
    logits = network(images)
    assert logits.shape == (5, 4)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0])).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(stored(layer).grad.any() for layer in layers(network).values())
    assert torch.equal(images, before)


@every_pair
def test_in_training_only_batch_coupled_norms_couple_images(name, norm):
    network, images = small(name, norm).double(), pictures(name).double()
    network(images)
    SigmaBank(network)  # sigma's vectors stand still
    others = torch.cat([images[:1], 2 * pictures(name, 4).double()])
    with torch.no_grad():
        same = torch.allclose(network(images)[0], network(others)[0], rtol=1e-9, atol=1e-12)
    assert same == (norm not in COUPLED)


@every_network
@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
@every_placement
def test_no_module_is_called_twice_and_each_activation_is_one(name, activation, placement):
    network = small(name, "mean_spectral", activation=activation, placement=placement)
    calls: Counter[str] = Counter()

    def seen(label: str) -> Callable[..., None]:
        return lambda *_: calls.update([label])

    for label, module in network.named_modules():
        module.register_forward_hook(seen(label))
    network(pictures(name))
    assert set(calls.values()) == {1}
    kind = nn.LeakyReLU if activation == "leaky_relu" else nn.ReLU
    made = [label for label, part in network.named_modules() if isinstance(part, kind)]
    assert len(made) == ACTIVATIONS[name]
    assert set(made) <= set(calls)


@every_network
def test_one_seed_gives_the_same_first_weights_under_every_norm(name):
    def first(norm: str, placement: str) -> dict[str, Tensor]:
        torch.manual_seed(3)
        made = layers(small(name, norm, placement=placement))
        return {label: stored(layer).detach().clone() for label, layer in made.items()}

    plain = first("none", "before_activation")
    assert all(weight.std() > 0 for weight in plain.values())
    for norm in ONE_OF_EACH_KIND:
        for placement in PLACEMENTS:
            weights = first(norm, placement)
            assert list(weights) == list(plain)
            assert all(torch.equal(weights[label], plain[label]) for label in plain)


@every_pair
@every_placement
def test_the_head_gets_the_weight_part_alone_and_all_convolutions_have_theirs(
    name, norm, placement
):
    network, entry = small(name, norm, placement=placement), NORMS[norm]
    *convolutions, head = layers(network).items()
    assert head[0] == "head"
    assert len(convolutions) == CONVOLUTIONS[name]
    for label, layer in [*convolutions, head]:
        assert (getattr(layer, "weight_norm", None) is None) == (entry.weight is None), label
    assert getattr(head[1], "output_norm", None) is None
    inside = [getattr(layer, "output_norm", None) is not None for _, layer in convolutions]
    elsewhere = name == "densenet_bc" and placement == "before_activation"
    assert set(inside) == {entry.output is not None and not elsewhere}


@pytest.mark.quick
@every_pair
def test_in_eval_each_image_counts_alone_a_fold_computes_the_same_and_a_copy_can_be_loaded(
    name, norm
):
    network, images = small(name, norm).double(), pictures(name).double()
    network(images)
    state = {key: value.clone() for key, value in network.eval().state_dict().items()}
    torch.manual_seed(9)
    other = small(name, norm).double()
    other.load_state_dict(state)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image) for image in images.split(1)])
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert torch.allclose(together, alone, rtol=1e-9, atol=1e-12)
        assert torch.allclose(fold(network)(images), together, rtol=1e-9, atol=1e-12)
        assert torch.equal(other.eval()(images), together)


@every_network
def test_dropout_comes_after_each_activation_and_in_training_alone(name):
    network, images = small(name, "none", dropout=0.5), pictures(name)
    parts = [part for part in network.modules() if not [*part.children()]]
    after = [b for a, b in zip(parts, parts[1:], strict=False) if isinstance(a, nn.LeakyReLU)]
    assert len(after) == ACTIVATIONS[name]
    assert all(isinstance(part, nn.Dropout) and part.p == 0.5 for part in after)
    assert not torch.equal(network(images), network(images))
    network.eval()
    torch.manual_seed(0)
    assert torch.equal(network(images), small(name, "none").eval()(images))


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("leaky_relu", 2 / 1.01)])
@pytest.mark.parametrize("name", ["densenet_bc", "resnet18"])
def test_first_weights_of_the_deep_networks_keep_the_size_of_what_passes(name, activation, gain):
    network = CLASSIFIERS[name]("none", width=16, activation=activation)
    for layer in layers(network).values():
        if isinstance(layer, nn.Conv2d):
            wanted = (gain / layer.weight[0].numel()) ** 0.5
            error = 5 * wanted / (2 * layer.weight.numel()) ** 0.5  # five standard errors
            assert layer.weight.std().item() == pytest.approx(wanted, abs=error)


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


class Reference:
    """What a network under `none` computes, by functions alone."""

    def __init__(self, network: nn.Module) -> None:
        named = network.named_parameters()
        self.values = {name: value.detach().clone().requires_grad_() for name, value in named}

    def layer(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(
            x, self.values[f"{name}.weight"], self.values.get(f"{name}.bias"), **options
        )

    def head(self, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self.values["head.weight"], self.values["head.bias"])

    def densenet_bc(self, x: Tensor) -> Tensor:
        x = self.layer("stem", x, padding=1)
        for block in (0, 2, 4):
            for number in range(SMALL["densenet_bc"]["depth"]):
                name = f"blocks.{block}.{number}"
                y = _activated(self.layer(f"{name}.conv1", _activated(x)))
                x = torch.cat([x, self.layer(f"{name}.conv2", y, padding=1)], 1)
            if block < 4:
                x = F.avg_pool2d(self.layer(f"blocks.{block + 1}.conv", _activated(x)), 2)
        return self.head(_activated(x))

    def resnet18(self, x: Tensor) -> Tensor:
        x = _activated(self.layer("stem.0", x, padding=1))
        for block in range(8):
            name, stride = f"blocks.{block}", 2 if block in (2, 4, 6) else 1
            y = self.layer(f"{name}.body.conv1", x, padding=1, stride=stride)
            y = self.layer(f"{name}.body.conv2", _activated(y), padding=1)
            short = self.layer(f"{name}.shortcut", x, stride=stride) if stride == 2 else x
            x = _activated(y + short)
        return self.head(x)


@pytest.mark.parametrize("name", ["densenet_bc", "resnet18"])
def test_logits_and_gradients_are_those_of_plain_functions(name):
    network, images = small(name, "none").double(), pictures(name).double()
    reference = Reference(network)
    logits, expected = network(images), getattr(reference, name)(images)
    torch.testing.assert_close(logits, expected)
    weights = torch.randn_like(logits)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    for label, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, reference.values[label].grad)


def test_before_activation_each_place_is_normed_with_the_layer_after_it():
    def places(**options: Any) -> list[str]:
        network = small("densenet_bc", "mean_spectral", **options)
        return [name for name, part in network.named_modules() if isinstance(part, Centring)]

    def weights(**options: Any) -> list[str]:
        made = layers(small("densenet_bc", "mean_spectral", **options))
        return [name for name, layer in made.items() if getattr(layer, "weight_norm", None)]

    everywhere = [name.replace("conv", "norm") for name in weights()[1:-1]]
    assert places() == [*everywhere, "last.norm"]
    some = {"norm_layers": ["stem", "blocks.0.1.*", "head"]}
    assert places(**some) == ["blocks.0.1.norm1", "blocks.0.1.norm2", "last.norm"]
    assert weights(**some) == ["stem", "blocks.0.1.conv1", "blocks.0.1.conv2", "head"]


def test_before_activation_another_norm_takes_the_rest():
    network = small("densenet_bc", "spectral", norm_layers=["stem", "head"], other_norm="batch")
    made = layers(network)
    assert [name for name, layer in made.items() if hasattr(layer, "weight_norm")] == [
        "stem",
        "head",
    ]
    places = {name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert places == {name.replace("conv", "norm") for name in [*made][1:-1]}
    centred = small("densenet_bc", "batch", norm_layers=["blocks.1.*"], other_norm="mean_only")
    kinds = Counter(type(part).__name__ for part in centred.modules())
    assert (kinds["BatchNorm2d"], kinds["Centring"]) == (1, ACTIVATIONS["densenet_bc"] - 1)


def test_the_layers_of_densenet_are_numbered_as_in_the_authors_code():
    made = [*layers(CLASSIFIERS["densenet_bc"]("none")).values()]
    shapes = {6: (12, 48, 3, 3), 13: (48, 96, 1, 1), 44: (48, 232, 1, 1), 56: (48, 304, 1, 1)}
    shapes |= {67: (48, 291, 1, 1), 75: (48, 339, 1, 1), 84: (12, 48, 3, 3), 93: (48, 447, 1, 1)}
    assert {index: tuple(made[index].weight.shape) for index in shapes} == shapes


SIZES = {"cnn3": (1, 7, 28), "vgg7": (32, 40), "densenet_bc": (8, 12, 28), "resnet18": (8, 9, 28)}


@every_network
def test_each_network_takes_the_sizes_that_it_says(name):
    for number, size in enumerate(SIZES[name]):
        channels = (1, 3)[number % 2]
        network = small(name, "batch", size=size, channels=channels)
        assert network(torch.randn(3, channels, size, size)).shape == (3, 4)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("cnn3", {"size": 0}, "size 0 is less than 1"),
    ("cnn3", {"depth": 3}, "cnn3 has the depth that its name says; leave depth out"),
    ("resnet18", {"depth": 3}, "leave depth out"),
    ("vgg7", {"size": 28}, "vgg7 takes images of 32 pixels or a larger multiple of 8, not 28"),
    ("densenet_bc", {"size": 30}, "a multiple of 4 and at least 8, not 30"),
    ("densenet_bc", {"size": 4}, "a multiple of 4 and at least 8, not 4"),
    ("densenet_bc", {"depth": 0}, "depth 0 is less than 1"),
    ("densenet_bc", {"conv_bias": True}, "no convolution with a bias to keep"),
    ("resnet18", {"size": 7}, "resnet18 takes images of 8 pixels or more, not 7"),
]
EVERYWHERE: list[tuple[dict[str, Any], str]] = [
    ({"width": 0}, "width 0 is less than 1"),
    ({"width": -2}, "width -2 is less than 1"),
    ({"channels": 2}, "1 or 3 channels, not 2"),
    ({"classes": 1}, "classes 1 is less than 2"),
    ({"dropout": 1.0}, r"dropout 1.0 is not in \[0, 1\)"),
    ({"dropout": float("nan")}, "dropout nan"),
    ({"slope": -0.1}, "slope -0.1 is negative"),
    ({"activation": "elu"}, "unknown activation 'elu'; choose one of leaky_relu, relu"),
    ({"placement": "before"}, "unknown placement 'before'; choose one of before_activation"),
    ({"norm": "msn"}, "unknown norm 'msn'; choose one of batch"),
    ({"other_norm": "batch"}, "other_norm 'batch' has no layer"),
    ({"norm_layers": ["convs.*"]}, "no layer matches 'convs"),
    ({"norm_options": {"gian": True}}, "norm 'mean_spectral' has no option 'gian'"),
]
REFUSED = [*WRONG, *((name, *case) for name in CLASSIFIERS for case in EVERYWHERE)]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_what_a_network_cannot_have_is_refused_by_value(name, options, message):
    with pytest.raises(ValueError, match=message):
        CLASSIFIERS[name](**options)


def test_a_norm_of_outputs_without_a_place_to_go_is_refused():
    with pytest.raises(ValueError, match="'batch' has no part for weights.*cannot be on stem"):
        small("densenet_bc", "batch", norm_layers=["stem"])
    with pytest.raises(ValueError, match="'layer' has no part for weights"):
        small("densenet_bc", "spectral", norm_layers=["!stem"], other_norm="layer")
    small("densenet_bc", "batch", norm_layers=["stem"], placement="after_layer")
    small("densenet_bc", "mean_spectral", norm_layers=["stem"])
    for name in CLASSIFIERS:
        after = {"placement": "after_layer"}
        with pytest.raises(ValueError, match="'batch' has no part for weights.*head.*nothing"):
            small(name, "batch", norm_layers=["head"], **after)
        with pytest.raises(ValueError, match="'layer' has no part for weights.*head.*nothing"):
            small(name, "spectral", norm_layers=["!head"], other_norm="layer", **after)
        small(name, "spectral", norm_layers=["head"], **after)
        small(name, "batch", norm_layers=["!head"], other_norm="spectral", **after)


def test_an_instance_norm_with_nothing_to_average_over_is_refused():
    with pytest.raises(ValueError, match="one value per channel.*use 9x9 or larger"):
        small("resnet18", "instance", size=8)
    network = small("resnet18", "instance", size=8, norm_layers=["stem.*", "blocks.[0-5].*"])
    assert network(torch.randn(2, 1, 8, 8)).isfinite().all()
