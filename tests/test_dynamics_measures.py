"""The measures of training dynamics: against numbers worked out by hand and explicit matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from operator_layers import LAYERS, operator_matrix
from torch import Tensor, nn

from msngan.norms import Centring, SampleNorm
from msngan.training.dynamics.measure import (
    EDGES,
    THRESHOLD,
    Subject,
    gradient_figures,
    histogram,
    measure,
)
from msngan.training.dynamics.weight_measures import (
    TOLERANCE,
    effective_weight,
    kernel_singular,
    lipschitz_of,
    matrix_of,
    operator_norm,
    output_lengths,
    singular_values,
    spectral_complexity,
    stable_rank,
)

MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pointwise": (lambda: nn.Conv2d(3, 4, 1, stride=2), (3, 5, 5)),
    "pointwise, groups": (lambda: nn.Conv2d(4, 4, 1, groups=2), (4, 3, 3)),
    "pointwise, circular": (
        lambda: nn.Conv2d(2, 2, 1, padding=1, padding_mode="circular"),
        (2, 3, 3),
    ),
    "pointwise, transposed": (lambda: nn.ConvTranspose2d(3, 2, 1, 2), (3, 3, 3)),
}
CASES = LAYERS | MORE
# Of these a tap may meet the same pixel twice, or a pixel that is not there.
PADDED_BY_OTHERS = ("circular", "reflect", "replicate")


def made(name: str) -> tuple[nn.Module, tuple[int, ...], Tensor]:
    """A float64 layer, the size of its input, and the matrix that it is at that size."""
    torch.manual_seed(0)
    make, shape = CASES[name]
    layer = make().double()
    with torch.no_grad():
        return layer, shape[1:], operator_matrix(layer, effective_weight(layer), shape).T


@pytest.mark.parametrize("name", CASES)
def test_the_operator_norm_is_the_largest_singular_value_of_the_explicit_matrix(name: str) -> None:
    layer, size, explicit = made(name)
    weight = effective_weight(layer)
    exact = np.linalg.svd(explicit.numpy(), compute_uv=False)[0]
    known = float(singular_values(matrix_of(layer, weight))[0])
    assert operator_norm(layer, weight, size, 1e-12, 300, known) == pytest.approx(exact, rel=1e-9)
    rough = operator_norm(layer, weight, size, known=known)
    assert exact * (1 - TOLERANCE / 2) <= rough <= exact * (1 + 1e-9)


def test_the_operator_norm_of_a_zero_weight_is_zero_and_of_float32_nearly_the_same() -> None:
    layer, size, explicit = made("conv2d")
    weight = effective_weight(layer).detach()
    assert operator_norm(layer, torch.zeros_like(weight), size) == 0
    exact = float(torch.linalg.matrix_norm(explicit, 2))
    assert operator_norm(layer, weight.float(), size, 1e-6) == pytest.approx(exact, rel=1e-5)


def test_the_operator_norm_draws_nothing_and_is_the_same_each_time() -> None:
    layer, size, _ = made("conv2d, stride")
    state = torch.get_rng_state()
    found = {operator_norm(layer, effective_weight(layer), size) for _ in range(3)}
    assert len(found) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", CASES)
def test_singular_values_are_those_of_outputs_by_rest_in_blocks(name: str) -> None:
    layer, _, _ = made(name)
    weight = effective_weight(layer).detach().numpy()
    groups = getattr(layer, "groups", 1)
    blocks = []
    for block in np.split(weight, groups):  # along the outputs, of a transposed one the inputs
        if "transpose" in name:
            block = np.swapaxes(block, 0, 1)
        blocks.append(np.linalg.svd(block.reshape(len(block), -1), compute_uv=False))
    expected = np.sort(np.concatenate(blocks))[::-1]
    found = singular_values(matrix_of(layer, torch.from_numpy(weight)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


def test_the_stable_rank_is_the_squared_frobenius_norm_by_that_of_the_largest() -> None:
    assert stable_rank(torch.tensor([4.0, 3.0])) == 25 / 16
    assert stable_rank(torch.ones(7)) == 7
    assert math.isnan(stable_rank(torch.zeros(3)))


@pytest.mark.parametrize(
    "shape", [(4, 3, 3, 3), (2, 5, 4, 2), (3, 2, 1, 1), (6, 4), (3, 2, 5), (2, 2, 2, 3, 2)]
)
def test_the_released_singular_value_is_that_of_each_kernel_slice_on_average(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    slices = weight.numpy()
    if len(shape) < 4:  # a number, or a row
        slices = slices.reshape(*shape[:2], 1, -1)
    if len(shape) == 5:
        slices = slices.reshape(*shape[:2], -1, shape[-1])
    expected = np.linalg.svd(slices, compute_uv=False)[..., 0].mean()
    assert kernel_singular(weight) == pytest.approx(expected, rel=1e-7)
    if math.prod(shape[2:]) == 1:
        assert kernel_singular(weight) == pytest.approx(float(weight.abs().mean()), rel=1e-12)


def test_gradient_figures_by_hand() -> None:
    assert THRESHOLD == 0.01
    gradient = torch.tensor([[0.0, -0.0, 0.015], [3.0, -4.0, 0.03]])
    found = gradient_figures(gradient)
    rms = math.sqrt((0.015**2 + 9 + 16 + 0.03**2) / 6)  # 2.041: 0.0204 is the threshold
    mean = (0.015 - 1 + 0.03) / 6
    assert found["gradient_zero"] == 2 / 6
    assert found["gradient_small"] == 3 / 6
    assert found["gradient_rms"] == pytest.approx(rms)
    assert found["gradient_mean"] == pytest.approx(mean)
    assert found["gradient_sd"] == pytest.approx(math.sqrt(rms**2 - mean**2))
    nothing = gradient_figures(torch.zeros(5))
    assert [*nothing.values()] == [1, 1, 0, 0, 0]


def test_the_histogram_counts_by_sign_and_magnitude() -> None:
    values = [0, -0.0, 0.05, -0.05, 0.1, 0.99, 1, -1, 9.9, 10, -10, 1000, -1e9]
    gradient = torch.tensor(values, dtype=torch.float64).view(13, 1)
    counts = histogram(gradient, np.array([0.1, 1, 10]))
    assert counts.tolist() == [[1, 0, 3], [3, 2, 4]]
    assert counts.dtype == np.uint32


def test_the_bins_are_six_a_decade_from_1e_10_to_1e3_for_every_run() -> None:
    assert len(EDGES) == 79
    assert EDGES[0] == pytest.approx(1e-10)
    assert EDGES[-1] == pytest.approx(1e3)
    np.testing.assert_allclose(EDGES[6:] / EDGES[:-6], 10)
    gradient = torch.randn(1000) * 1e-4
    counts = histogram(gradient)
    assert counts.sum() == 1000
    assert counts[0].sum() == (gradient < 0).sum()


def test_spectral_complexity_of_two_layers_by_hand() -> None:
    # W1 = diag(3, 4): s 4, rows of length 3 and 4. W2 = (1, 2): s and length sqrt(5).
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        network[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
    by_hand = 4 * math.sqrt(5) * ((7 / 4) ** (2 / 3) + 1) ** 1.5
    assert by_hand == pytest.approx(34.3461, rel=1e-5)
    assert spectral_complexity([4, math.sqrt(5)], [7, math.sqrt(5)]) == pytest.approx(by_hand)
    assert spectral_complexity([4, math.sqrt(5)], [7, math.sqrt(5)], 3) == pytest.approx(
        3 * by_hand
    )
    found = measure([Subject("network", network, torch.randn(4, 2))], 0, None)
    assert found.spectral_complexity.tolist() == [[pytest.approx(by_hand, rel=1e-6)]]
    assert spectral_complexity([4, 0.0], [7, 0.0]) == 0
    assert math.isnan(spectral_complexity([4, math.nan], [7, 1]))


@pytest.mark.parametrize(
    "name", [each for each in CASES if not any(word in each for word in PADDED_BY_OTHERS)]
)
def test_output_lengths_are_the_rows_of_the_explicit_matrix(name: str) -> None:
    layer, size, explicit = made(name)
    expected = float(explicit.norm(dim=1).sum())
    found = output_lengths(layer, effective_weight(layer), size)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_lipschitz_constant_takes_what_norms_multiply_by() -> None:
    batch = nn.BatchNorm2d(2, eps=0.0)
    with torch.no_grad():
        batch.weight.copy_(torch.tensor([1.0, -6.0]))
        batch.running_var.copy_(torch.tensor([0.25, 4.0]))  # type: ignore[union-attr]
    centring = Centring(2, gain=True)
    with torch.no_grad():
        centring.weight.copy_(torch.tensor([0.5, 7.0]))  # type: ignore[union-attr]
    plain = nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.1), Centring(2))
    assert lipschitz_of(plain) == 1
    assert lipschitz_of(nn.Sequential(batch, plain)) == 3
    assert lipschitz_of(nn.Sequential(batch, plain, centring, nn.LeakyReLU(2.0))) == 42
    assert math.isnan(lipschitz_of(nn.Sequential(SampleNorm(2, over="layer"), batch)))
