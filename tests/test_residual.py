"""The residual networks against plain functions: counts, blocks, self-attention, runs, refusals."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Refused, Run, Tiny, resumed_from_previous, same_bits, weights
from norm_layers import ONE_OF_EACH_KIND
from test_readme import ROOT, names, rows
from torch import Tensor, nn
from torch.nn import functional as F

from msngan import networks
from msngan.networks.attention import SelfAttention
from msngan.networks.conditional import ConditionalBatchNorm2d
from msngan.networks.residual import ResidualCritic, ResidualGenerator
from msngan.norms import NORMS, SigmaBank, layers_of, stored

# Parameters of published networks, of the project mimicry.
GENERATORS = {32: 4_276_739, 64: 12_220_675}
CRITICS = {32: 1_053_825, 64: 10_141_441}
NETWORKS = ROOT / "msngan" / "networks" / "README.md"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolution(inputs: int, outputs: int, kernel: int = 3) -> int:
    return kernel**2 * inputs * outputs + outputs


def up(inputs: int, outputs: int) -> int:
    convolutions = convolution(inputs, outputs) + convolution(outputs, outputs)
    return convolutions + convolution(inputs, outputs, 1) + 2 * inputs + 2 * outputs


def down(inputs: int, outputs: int, hidden: int) -> int:
    convolutions = convolution(inputs, hidden) + convolution(hidden, outputs)
    return convolutions + convolution(inputs, outputs, 1)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("size", "width", "maps"),
    [
        (32, 256, [256, 256, 256, 256]),
        (48, 64, [512, 256, 128, 64]),
        (64, 64, [1024, 512, 256, 128, 64]),
        (128, 64, [1024, 1024, 512, 256, 128, 64]),
    ],
)
def test_the_generator_has_the_published_parameters_without_the_biases_that_cancel(
    size, width, maps
):
    by_hand = 129 * (36 if size == 48 else 16) * maps[0] + sum(map(up, maps, maps[1:]))
    by_hand += 2 * maps[-1] + convolution(maps[-1], 3)
    assert by_hand == GENERATORS.get(size, by_hand)
    with torch.device("meta"):
        assert count(ResidualGenerator(width=width, size=size)) == by_hand - 3 * sum(maps[1:])


@pytest.mark.quick
@pytest.mark.parametrize("norm", ["none", "spectral", "mean_spectral"])
@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_the_critic_has_the_published_parameters(size, norm):
    if size == 32:
        by_hand = down(3, 128, 128) + down(128, 128, 128) + 4 * convolution(128, 128) + 129
    else:
        by_hand = down(3, 64, 64) + 1025
        by_hand += sum(down(inputs, 2 * inputs, inputs) for inputs in (64, 128, 256, 512))
        by_hand += 2 * convolution(1024, 1024) if size == 128 else 0
    assert by_hand == CRITICS.get(size, by_hand)
    with torch.device("meta"):
        assert count(ResidualCritic(norm, 128 if size == 32 else 64, size=size)) == by_hand


@pytest.mark.quick
def test_the_page_of_networks_has_their_parameters():
    for names_, size, width, generator, critic_width, critic in rows(NETWORKS, "networks"):
        one, two = names(names_)
        shape = {"size": int(size)}
        with torch.device("meta"):
            built = [networks.GENERATORS[one](width=int(width), **shape)]
            for norm in ("spectral", "mean_spectral"):
                built.append(networks.CRITICS[two](norm, int(critic_width), **shape))
        found = [f"{count(network):,}" for network in built]
        assert found == [generator, critic, critic]
    pages = [name for row in rows(NETWORKS, "name") for name in names(row[0])]
    assert sorted(pages) == sorted({*networks.GENERATORS, *networks.CRITICS})


def spread(network: Any) -> Any:
    """The network in float64 with random parameters, biases and m too."""
    network.double()
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) / max(parameter[0].numel(), 1) ** 0.5
    return network


def conv(layer: Any, x: Tensor) -> Tensor:
    """The convolution, then centring where the layer has it."""
    y = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)
    m = getattr(getattr(layer, "output_norm", None), "bias", None)
    return y if m is None else y - y.mean((0, 2, 3), keepdim=True) + m.view(-1, 1, 1)


def batch_norm(norm: Any, x: Tensor, labels: Tensor | None) -> Tensor:
    y = x - x.mean((0, 2, 3), keepdim=True)
    y = y / (y.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    if isinstance(norm, ConditionalBatchNorm2d):
        return y * norm.gain[labels][:, :, None, None] + norm.offset[labels][:, :, None, None]
    return y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def attended(layer: Any, x: Tensor) -> Tensor:
    """Image by image and pixel by pixel."""
    query, key, value = conv(layer.query, x), conv(layer.key, x), conv(layer.value, x)
    key, value = (
        each.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5)) for each in (key, value)
    )
    seen = torch.empty_like(query[:, :1]).repeat(1, value.shape[1], 1, 1)
    for image, row, column in torch.cartesian_prod(*map(torch.arange, seen[:, 0].shape)):
        products = torch.einsum("c,chw->hw", query[image, :, row, column], key[image])
        share = products.exp() / products.exp().sum()
        seen[image, :, row, column] = (value[image] * share).sum((1, 2))
    return x + layer.gamma * conv(layer.project, seen)


def critic_by_hand(critic: Any, halved: int, x: Tensor, labels: Tensor) -> Tensor:
    """Every shortcut is convolved at full size, then pooled, as the paper has all but the first.

    halved: how many blocks, from the first on, halve the map.
    """
    index = -1
    for block in critic.blocks:
        if isinstance(block, SelfAttention):
            x = attended(block, x)
            continue
        index += 1
        y = conv(block.body.conv1, x if index == 0 else x.relu())
        y = conv(block.body.conv2, y.relu())
        if y.shape[1] != x.shape[1] or index < halved:
            x = conv(block.shortcut.conv, x)
        x = F.avg_pool2d(x + y, 2) if index < halved else x + y
    features = x.relu().sum((2, 3))
    logits = features @ critic.head.weight[0] + critic.head.bias
    return logits + (critic.embedding.weight[labels] * features).sum(1)


def generator_by_hand(generator: Any, bottom: int, z: Tensor, labels: Tensor | None) -> Tensor:
    """As in the paper: the shortcut is convolved at the size of the output."""
    x = z @ generator.stem.weight.T + generator.stem.bias
    x = x.view(len(z), -1, bottom, bottom)
    for block in generator.blocks:
        if isinstance(block, SelfAttention):
            x = attended(block, x)
            continue
        y = conv(block.conv1, doubled(batch_norm(block.norm1, x, labels).relu()))
        y = conv(block.conv2, batch_norm(block.norm2, y, labels).relu())
        x = y + conv(block.shortcut, doubled(x))
    return conv(generator.conv, batch_norm(generator.norm, x, None).relu()).tanh()


@pytest.mark.parametrize(
    ("size", "norm", "attention", "halved"),
    [
        (32, "none", 8, 2),
        (32, "mean_spectral", 8, 2),
        (48, "none", 6, 4),
        (64, "spectral", 8, 5),
        (128, "mean_spectral", 8, 5),
    ],
)
def test_the_critic_is_the_one_of_plain_functions_in_value_and_gradient(
    size, norm, attention, halved
):
    width = 1 if size > 32 else 3
    critic = spread(ResidualCritic(norm, width, 1, size, classes=4, attention=attention))
    images, labels = torch.randn(3, 1, size, size).double(), torch.tensor([3, 1, 3])
    results = []
    with SigmaBank(critic).shared():
        for network in (critic, partial(critic_by_hand, critic, halved)):
            x = images.clone().requires_grad_()
            logits = network(x, labels)
            assert logits.shape == (3,)
            (slope,) = torch.autograd.grad(logits.square().sum(), x, retain_graph=True)
            results.append((logits, slope))
    for found, expected in zip(*results, strict=True):
        scale = expected.abs().max()
        assert (found - expected).abs().max() < 1e-12 * scale


@pytest.mark.parametrize(
    ("size", "width", "classes"), [(32, 3, 0), (48, 1, 0), (64, 1, 4), (128, 1, 0)]
)
def test_the_generator_is_the_one_of_plain_functions(size, width, classes):
    generator = spread(
        ResidualGenerator(5, width, 3, size, classes, attention=12 if size == 48 else 8)
    )
    z, labels = torch.randn(3, 5).double(), torch.tensor([3, 1, 3])
    images = generator(z, labels)
    assert images.shape == (3, 3, size, size)
    assert images.std() > 0.1
    expected = generator_by_hand(generator, 6 if size == 48 else 4, z, labels)
    torch.testing.assert_close(images, expected, rtol=1e-12, atol=1e-12)


def test_a_bias_in_a_block_of_the_generator_would_change_nothing():
    generator = spread(ResidualGenerator(5, 2))
    z = torch.randn(3, 5, dtype=torch.float64)
    before = generator(z)
    for name, layer in generator.blocks.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None, name
            layer.bias = nn.Parameter(torch.randn(layer.out_channels, dtype=torch.float64))
    torch.testing.assert_close(generator(z), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_each_norm_trains_every_weight(norm):
    critic = ResidualCritic(norm, 4, size=32, attention=8)
    critic(torch.randn(4, 3, 32, 32))  # some norms learn the size of their input
    critic.blocks[2].gamma.data.fill_(1)
    critic(torch.randn(4, 3, 32, 32)).square().sum().backward()
    for name, parameter in critic.named_parameters():
        assert "key.output" not in name  # its gradient would be rounding errors
        assert "value.output" not in name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_first_weights_are_those_of_sngan_under_every_norm():
    found = []
    for norm in ONE_OF_EACH_KIND:
        torch.manual_seed(0)
        found.append(ResidualCritic(norm, 8, attention=8))
    torch.manual_seed(0)
    networks = [*found, ResidualGenerator(latent_dim=20, width=8, attention=8)]
    for network in networks:
        for name, layer in layers_of(network).items():
            weight = stored(layer)
            field = weight[0, 0].numel() if weight.dim() == 4 else 1
            fans = (weight.shape[0] + weight.shape[1]) * field
            gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1
            bound = gain * math.sqrt(6 / fans)
            assert weight.abs().max() <= bound, name
            assert weight.abs().max() > 0.9 * bound or weight.numel() < 64, name
            assert layer.bias is None or not layer.bias.any()
    first = [stored(layer) for layer in layers_of(found[0]).values()]
    for network in found[1:]:
        for weight, layer in zip(first, layers_of(network).values(), strict=True):
            assert torch.equal(weight, stored(layer))


@pytest.mark.quick
def test_self_attention_begins_as_the_identity_and_gamma_is_trained():
    layer = SelfAttention(8)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert layer.gamma.grad.item() != 0
    assert [each.shape[:2] for each in map(stored, layers_of(layer).values())] == [
        (1, 8),
        (1, 8),
        (4, 8),
        (8, 4),
    ]


@pytest.mark.parametrize(("size", "attention"), [(32, 8), (64, 32), (128, 32)])
def test_attention_follows_the_first_block_whose_map_has_its_size(size, attention):
    z, images = torch.randn(2, 3), torch.randn(2, 3, size, size)
    generator = ResidualGenerator(3, 1, size=size, attention=attention)
    critic = ResidualCritic("none", 1, size=size, attention=attention)
    x = generator.stem(z).view(2, -1, 4, 4)
    for blocks, y in ((generator.blocks, x), (critic.blocks, images)):
        before = []
        for block in blocks:
            y = block(y)
            if isinstance(block, SelfAttention):
                break
            before.append(y.shape[-1])
        assert before.index(attention) == len(before) - 1
        assert y.shape[-1] == attention


def test_a_run_with_attention_resumes_to_the_same_bits(tiny: Tiny, run: Run) -> None:
    options = ["--model.generator", "resnet", "--model.critic", "resnet", "--data.size", "32"]
    options += ["--model.attention", "8", "--model.penalty", "r1", "--model.generator_norm"]
    options += ["spectral", "--model.critic_width", "3", "--model.conditional", "true"]
    options += ["--data.limit", "16", "--data.batch_size", "4", "--steps", "3"]
    folder = tiny("mine", *options, "--checkpoint.every", "2")
    whole = weights(folder)
    assert whole["critic.blocks.2.gamma"].item() != 0
    assert whole["generator.blocks.1.gamma"].item() != 0
    assert same_bits(whole, resumed_from_previous(folder, run))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["generator", "resnet", "--data.size", "96"], "generator resnet: image size 96 is not 32"),
        (
            ["critic", "resnet", "--data.size", "16"],
            "critic resnet: image size 16 is not 32, 48, 64 or 128",
        ),
        (["critic", "cnn_deep", "--data.size", "72"], "4, 5, 6 or 7 times a power of two"),
        (["attention", "16"], "generator dcgan: it has no self-attention; leave --model.attention"),
        (["generator", "resnet", "--model.attention", "8"], "critic cnn: it has no self-attention"),
        (
            ["generator", "resnet", "--model.critic", "resnet", "--model.attention", "32"],
            "critic resnet: attention 32: its maps have 16, 8 pixels; choose one of them",
        ),
    ],
)
def test_what_a_network_does_not_have_is_one_line(
    options: list[str], message: str, refused: Refused
) -> None:
    assert message in refused(
        "fit", "--config", "digits_msn", f"--model.{options[0]}", *options[1:]
    )
