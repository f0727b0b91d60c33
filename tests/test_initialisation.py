"""First weights by a named scheme: their sizes, under every norm, and the bits of the default."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import same_bits
from norm_layers import exact_sigma
from torch import Tensor, nn

from msngan.gan import GAN
from msngan.networks.initialisation import GAINS, initialise
from msngan.norms import NORMS, convert, layers_of, parts_of, stored

SCHEMES = sorted(GAINS)
LAYERS = {
    "linear": lambda: nn.Linear(48, 160),
    "conv": lambda: nn.Conv2d(12, 160, 2, groups=2),
    "transposed conv": lambda: nn.ConvTranspose2d(24, 320, 2, groups=2),
    "embedding": lambda: nn.Embedding(160, 48),
}


def by_outputs(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight as (outputs, inputs / groups * kernel), group after group; float64."""
    weight = weight.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):
        groups = weight.unflatten(0, (layer.groups, -1))
        weight = torch.cat([group.transpose(0, 1) for group in groups])
    return weight.flatten(1)


@pytest.mark.quick
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("gain", [None, 0.5])
def test_weights_have_the_size_that_their_scheme_names(kind, gain):
    layer = LAYERS[kind]()
    bias = getattr(layer, "bias", None)
    bias = None if bias is None else bias.clone()
    rows, columns = by_outputs(layer, layer.weight).shape
    pixels = 1 if layer.weight.dim() == 2 else 4
    fan_out = rows * pixels  # as torch counts it, over all groups
    sizes = {
        "normal": gain or 0.02,
        "xavier": (gain or 1) * math.sqrt(2 / (columns + fan_out)),
        "kaiming": (gain or math.sqrt(2)) / math.sqrt(columns),
    }
    for scheme, size in sizes.items():
        initialise(layer, scheme, gain)
        weight = by_outputs(layer, layer.weight)
        assert 0.97 < float(weight.std()) / size < 1.03
        assert abs(float(weight.mean())) < size / 20
        if scheme == "xavier":
            assert 0.99 < float(weight.abs().max()) / (size * math.sqrt(3)) <= 1
    initialise(layer, "orthogonal", gain)
    singular = torch.linalg.svdvals(by_outputs(layer, layer.weight))
    torch.testing.assert_close(singular, torch.full_like(singular, gain or 1), rtol=1e-5, atol=0)
    assert bias is None or torch.equal(layer.bias, bias)


def network(norm: str) -> nn.Module:
    """Layers of each kind under a norm, with the same first weights under every one."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 4), nn.Linear(12, 8), nn.Embedding(5, 8)]
    return convert(nn.Sequential(*layers, nn.Linear(8, 1)), norm, head="4")


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.filterwarnings("ignore:convert. weights without norm:UserWarning")
def test_under_every_norm_the_first_weights_are_the_same_and_sigma_is_theirs(norm):
    promised = {"scaled": 1.4, "bidirectional_scaled": 1.4}.get(norm, 1.0)
    for scheme in SCHEMES:
        plain, normed, own = network("none"), network(norm), network(norm)
        for each in (plain, normed):
            torch.manual_seed(2)
            initialise(each, scheme)
        for layer, first, other in zip(plain, normed, own, strict=True):
            assert torch.equal(layer.weight, stored(first))
            assert not torch.equal(stored(first), stored(other))
        for layer, name, part in parts_of(normed):
            weight = getattr(layer, name)
            # A gate that is off, a norm that acts after each update, and one that waits for the
            # size of an input; and lengths that are those of the new weight.
            waits = norm == "spectral_clip" and not part.known
            if norm in ("optional_spectral", "lipschitz_projection") or waits:
                assert torch.equal(weight, stored(layer))
            elif norm.startswith("weight"):
                torch.testing.assert_close(weight, stored(layer))
            else:
                both = norm.startswith("bidirectional") and weight.dim() > 2
                sigma = float(exact_sigma(layer, weight.detach().double(), both)) / promised
                assert (0 if norm == "spectral_clip" else 0.98) < sigma < 1.02, (scheme, layer)


def test_a_norm_that_knows_the_size_of_an_input_bounds_the_new_weights():
    layer = convert(nn.Conv2d(3, 4, 3, padding=1), "spectral_clip", beta=0.1)
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, 4, 4] = 1
    layer(image)
    initialise(layer, "orthogonal", 5.0)
    # The bias and what one pixel makes of the bound: |A x| <= 0.1 |x|.
    with torch.no_grad():
        moved = layer.eval()(image) - layer(torch.zeros_like(image))
    assert 0 < float(moved.norm()) <= 0.1 * 1.02


def test_the_generator_s_weights_are_drawn_too_and_the_moving_average_begins_there():
    own, gan = (GAN(width=2, latent_dim=4, size=8, init=each) for each in ("own", "xavier"))
    for name, layer in layers_of(gan.generator).items():
        assert not torch.equal(layer.weight, own.generator.get_submodule(name).weight)
    assert gan.ema is not None
    assert same_bits(dict(gan.ema.state_dict()), dict(gan.generator.state_dict()))


def test_own_draws_nothing_and_changes_nothing():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    before, state = {n: x.clone() for n, x in network.state_dict().items()}, torch.get_rng_state()
    initialise(network, "own")
    assert same_bits(before, network.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_values_can_be_built_to_count_its_parameters():
    with torch.device("meta"):
        gan = GAN(norm="mean_spectral", init="orthogonal", width=2, latent_dim=4, size=8)
    assert all(parameter.is_meta for parameter in gan.parameters())


def test_memory_layout_and_precision_do_not_change_the_weights():
    plain, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    half = nn.Conv2d(3, 4, 3).bfloat16()
    for layer in (plain, other, half):
        torch.manual_seed(1)
        initialise(layer, "orthogonal")
    assert torch.equal(plain.weight, other.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.weight.bfloat16(), half.weight)
