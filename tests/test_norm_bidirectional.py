"""Bidirectional and scaled spectral normalisation against singular values in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import NORMS, SigmaBank, normalise, stored

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (5, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (5, 4, 5, 5)),
    "conv2d, 2 groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (3, 4, 3, 3, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (5, 4, 3, 3)),
    "conv_transpose2d, 2 groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (5, 4, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), (5, 3, 4)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_convolution = pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "linear"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def normed(kind: str, name: str, **options: Any) -> nn.Module:
    return normalise(LAYERS[kind][0]().double(), NORMS[name].configured(**options))


def matrices(layer: nn.Module, weight: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Each group's weight as (outputs) x (inputs * kernel) and as (inputs) x (outputs * kernel)."""
    forwards, backwards = [], []
    for group in weight.chunk(getattr(layer, "groups", 1)):
        stored, other = group.flatten(1), group.transpose(0, 1).flatten(1)
        transposed = isinstance(layer, nn.ConvTranspose2d)  # which stores the inputs first
        forwards.append(other if transposed else stored)
        backwards.append(stored if transposed else other)
    return forwards, backwards


def exact_sigma(layer: nn.Module, weight: Tensor) -> Tensor:
    largest = [
        torch.stack([torch.linalg.svdvals(matrix)[0] for matrix in direction]).max()
        for direction in matrices(layer, weight)
    ]
    return (largest[0] + largest[1]) / 2


@every_layer
def test_sigma_is_the_mean_of_both_directions_largest_singular_values(kind: str) -> None:
    layer = normed(kind, "bidirectional")
    weight = stored(layer).detach()
    sigma = exact_sigma(layer, weight)
    torch.testing.assert_close(layer.weight_norm.sigma(weight), sigma, rtol=1e-9, atol=0)
    torch.testing.assert_close(layer.weight.detach(), weight / sigma)


@every_layer
def test_the_gradient_is_that_of_division_by_the_exact_sigma(kind: str) -> None:
    layer = normed(kind, "bidirectional")
    weight, target = stored(layer), torch.randn_like(stored(layer))
    (ours,) = torch.autograd.grad((layer.weight * target).sum(), weight)
    exact = weight / exact_sigma(layer, weight)
    (expected,) = torch.autograd.grad((exact * target).sum(), weight)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@every_layer
def test_gradients_of_first_and_second_order_are_those_of_finite_differences(kind: str) -> None:
    part = normed(kind, "bidirectional_scaled").eval().weight_norm
    weight = LAYERS[kind][0]().double().weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(part.quotient, weight)  # u and v stay as they are
    assert torch.autograd.gradgradcheck(part.quotient, weight)


def test_the_gradient_takes_all_u_and_v_as_constants() -> None:
    layer = normed("conv2d", "bidirectional")
    part, weight = layer.weight_norm, stored(layer).detach()
    a, b = part.by_outputs, part.by_inputs
    slope = torch.einsum("o,ikl->oikl", a.u[0], a.v[0]) / 2
    slope = slope + torch.einsum("i,okl->oikl", b.u[0], b.v[0]) / 2
    sigma = (slope * weight).sum()
    normalised = layer.weight
    upstream = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(normalised, stored(layer), upstream)
    inner = (upstream * weight / sigma).sum()
    torch.testing.assert_close(gradient, (upstream - inner * slope) / sigma)


def test_of_a_linear_layer_it_is_spectral_normalisation() -> None:
    layer = LAYERS["linear"][0]()
    ours = normalise(copy.deepcopy(layer), NORMS["bidirectional"])
    theirs = normalise(layer, NORMS["spectral"])
    x = torch.randn(5, 4)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))
    assert len(ours.state_dict()) == len(theirs.state_dict())


@every_convolution
def test_a_training_pass_on_a_new_weight_iterates_both_directions(kind: str) -> None:
    layer = normed(kind, "bidirectional")
    stored(layer).data.normal_()
    expected = copy.deepcopy(layer.weight_norm)
    for direction in (expected.by_outputs, expected.by_inputs):
        before = direction.u.clone()
        direction.iterate(stored(layer))
        assert not torch.allclose(direction.u, before, atol=1e-4)
    layer(torch.randn(LAYERS[kind][1], dtype=torch.float64))
    torch.testing.assert_close(layer.weight_norm.state_dict(), expected.state_dict())


