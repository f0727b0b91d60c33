"""The classical norms against torch's own layers, and the two halves of MSN by themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from norm_layers import LAYERS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm as torch_weight_norm

from msngan.norms import NORMS, configured, is_batch_coupled, normalise, stored

every_layer = pytest.mark.parametrize("kind", LAYERS)
with_space = pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "linear"])
WITH_A_GAIN = ["weight", "weight_mean", "layer", "instance", "mean_only"]


def layer_and_input(kind: str) -> tuple[nn.Module, Tensor]:
    """A plain layer and an input that wants a gradient, both float64."""
    make, shape = LAYERS[kind]
    return make().double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)


def channels_first(y: Tensor, layer: nn.Module) -> Tensor:
    """(N, C, all the rest), as torch's norms want it."""
    y = y.movedim(-1, 1) if isinstance(layer, nn.Linear) else y
    return y.reshape(y.shape[0], y.shape[1], -1)


def assert_same(ours: Tensor, theirs: Tensor, tensors: list[tuple[Tensor, Tensor]]) -> None:
    """Equal outputs, and equal gradients of a random function of them with respect to each pair."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(ours)
    mine = torch.autograd.grad(ours, [pair[0] for pair in tensors], upstream)
    other = torch.autograd.grad(theirs, [pair[1] for pair in tensors], upstream)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a.reshape(b.shape), b, rtol=1e-9, atol=1e-9)


# Batch norm without a gain


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_batch_no_gain_is_torch_s_batch_norm_with_a_gain_of_one(kind, training):
    plain, x = layer_and_input(kind)
    plain.bias.data.zero_()  # batch norm cancels it, but for the running mean
    ours = normalise(copy.deepcopy(plain), NORMS["batch_no_gain"])
    theirs = nn.BatchNorm1d(6).double()
    ours.output_norm.bias.data.normal_()
    theirs.bias = ours.output_norm.bias
    for _ in range(2):
        ours(x), theirs(channels_first(plain(x), plain))
    ours.train(training), theirs.train(training)
    expected = theirs(channels_first(plain(x), plain))
    pairs = [(x, x), (stored(ours), plain.weight), (theirs.bias, theirs.bias)]
    assert_same(channels_first(ours(x), plain), expected, pairs)
    torch.testing.assert_close(
        ours.output_norm.state_dict(),
        {name: value for name, value in theirs.state_dict().items() if name != "weight"},
    )
    assert is_batch_coupled(ours)


def test_batch_no_gain_can_be_reset():
    norm = normalise(nn.Conv2d(4, 6, 3), NORMS["batch_no_gain"]).output_norm
    norm.bias.data.normal_()
    norm.running_mean.normal_()
    norm.reset_parameters()
    assert not norm.bias.any()
    assert not norm.running_mean.any()


# Weight normalisation


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if "transpose2d, 2" not in kind])
def test_weight_norm_is_torch_s_in_output_and_gradients(kind):
    plain, x = layer_and_input(kind)
    ours = normalise(copy.deepcopy(plain), NORMS["weight"])
    theirs = torch_weight_norm(plain, dim=1 if isinstance(plain, nn.ConvTranspose2d) else 0)
    g, v = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    g.data.normal_()
    ours.weight_norm.gain.data.copy_(g.data.flatten())
    pairs = [(x, x), (stored(ours), v), (ours.weight_norm.gain, g), (ours.bias, theirs.bias)]
    assert_same(ours(x), theirs(x), pairs)


@every_layer
def test_weight_norm_changes_nothing_at_first_and_has_length_one_without_a_gain(kind):
    plain, x = layer_and_input(kind)
    expected = plain(x)
    torch.testing.assert_close(normalise(copy.deepcopy(plain), NORMS["weight"])(x), expected)
    layer = normalise(plain, configured("weight", dict(gain=False)))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    weight = layer.weight
    if isinstance(plain, nn.ConvTranspose2d):  # (inputs, outputs / groups, ...)
        weight = torch.cat([group.transpose(0, 1) for group in weight.chunk(plain.groups)])
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), torch.ones(6).double())


@pytest.mark.parametrize("gain", [True, False])
def test_an_output_of_zero_weights_stays_zero_and_can_leave_it(gain):
    layer = nn.Linear(4, 2)
    layer.weight.data[0] = 0
    layer = normalise(layer, configured("weight", dict(gain=gain)))
    weight = layer.weight
    assert not weight[0].any()
    weight.sum().backward()
    assert stored(layer).grad.isfinite().all()
    torch.testing.assert_close(stored(layer).grad[0], torch.ones(4))


def test_weight_norm_has_float32_lengths_in_a_float16_layer():
    layer = nn.Linear(4, 2).half()
    layer.weight.data.fill_(4e4)  # the length is above the largest float16
    layer = normalise(layer, configured("weight", dict(gain=False)))
    torch.testing.assert_close(layer.weight, torch.full((2, 4), 0.5).half())


# Layer and instance norm


def torch_s_sample_norm(name: str, plain: nn.Module) -> nn.Module:
    if name == "instance":
        return nn.InstanceNorm1d(6, affine=True).double()
    return (nn.LayerNorm(6) if isinstance(plain, nn.Linear) else nn.GroupNorm(1, 6)).double()


@with_space
@pytest.mark.parametrize("name", ["layer", "instance"])
@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_layer_and_instance_norm_are_torch_s_in_output_and_gradients(kind, name, gain, training):
    plain, x = layer_and_input(kind)
    ours = normalise(copy.deepcopy(plain), configured(name, dict(gain=gain))).train(training)
    theirs = torch_s_sample_norm(name, plain)
    pairs = [(x, x), (stored(ours), plain.weight), (ours.output_norm.bias, theirs.bias)]
    theirs.bias.data.normal_()
    ours.output_norm.bias.data.copy_(theirs.bias.data)
    if gain:
        theirs.weight.data.normal_()
        ours.output_norm.weight.data.copy_(theirs.weight.data)
        pairs.append((ours.output_norm.weight, theirs.weight))
    y = plain(x)
    if name == "layer" and isinstance(plain, nn.Linear):
        assert_same(ours(x), theirs(y), pairs)
    else:
        assert_same(channels_first(ours(x), plain), theirs(channels_first(y, plain)), pairs)
    assert set(ours.output_norm.state_dict()) == ({"weight", "bias"} if gain else {"bias"})
    assert not is_batch_coupled(ours)


@pytest.mark.parametrize("kind", ["conv2d", "linear on tokens"])
@pytest.mark.parametrize("name", ["layer", "instance"])
def test_layer_and_instance_norm_compute_in_float32_under_autocast(kind, name, monkeypatch):
    seen = []

    def watched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watch(x: Tensor, *arguments: Any) -> Tensor:
            seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
            return original(x, *arguments)

        return watch

    for function in ("group_norm", "layer_norm"):
        monkeypatch.setattr(nn.functional, function, watched(getattr(nn.functional, function)))
    layer = normalise(LAYERS[kind][0](), NORMS[name])
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(LAYERS[kind][1]))
    assert seen == [(torch.float32, False)]
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "layer", "shape", "message"),
    [
        ("instance", nn.Linear(4, 6), (5, 4), r"got \(5, 6\); use larger images, token axes"),
        ("instance", nn.Conv2d(4, 6, 3), (5, 4, 3, 3), r"instance norm needs .*1, 1\)"),
        ("layer", nn.Linear(4, 1), (5, 4), "layer norm needs more than one value per sample"),
        ("layer", nn.Conv2d(4, 1, 3), (5, 4, 3, 3), "layer norm needs more than one value"),
    ],
)
def test_outputs_with_one_value_to_average_over_are_refused(name, layer, shape, message):
    layer = normalise(copy.deepcopy(layer), NORMS[name])
    for mode in (True, False):
        with pytest.raises(ValueError, match=message):
            layer.train(mode)(torch.randn(shape))


# The two halves of MSN


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_spectral_bias_is_spectral_with_a_bias_of_m(kind, training):
    plain, x = layer_and_input(kind)
    ours = normalise(copy.deepcopy(plain), NORMS["spectral_bias"]).train(training)
    theirs = normalise(copy.deepcopy(plain), NORMS["spectral"]).train(training)
    assert ours.bias is None
    assert not ours.output_norm.bias.any()
    m = ours.output_norm.bias.data.normal_()
    theirs.bias.data.copy_(m)
    pairs = [(x, x), (stored(ours), stored(theirs)), (ours.output_norm.bias, theirs.bias)]
    assert_same(ours(x), theirs(x), pairs)
    assert not is_batch_coupled(ours)


@every_layer
@pytest.mark.parametrize("gain", [True, False])
def test_mean_only_centres_and_leaves_the_weight_alone(kind, gain):
    plain, x = layer_and_input(kind)
    layer = normalise(copy.deepcopy(plain), configured("mean_only", dict(gain=gain)))
    assert layer.weight_norm is None
    assert layer.bias is None
    m = layer.output_norm.bias.data.normal_()
    g = layer.output_norm.weight.data.normal_() if gain else torch.ones(6)
    y, h = channels_first(layer(x), plain), channels_first(plain(x), plain)
    centred = h - h.mean((0, 2), keepdim=True)
    torch.testing.assert_close(y, g.view(-1, 1) * centred + m.view(-1, 1))


# Options


@pytest.mark.parametrize("name", ["mean_only", "weight_mean"])
def test_centring_takes_the_options_that_it_has_in_msn(name):
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(1)
    layer = normalise(layer, configured(name, dict(sync=True, momentum=0.5)))
    layer(torch.tensor([[1.0], [3.0]]))
    assert layer.output_norm.running_mean.item() == 1.0  # half of their mean
    assert layer.output_norm.sync
