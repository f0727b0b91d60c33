"""Spectral normalisation against SVD, equation 9 and PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import NORMS, SigmaBank, SpectralNorm, normalise, stored

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3),
    "conv3d": lambda: nn.Conv3d(4, 6, 2),
    "conv2d, 2 groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(4, 6, 3),
    "conv_transpose2d, 2 groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "linear": lambda: nn.Linear(4, 6),
}


def new(layer: nn.Module) -> tuple[SpectralNorm, Tensor]:
    """A new norm of the layer and the layer's weight, in float64 and eval."""
    norm = SpectralNorm.of(layer.double()).eval()
    return norm, layer.weight.detach().clone().requires_grad_()


def operator_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Outputs x (inputs * kernel) with zeros between groups, filled entry by entry."""
    groups, transposed = getattr(layer, "groups", 1), isinstance(layer, nn.ConvTranspose2d)
    taps = weight[0, 0].numel()
    if isinstance(layer, nn.Linear):
        inputs, outputs = layer.in_features, layer.out_features
    else:
        inputs, outputs = layer.in_channels, layer.out_channels
    matrix = weight.new_zeros(outputs, inputs * taps)
    for i in range(inputs):
        group = i // (inputs // groups)
        for o in range(outputs // groups):
            row = group * (outputs // groups) + o
            entry = weight[i, o] if transposed else weight[row, i % (inputs // groups)]
            matrix[row, i * taps : (i + 1) * taps] = entry.flatten()
    return matrix


@pytest.mark.parametrize("kind", LAYERS)
def test_sigma_of_a_small_weight_is_the_largest_singular_value_of_the_block_diagonal_matrix(
    kind: str,
) -> None:
    layer = LAYERS[kind]()
    norm, weight = new(layer)
    exact = torch.linalg.svdvals(operator_matrix(layer, weight.detach()))[0]
    torch.testing.assert_close(norm.sigma(weight).detach(), exact, rtol=1e-9, atol=0)
    normalised = operator_matrix(layer, norm(weight).detach())
    assert torch.linalg.svdvals(normalised)[0].item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_its_gradient_is_that_of_division_by_the_exact_singular_value(kind: str) -> None:
    layer = LAYERS[kind]()
    norm, weight = new(layer)
    target = torch.randn_like(weight)
    (ours,) = torch.autograd.grad((norm(weight) * target).sum(), weight)
    exact = weight / torch.linalg.svdvals(operator_matrix(layer, weight))[0]
    (expected,) = torch.autograd.grad((exact * target).sum(), weight)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def test_gradient_is_equation_9_for_any_u_and_v_and_orthogonal_to_the_weight() -> None:
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(torch.randn_like(weight)).eval()
    normalised = norm.normalised(weight)
    upstream = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(normalised, weight, upstream)
    u, v = norm.u[0], norm.v[0]
    sigma = u @ weight.detach() @ v
    inner = (upstream * weight.detach() / sigma).sum()
    torch.testing.assert_close(gradient, (upstream - inner * torch.outer(u, v)) / sigma)
    assert abs((gradient * weight.detach()).sum().item()) < 1e-13


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(200, 300), (64, 3, 4, 4), (20, 30)])
def test_sigma_is_right_at_once_and_after_steps_and_never_above(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    norm = SpectralNorm(weight)
    for _ in range(5):
        norm(weight)
        share = norm.last_sigma / torch.linalg.matrix_norm(weight.flatten(1), 2)
        assert 1 - 1e-3 < share < 1 + 1e-12
        weight += 0.03 * torch.randn_like(weight)


@pytest.mark.parametrize("training", [True, False])
def test_the_estimate_is_written_only_where_the_weight_has_changed(training: bool) -> None:
    weight = torch.randn(20, 30)
    norm = SpectralNorm(weight).train(training)
    norm(weight)
    before = copy.deepcopy(norm.state_dict())
    for _ in range(2):
        norm(weight)
        torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    norm(torch.randn(20, 30))
    after = norm.train().state_dict()
    assert all(torch.equal(after[name], before[name]) != training for name in after)


@pytest.mark.parametrize(
    ("cast", "buffers"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_u_and_v_are_float32_at_least_and_unit_whatever_the_cast(
    cast: torch.dtype, buffers: torch.dtype
) -> None:
    layer = normalise(nn.Conv2d(4, 6, 3), NORMS["spectral"])
    norm = layer.weight_norm
    layer.to(cast)
    assert stored(layer).dtype == cast
    for vector in (norm.u, norm.v):
        assert vector.dtype == buffers
        assert vector.flatten(1).norm(dim=1).item() == pytest.approx(1, abs=1e-6)
    sigma = norm.sigma(stored(layer))
    assert sigma.dtype == buffers
    exact = torch.linalg.matrix_norm(stored(layer).detach().to(buffers).flatten(1), 2)
    assert sigma.item() == pytest.approx(exact.item(), rel=1e-4)
    assert layer.weight.dtype == cast


def test_the_vectors_lie_in_memory_as_the_weight_so_that_nothing_is_copied() -> None:
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    norm, weight = SpectralNorm.of(layer), layer.weight
    assert norm.columns(norm.v, weight).data_ptr() == norm.v.data_ptr()
    assert norm.matrix(weight).data_ptr() == weight.data_ptr()
    later = normalise(nn.Conv2d(4, 6, 3), NORMS["spectral"]).to(memory_format=torch.channels_last)
    norm, weight = later.weight_norm, stored(later)
    assert norm.columns(norm.v, weight).data_ptr() == norm.v.data_ptr()
    assert norm.matrix(weight).data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_state_with_a_flat_v_and_no_sigma_is_read(kind: str) -> None:
    first, second = (normalise(LAYERS[kind]().double(), NORMS["spectral"]) for _ in range(2))
    state = first.state_dict()
    state["weight_norm.v"] = state["weight_norm.v"].flatten(1)
    del state["weight_norm.last_sigma"]
    second.load_state_dict(state)
    torch.testing.assert_close(second.eval().weight, first.eval().weight)
    bank = SigmaBank(second)
    with bank.shared():
        lent = second.weight
    torch.testing.assert_close(lent, first.weight, rtol=1e-10, atol=0)