@every_convolution
def test_each_direction_is_named_by_its_rows(kind: str) -> None:
    layer = normed(kind, "bidirectional")
    assert layer.weight_norm.by_outputs.u.shape == (layer.groups, 6 // layer.groups)
    assert layer.weight_norm.by_inputs.u.shape == (layer.groups, 4 // layer.groups)


def test_both_pairs_persist_in_the_state() -> None:
    buffers = {"u", "v", "last_sigma", "block"}
    expected = {f"weight_norm.by_outputs.{name}" for name in buffers}
    expected |= {f"weight_norm.by_inputs.{name}" for name in buffers}
    assert set(normed("conv2d", "bidirectional").state_dict()) == {"weight", "bias"} | expected


@pytest.mark.parametrize("name", ["bidirectional", "bidirectional_scaled", "scaled"])
def test_a_bank_iterates_once_per_update_and_lends_one_weight(name: str) -> None:
    layer = normed("conv2d", name)
    alone = copy.deepcopy(layer)
    bank = SigmaBank(layer)
    x = torch.randn(5, 4, 5, 5, dtype=torch.float64)
    for each in (layer, alone):
        stored(each).data.mul_(2).add_(0.1)
    bank.update()
    for _ in range(3):
        managed = layer(x)
    torch.testing.assert_close(managed, alone(x))
    torch.testing.assert_close(layer.state_dict(), alone.state_dict())
    with bank.shared():
        assert layer.weight is layer.weight
        torch.testing.assert_close(layer(x), managed)
        layer(x).square().sum().backward()
    alone.eval()(x).square().sum().backward()
    torch.testing.assert_close(stored(layer).grad, stored(alone).grad)


def test_u_and_v_stay_float32_in_a_narrow_layer() -> None:
    layer = normalise(nn.Conv2d(4, 6, 3), NORMS["bidirectional"]).to(torch.bfloat16)
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == torch.float32, name
    assert layer.weight_norm.sigma(stored(layer)).dtype == torch.float32
    assert layer(torch.randn(5, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "kind", ["conv2d", "conv2d, 2 groups", "conv_transpose2d", "conv_transpose2d, 2 groups"]
)
def test_it_is_the_same_in_channels_last(kind: str) -> None:
    layer = normed(kind, "bidirectional")
    other = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    x = torch.randn(LAYERS[kind][1], dtype=torch.float64)
    for _ in range(3):
        expected, y = layer(x), other(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(other.state_dict(), layer.state_dict())


@every_layer
@pytest.mark.parametrize(
    ("name", "plain"), [("scaled", "spectral"), ("bidirectional_scaled", "bidirectional")]
)
@pytest.mark.parametrize("head", [True, False])
def test_a_scale_multiplies_every_normalised_weight(
    kind: str, name: str, plain: str, head: bool
) -> None:
    layer = LAYERS[kind][0]().double()
    expected = normalise(copy.deepcopy(layer), NORMS[plain], head=head).weight
    for scale in (0.7, 1.0, 4.0):
        norm = NORMS[name].configured(scale=scale)
        scaled = normalise(copy.deepcopy(layer), norm, head=head).weight
        torch.testing.assert_close(scaled, scale * expected)


@pytest.mark.parametrize("name", ["scaled", "bidirectional_scaled"])
def test_the_scale_is_1_4_unless_given_and_shown(name: str) -> None:
    default = normed("conv2d", name)
    sigma = default.weight_norm.sigma(stored(default))
    torch.testing.assert_close(default.weight, 1.4 * stored(default) / sigma)
    assert "scale=1.4" in repr(default)


@pytest.mark.parametrize("name", ["scaled", "bidirectional_scaled"])
@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "large", None])
def test_a_scale_that_is_no_positive_number_is_refused(name: str, scale: Any) -> None:
    with pytest.raises(ValueError, match=rf"scale {scale!r} is not a number above 0; choose"):
        NORMS[name].configured(scale=scale)


def test_bidirectional_has_no_scale() -> None:
    with pytest.raises(ValueError, match="no option 'scale'"):
        NORMS["bidirectional"].configured(scale=2.0)
