"""Generator and critic: counts, shapes, ranges, first weights, refusals, and that they train."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
import torch
from conftest import smallest
from norm_layers import ONE_OF_EACH_KIND
from torch import Tensor, nn

from msngan.losses import LOSSES, PENALTIES, LossName, PenaltyName
from msngan.networks import (
    CLASSIFIERS,
    CRITICS,
    GENERATORS,
    ClassifierName,
    Critic,
    CriticName,
    Generator,
    GeneratorName,
)
from msngan.norms import NORMS, NormName, SigmaBank

every_norm = pytest.mark.parametrize("norm", sorted(NORMS))
every_kind = pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
every_critic = pytest.mark.parametrize("name", sorted(CRITICS))
sizes = pytest.mark.parametrize("size", [8, 32])
SMALLEST = {"dcgan": 8, "cnn": 8, "cnn_wide": 8}  # of images; the others begin with 32
# Each loss, and a norm of each kind.
LOSS_AND_NORM = [(sorted(LOSSES)[i % len(LOSSES)], n) for i, n in enumerate(ONE_OF_EACH_KIND)]
# By hand: seven biased convolutions and the head, 2,935,873; a norm with gain and offset adds
# 2 * 1,408 and one with an offset 1,408; a bias that is not created takes 1,408 away.
COUNTS = {
    ("cnn", "none", False): 2_935_873,
    ("cnn", "spectral", False): 2_935_873,
    ("cnn", "spectral", True): 2_935_873,
    ("cnn", "mean_spectral", False): 2_935_873,
    ("cnn", "mean_spectral", True): 2_937_281,
    ("cnn", "batch", False): 2_937_281,
    ("cnn", "batch", True): 2_938_689,
    ("cnn_wide", "none", False): 5_860_865,
    ("cnn_wide", "spectral", False): 5_860_865,
    ("cnn_deep", "spectral", False): 11_858_497,  # of images of 64 pixels
}


NAMES = [(GeneratorName, GENERATORS), (CriticName, CRITICS), (ClassifierName, CLASSIFIERS)]
NAMES += [(NormName, NORMS), (LossName, LOSSES), (PenaltyName, PENALTIES)]


@pytest.mark.parametrize(("names", "table"), NAMES)
def test_the_types_of_names_list_the_tables(names, table):
    assert get_args(names) == tuple(table)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pictures(size: int, channels: int = 3) -> Tensor:
    return torch.rand(4, channels, size, size) * 2 - 1


@pytest.mark.quick
@pytest.mark.parametrize(("key", "expected"), COUNTS.items())
def test_the_critic_has_the_published_number_of_parameters(key, expected):
    name, norm, conv_bias = key
    with torch.device("meta"):
        size = 64 if name == "cnn_deep" else 32
        critic = CRITICS[name](norm=norm, width=64, conv_bias=conv_bias, size=size)
        assert count(critic) == expected


def test_the_generator_has_the_released_number_of_parameters_without_its_dead_biases():
    # 3,805,699 in the authors' code, less the biases of 512 + 256 + 128 + 64 before batch norms.
    assert count(Generator()) == 3_805_699 - 960


DEEP = {  # by hand: the channels after the linear layer and each convolution of stride 2
    64: [16, 8, 4, 2, 1],
    96: [16, 8, 4, 2, 1],
    128: [16, 16, 8, 4, 2, 1],
}


@pytest.mark.parametrize(("size", "factors"), DEEP.items())
def test_deep_networks_end_in_a_map_of_4_pixels_6_at_96(size, factors):
    bottom, width = 6 if size == 96 else 4, 3
    generator = GENERATORS["dcgan_deep"](latent_dim=5, width=width, size=size)
    critic = CRITICS["cnn_deep"](norm="none", width=width, size=size)
    assert generator.stem.out_features == factors[0] * width * bottom**2
    up = [layer for layer in generator.body if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in up] == [width * factor for factor in factors[1:]]
    down = [layer for layer in critic.body if isinstance(layer, nn.Conv2d)]
    # A convolution of stride 1 has the channels that the one of stride 2 after it keeps.
    pairs = [factors[len(factors) - 1 - index // 2] for index in range(len(down))]
    assert [layer.out_channels for layer in down] == [width * factor for factor in pairs]
    assert critic.head.in_features == factors[0] * width * bottom**2
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert critic(images).shape == (2,)


@sizes
@every_kind
@pytest.mark.parametrize(("name", "channels"), [("cnn", 1), ("cnn_wide", 3)])
def test_the_critic_gives_one_score_an_image(name, norm, size, channels):
    size = max(size, smallest(norm))
    critic = CRITICS[name](norm=norm, width=1, channels=channels, size=size)
    for mode in (True, False):
        scores = critic.train(mode)(pictures(size, channels))
        assert scores.shape == (4,)
        assert scores.isfinite().all()


@pytest.mark.quick
@sizes
@pytest.mark.parametrize("name", sorted(GENERATORS))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 7])
def test_the_generator_gives_images_in_range(name, size, channels, width):
    size = max(size, SMALLEST.get(name, 32))
    generator = GENERATORS[name](latent_dim=5, width=width, channels=channels, size=size)
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= 1000
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, channels, size, size)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


@pytest.mark.parametrize("network", [*GENERATORS.values(), *CRITICS.values()])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "image size 0 is not"),
        ({"size": 4}, "image size 4 is not"),
        ({"size": -8}, "image size -8 is not"),
        ({"size": 33}, "image size 33 is not"),
        ({"width": 0}, "width 0 is not positive"),
        ({"width": -1}, "width -1 is not positive"),
        ({"channels": 0}, "1 or 3 channels, not 0"),
        ({"channels": 2}, "1 or 3 channels, not 2"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_by_value(network, options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_an_instance_norm_with_nothing_to_average_over_is_refused():
    with pytest.raises(ValueError, match="an instance norm has one value per channel.*use 16x16"):
        Critic(norm="instance", size=8)
    Critic(norm="instance", width=1, size=8, norm_layers=[0, 1, 2])


def test_a_latent_of_no_dimensions_and_an_unknown_norm_are_refused():
    with pytest.raises(ValueError, match="latent_dim 0 is not positive"):
        Generator(latent_dim=0)
    with pytest.raises(ValueError, match="unknown norm 'msn'; choose one of batch"):
        Critic(norm="msn")


@every_norm
@every_critic
def test_each_norm_is_on_all_convolutions_and_the_head_is_never_centred(name, norm):
    size = max(smallest(norm), SMALLEST.get(name, 32))
    critic = CRITICS[name](norm=norm, width=2, size=size)
    convolutions = [part for part in critic.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == {"resnet": 10}.get(name, 7)
    entry = NORMS[norm]
    for conv in convolutions:
        assert (getattr(conv, "weight_norm", None) is None) == (entry.weight is None)
        assert (getattr(conv, "output_norm", None) is None) == (entry.output is None)
    assert (getattr(critic.head, "weight_norm", None) is None) == (entry.weight is None)
    assert getattr(critic.head, "output_norm", None) is None
    assert critic.head.bias is not None


@pytest.mark.parametrize("network", [Generator(width=16), Critic("none", 16), Critic("batch", 16)])
def test_first_weights_are_normal_with_deviation_0_02_and_biases_are_zero(network):
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
        elif getattr(layer, "weight", None) is not None:
            weights = layer.weight.detach()
            error = 5 * 0.02 / weights.numel() ** 0.5  # five standard errors
            assert abs(weights.mean().item()) < error
            assert abs(weights.std().item() - 0.02) < error
            assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize(("loss", "norm"), LOSS_AND_NORM)
def test_gradient_steps_lower_the_critic_s_loss_by_as_much_as_the_gradient_says(norm, loss):
    size = smallest(norm)
    critic = Critic(norm=norm, width=4, size=size, channels=1).double()
    real, fake = pictures(size, 1).double(), pictures(size, 1).double()
    critic(real)  # some norms learn the size of their input
    SigmaBank(critic)  # sigma's vectors stand still
    weights = list(critic.parameters())
    torch._foreach_mul_([weight.data for weight in weights], 10)  # out of the kinks around zero
    values, predicted = [], []
    for _ in range(5):
        value = LOSSES[loss].critic(critic(real), critic(fake))
        gradient = torch.autograd.grad(value, weights)
        square = sum(part.square().sum() for part in gradient)
        values.append(value.item())
        rate = 1e-9 / square.sqrt()
        predicted.append((rate * square).item())
        with torch.no_grad():
            torch._foreach_sub_(weights, [rate * part for part in gradient])
    falls = [before - after for before, after in pairwise(values)]
    assert falls == pytest.approx(predicted[:-1], rel=0.01)
    assert min(falls) > 0


@pytest.mark.parametrize(("loss", "norm"), LOSS_AND_NORM)
def test_the_generator_s_loss_reaches_all_its_weights(norm, loss):
    size = smallest(norm)
    critic = Critic(norm=norm, width=2, size=size).requires_grad_(False)
    generator = Generator(latent_dim=5, width=2, size=size)
    scores = critic(generator(torch.randn(4, 5)))
    LOSSES[loss].generator(critic(pictures(size)), scores).backward()
    for parameter in generator.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    assert all(parameter.grad is None for parameter in critic.parameters())
