"""Centring: equations 7 and 10, the running mean, and what evaluation promises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from msngan.norms import Centring

SHAPES = [((4, 3), 1), ((4, 3, 5), 1), ((4, 3, 5, 5), 1), ((2, 3, 2, 2, 2), 1), ((4, 5, 3), -1)]


def over_channels(x: Tensor, axis: int) -> Tensor:
    """The channels first, all the rest in one axis."""
    return x.movedim(axis, 0).flatten(1)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_in_training_each_channel_of_the_output_has_the_mean_m(
    shape: tuple[int, ...], axis: int
) -> None:
    centring = Centring(3, channel_axis=axis).double()
    offset = torch.tensor([-2.0, 0.5, 7.0], dtype=torch.float64)
    centring.bias.data.copy_(offset)
    x = 3 + torch.randn(shape, dtype=torch.float64)
    y = over_channels(centring(x), axis)
    torch.testing.assert_close(y.mean(1), offset)
    difference = y - over_channels(x, axis)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))


def test_a_gain_multiplies_before_m_is_added_in_training_and_evaluation() -> None:
    centring = Centring(2, gain=True)
    centring.weight.data.copy_(torch.tensor([2.0, -1.0]))
    centring.bias.data.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([[1.0, 4.0], [3.0, 8.0]])
    torch.testing.assert_close(centring(x), torch.tensor([[8.0, 22.0], [12.0, 18.0]]))
    centring.eval().running_mean.copy_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(centring(x), torch.tensor([[10.0, 18.0], [14.0, 14.0]]))


def test_the_running_mean_moves_by_its_momentum() -> None:
    centring = Centring(1)
    centring(torch.tensor([[1.0], [3.0]]))
    assert centring.running_mean.item() == pytest.approx(0.1 * 2)
    centring(torch.tensor([[10.0], [20.0]]))
    assert centring.running_mean.item() == pytest.approx(0.9 * 0.2 + 0.1 * 15)
    assert centring.num_batches_tracked.item() == 2


def test_without_momentum_the_running_mean_is_the_average_of_all_batches() -> None:
    centring = Centring(1, momentum=None).double()
    for value in (1.0, 5.0, 12.0):
        centring(torch.tensor([[value - 1], [value + 1]], dtype=torch.float64))
    assert centring.running_mean.item() == pytest.approx(6, rel=1e-14)


def test_evaluation_subtracts_the_running_mean_sample_by_sample_and_writes_nothing() -> None:
    centring = Centring(2).eval()
    centring.running_mean.copy_(torch.tensor([1.0, 10.0]))
    centring.bias.data.copy_(torch.tensor([0.0, 100.0]))
    before = copy.deepcopy(centring.state_dict())
    x = torch.tensor([[1.0, 1.0], [2.0, 5.0]])
    expected = torch.tensor([[0.0, 91.0], [1.0, 95.0]])
    torch.testing.assert_close(centring(x), expected)
    torch.testing.assert_close(centring(x[1:]), expected[1:])
    torch.testing.assert_close(centring.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (0, 3), (0, 3, 4, 4)])
def test_training_refuses_a_single_value_per_channel_and_evaluation_takes_it(
    shape: tuple[int, ...],
) -> None:
    centring = Centring(3)
    with pytest.raises(ValueError, match="more than one value per channel"):
        centring(torch.randn(shape))
    assert centring.num_batches_tracked.item() == 0
    assert centring.running_mean.tolist() == [0, 0, 0]
    assert centring.eval()(torch.randn(shape)).shape == shape


def test_the_running_mean_holds_no_graph() -> None:
    centring = Centring(3)
    centring(torch.randn(4, 3, requires_grad=True))
    assert not centring.running_mean.requires_grad


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_bfloat16_input_is_averaged_and_shifted_in_float32(
    shape: tuple[int, ...], axis: int
) -> None:
    # In bfloat16 256 + 1 is 256: a mean of 256 and 258 that is not 257 was taken in it.
    x = torch.full(shape, 256.0, dtype=torch.bfloat16)
    x.view(-1)[: x.numel() // 2] = 258
    for centring in (Centring(3, channel_axis=axis), Centring(3, channel_axis=axis).bfloat16()):
        exact = over_channels(x.double(), axis)
        y = centring(x)
        assert y.dtype == torch.bfloat16
        expected = exact - exact.mean(1, keepdim=True)
        torch.testing.assert_close(over_channels(y, axis).double(), expected, rtol=1e-2, atol=0)
        torch.testing.assert_close(centring.running_mean.double(), 0.1 * exact.mean(1))
        centring.running_mean.copy_(exact.mean(1))
        in_eval = over_channels(centring.eval()(x), axis).double()
        torch.testing.assert_close(in_eval, expected, rtol=1e-2, atol=0)
