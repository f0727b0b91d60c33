"""Bidirectional and scaled spectral normalisation against singular values in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import NORMS, configured, normalise, stored

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


def normed(kind: str, name: str, **options: Any) -> nn.Module:
    return normalise(LAYERS[kind][0]().double(), configured(name, options))


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


def test_u_and_v_stay_float32_in_a_narrow_layer() -> None:
    layer = normalise(nn.Conv2d(4, 6, 3), NORMS["bidirectional"]).to(torch.bfloat16)
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == torch.float32, name
    assert layer.weight_norm.sigma(stored(layer)).dtype == torch.float32
    assert layer(torch.randn(5, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


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
        norm = configured(name, dict(scale=scale))
        scaled = normalise(copy.deepcopy(layer), norm, head=head).weight
        torch.testing.assert_close(scaled, scale * expected)
