"""The Lipschitz constant of MSN: each line of the docstring of mean_spectral.py, in numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import Centring, convert, normalise, stored
from msngan.norms.mean_spectral import mean_spectral

N = 6


def jacobian(module: nn.Module, x: Tensor) -> Tensor:
    """d out / d in as a matrix."""
    made = torch.autograd.functional.jacobian(module, x)
    return made.reshape(-1, x.numel())


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def msn(layer: nn.Module, **options: bool) -> nn.Module:
    """The layer under MSN, float64, with an offset and a running mean that are not zero."""
    made = normalise(layer.double(), mean_spectral(**options))
    made.output_norm.running_mean.normal_()
    if made.output_norm.bias is not None:
        made.output_norm.bias.data.normal_()
    return made


# Eval.


def test_in_eval_a_linear_layer_s_constant_is_1():
    layer = msn(nn.Linear(7, 5)).eval()
    assert norm(jacobian(layer, torch.randn(1, 7).double())) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3), (1, 1)), ((4, 4), (2, 2)), ((3, 2), (2, 1)), ((5, 5), (2, 2)), ((2, 2), (2, 2))],
)
def test_a_convolution_s_constant_exceeds_1_by_the_factor_at_most(kernel, stride):
    """Padding with zeros, for other padding repeats values, which take part in more windows."""
    largest = 0.0
    for _ in range(4):
        layer = msn(nn.Conv2d(2, 3, kernel, stride, padding=1)).eval()
        largest = max(largest, norm(jacobian(layer, torch.randn(1, 2, 7, 7).double())))
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
    assert 0.5 < largest <= math.sqrt(windows) * (1 + 1e-4)


# Training, the whole batch.


def centring(**options: bool) -> Centring:
    made = Centring(1, channel_axis=-1, **options).double()
    made.track_running_stats = False
    return made


@pytest.mark.quick
def test_centring_is_the_orthogonal_projection_off_the_constants():
    """So its gradient is g - E[g], the paper's equation 10."""
    projection = jacobian(centring(), torch.randn(N, 1).double())
    torch.testing.assert_close(projection, torch.eye(N).double() - 1 / N, rtol=0, atol=1e-12)
    torch.testing.assert_close(projection @ projection, projection)
    assert norm(projection) == pytest.approx(1)


@pytest.mark.parametrize(
    ("plain", "shape"),
    [(nn.Linear(5, 4), (N, 5)), (nn.Conv2d(2, 3, 3, padding=1), (3, 2, 4, 4))],
    ids=["linear", "conv"],
)
def test_in_training_the_constant_of_the_whole_batch_is_not_above_that_in_eval(plain, shape):
    layer, x = msn(copy.deepcopy(plain)), torch.randn(shape).double()
    training = norm(jacobian(layer, x))
    evaluating = norm(jacobian(layer.eval(), x))
    assert 0.3 < training <= evaluating * (1 + 1e-9)


# Training, per sample.


@pytest.mark.parametrize("count", [2, 6, 64])
def test_the_largest_change_of_a_value_is_up_to_2_minus_2_by_n_times_that_of_the_inputs(count):
    layer, h = centring(), torch.randn(count, 1).double()
    bound = 2 * (1 - 1 / count)
    rows = jacobian(layer, h).abs().sum(1)
    torch.testing.assert_close(rows, torch.full_like(rows, bound))
    for _ in range(20):
        change = torch.rand(count, 1).double() * 2 - 1
        assert (layer(h + change) - layer(h)).abs().max() <= bound * change.abs().max() + 1e-12
    worst = -torch.ones(count, 1).double()
    worst[0] = 1  # one goes up while all others go down
    assert float((layer(h + worst) - layer(h)).detach().abs().max()) == pytest.approx(bound)


# Gain and offset.


@pytest.mark.parametrize("training", [True, False])
def test_a_gain_multiplies_the_constant_by_the_largest(training):
    gains = torch.tensor([0.5, -3.0, 2.0]).double()
    layer = msn(nn.Linear(3, 3), gain=True).train(training)
    with torch.no_grad():  # equal singular values, so that the one with the gain counts
        stored(layer).copy_(torch.eye(3))
        layer.output_norm.weight.copy_(gains)
    assert norm(jacobian(layer, torch.randn(N, 3).double())) == pytest.approx(3, rel=1e-4)
    for _ in range(5):
        with torch.no_grad():
            stored(layer).normal_()
        made = norm(jacobian(layer, torch.randn(N, 3).double()))
        assert made <= 3 * (1 + 1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["mean_spectral", "mean_only"])
def test_without_an_offset_there_is_no_m_and_all_else_is_the_same(name, training):
    plain, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 6, 6) + 1
    with_m, without = convert(copy.deepcopy(plain), name), convert(plain, name, offset=False)
    assert [each for each, _ in without.named_parameters()] == ["weight"]
    for layer in (with_m, without):
        layer(x)
        layer.train(training)
    assert torch.equal(with_m(x), without(x))
    m = torch.tensor([1.0, -2.0, 3.0])
    with_m.output_norm.bias.data.copy_(m)
    torch.testing.assert_close(with_m(x), without(x) + m.view(-1, 1, 1))
