"""What every entry of NORMS promises, on every kind of layer."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from conftest import COUPLED
from norm_layers import LAYERS, pairs
from torch import Tensor, nn

from msngan.norms import (
    NORMS,
    NormLayer,
    NormName,
    SigmaBank,
    is_batch_coupled,
    normalise,
    statistics,
    stored,
)

# A bias has no effect under these: they subtract a mean per channel.
CANCELLING = {*COUPLED, "instance"}
# A factor of the weight changes nothing under a norm of the weight, but for these, which leave a
# small weight as it is.
SCALE_MATTERS = {"lipschitz_projection", "optional_spectral", "spectral_clip"}
SCALE_FREE = sorted({n for n, norm in NORMS.items() if norm.weight} - SCALE_MATTERS)

every_norm = pytest.mark.parametrize("name", sorted(NORMS))
every_norm_and_layer = pytest.mark.parametrize(("kind", "name"), pairs(LAYERS))
coupled_norm_and_layer = pytest.mark.parametrize(("kind", "name"), pairs(LAYERS, COUPLED))


def layer_and_input(kind: str, name: str, **options: bool) -> tuple[nn.Module, Tensor]:
    """A layer under a norm and an input of mean 1, both float64."""
    make, shape = LAYERS[kind]
    layer = normalise(make().double(), NORMS[name], **options)
    return layer, 1 + torch.randn(shape, dtype=torch.float64)


def trained(layer: nn.Module, x: Tensor) -> nn.Module:
    """The layer in eval after a few training forwards, its norm parameters moved."""
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for _ in range(3):
        layer(x * (1 + torch.rand(())))
    return layer.eval()


def channel_axis(layer: nn.Module) -> int:
    return -1 if isinstance(layer, nn.Linear) else 1


@pytest.mark.quick
def test_the_norms_that_couple_a_batch_are_known() -> None:
    layers = {name: normalise(nn.Conv2d(4, 6, 3), norm) for name, norm in NORMS.items()}
    assert {name for name, layer in layers.items() if is_batch_coupled(layer)} == COUPLED


def test_the_type_of_names_lists_the_table() -> None:
    assert get_args(NormName) == tuple(NORMS)


@every_norm_and_layer
def test_every_parameter_has_a_gradient_above_rounding_noise(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    y = layer(x)
    plain = LAYERS[kind][0]().double()(x)
    assert (y.shape, y.dtype) == (plain.shape, torch.float64)
    (y * torch.randn_like(y)).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.abs().max() > 1e-3


@every_norm_and_layer
def test_conv_bias_keeps_the_bias_and_it_is_dead_where_the_norm_cancels_it(
    kind: str, name: str
) -> None:
    layer, x = layer_and_input(kind, name, conv_bias=True)
    y = layer(x)
    (y * torch.randn_like(y)).sum().backward()
    dead = layer.bias.grad.abs().max().item() < 1e-10
    assert dead == (name in CANCELLING)
    assert NORMS[name].cancels_bias or not dead


@every_norm_and_layer
def test_the_head_gets_the_weight_part_alone_and_keeps_its_bias(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name, head=True)
    assert layer.bias is not None
    assert getattr(layer, "output_norm", None) is None
    weight_norm = getattr(layer, "weight_norm", None)
    assert (weight_norm is None) == (NORMS[name].weight is None)
    alone = torch.cat([layer.eval()(sample[None]) for sample in x])
    torch.testing.assert_close(layer.train()(x), alone, rtol=0.05, atol=0.05)


@pytest.mark.quick
@coupled_norm_and_layer
def test_in_training_the_mean_of_each_channel_is_the_learned_offset(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    layer.output_norm.bias.data.normal_()
    y = layer(x).movedim(channel_axis(layer), 0).flatten(1)
    torch.testing.assert_close(y.mean(1), layer.output_norm.bias.detach())


@every_norm_and_layer
def test_evaluation_scores_each_sample_by_itself_and_writes_nothing(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    trained(layer, x)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    alone = torch.cat([layer(sample[None]) for sample in x])
    torch.testing.assert_close(y, alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), y)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@every_norm_and_layer
def test_the_state_survives_a_round_trip(kind: str, name: str) -> None:
    first, x = layer_and_input(kind, name)
    trained(first, x)
    second, _ = layer_and_input(kind, name)
    assert not torch.equal(second.eval()(x), first(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))


@pytest.mark.parametrize(("kind", "name"), pairs(LAYERS, SCALE_FREE))
def test_scaling_the_weight_changes_nothing(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    scaled = copy.deepcopy(layer)
    stored(scaled).data *= 7
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode)(x), scaled.train(mode)(x))


@every_norm_and_layer
def test_several_passes_may_precede_one_backward(kind: str, name: str) -> None:
    layer, x = layer_and_input(kind, name)
    with statistics(layer, "running"):
        loss = layer(x).square().sum()
    loss = loss + layer(x).square().sum()
    with statistics(layer, "batch"):
        loss = loss + layer(-x).square().sum()
    loss.backward()
    assert stored(layer).grad.isfinite().all()


@coupled_norm_and_layer
def test_batch_statistics_compute_as_in_training_but_leave_the_running_ones(
    kind: str, name: str
) -> None:
    layer, x = layer_and_input(kind, name)
    trained(layer, x).train()
    before = copy.deepcopy(layer.output_norm.state_dict())
    layer.weight_norm = None
    expected = copy.deepcopy(layer)
    with statistics(layer, "batch"):
        y = layer(x)
    torch.testing.assert_close(layer.output_norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(y, expected(x))
    layer(x)
    assert not torch.equal(layer.output_norm.running_mean, before["running_mean"])


@coupled_norm_and_layer
def test_running_statistics_compute_as_in_evaluation_and_are_left_alone(
    kind: str, name: str
) -> None:
    layer, x = layer_and_input(kind, name)
    trained(layer, x).train()
    before = copy.deepcopy(layer.output_norm.state_dict())
    with statistics(layer, "running"):
        assert layer.training
        y = layer(x)
    torch.testing.assert_close(layer.output_norm.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(y, layer.eval()(x))


@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("name", sorted(COUPLED))
def test_statistics_are_as_before_when_the_block_raises(name: str, mode: str) -> None:
    trained_part, _ = layer_and_input("linear", name)
    frozen_part, _ = layer_and_input("linear", name)
    frozen_part.eval()
    frozen_part.output_norm.track_running_stats = False
    both = nn.ModuleList([trained_part, frozen_part])
    with pytest.raises(KeyError), statistics(both, mode):
        raise KeyError
    state = [(part.output_norm.training, part.output_norm.track_running_stats) for part in both]
    assert state == [(True, True), (False, False)]


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_norm_takes_the_dtype_of_the_layer(name: str, dtype: torch.dtype) -> None:
    layer = normalise(nn.Conv2d(4, 6, 3).to(dtype), NORMS[name])
    for parameter in layer.parameters():
        assert parameter.dtype == dtype
    assert layer(torch.randn(5, 4, 5, 5, dtype=dtype)).dtype == dtype


@every_norm
def test_autocast_computes_the_layer_in_low_precision(name: str) -> None:
    layer = normalise(nn.Conv2d(4, 6, 3), NORMS[name])
    x = torch.randn(5, 4, 5, 5)
    expected = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


def test_a_layer_without_a_weight_matrix_or_with_a_norm_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot put a norm on ReLU, which has no weight matrix"):
        normalise(nn.ReLU(), NORMS["spectral"])
    layer = normalise(nn.Linear(2, 2), NORMS["spectral"])
    assert isinstance(layer, NormLayer)
    with pytest.raises(TypeError, match="NormLinear"):
        normalise(layer, NORMS["spectral"])


def test_no_norm_leaves_the_very_layer_alone() -> None:
    layer = nn.Conv2d(4, 6, 3)
    assert normalise(layer, NORMS["none"]) is layer
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "name"), pairs(LAYERS, ["mean_only", "mean_spectral", "weight_mean"])
)
def test_last_statistics_subtract_the_means_of_the_last_training_batch_as_constants(
    kind: str, name: str, dtype: torch.dtype
) -> None:
    layer, x = layer_and_input(kind, name)
    layer.to(dtype)
    x = x.to(dtype)
    layer.output_norm.bias.data.normal_()
    SigmaBank(layer)  # sigma stands still
    y = layer(x)
    with statistics(layer, "batch"):
        layer(-x)  # not a batch of its own
    before = copy.deepcopy(layer.state_dict())
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    some = x[:2].clone().requires_grad_()
    with statistics(layer, "last"):
        again = layer(some)
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(again, y[:2], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    # A constant mean lets the gradient through as the layer without the norm would.
    (slope,) = torch.autograd.grad(again.sum(), some)
    bare = some.detach().requires_grad_()
    plain = torch.func.functional_call(LAYERS[kind][0]().to(dtype), {"weight": layer.weight}, bare)
    (expected,) = torch.autograd.grad(plain.sum(), bare)
    torch.testing.assert_close(slope, expected, rtol=tolerance, atol=tolerance)
    assert layer.output_norm.fixed_mean is None
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("name", ["batch", "batch_no_gain"])
def test_batch_norm_has_no_last_statistics(name: str) -> None:
    layer, _ = layer_and_input("conv2d", name)
    with (
        pytest.raises(ValueError, match="batch norm keeps no statistics"),
        statistics(layer, "last"),
    ):
        pass
