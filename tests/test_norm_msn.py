"""MSN against its formula: its layers, a bank's weights, the fused path, centring by itself."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from operator_layers import LAYERS
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms import (
    Centring,
    FusedSequential,
    MSNConv2d,
    MSNConvTranspose2d,
    MSNLinear,
    SigmaBank,
    convert,
    statistics,
    stored,
)

MSN = {nn.Conv2d: MSNConv2d, nn.ConvTranspose2d: MSNConvTranspose2d, nn.Linear: MSNLinear}
KINDS = {**LAYERS, "linear on tokens": (lambda: nn.Linear(6, 4), (3, 6))}
FORMATS = [(kind, torch.contiguous_format) for kind in KINDS]
FORMATS += [(kind, torch.channels_last) for kind in KINDS if len(KINDS[kind][1]) == 3]


def made(kind: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer under MSN, torch's without a bias, and an input."""
    make, shape = KINDS[kind]
    plain = make().to(dtype)
    layer = convert(copy.deepcopy(plain), "mean_spectral")
    layer.output_norm.bias.data.normal_()
    plain.bias = None
    return layer, plain, 1 + torch.randn(5, *shape).to(dtype)


def by_formula(layer: nn.Module, plain: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 6 and 7 with u and v constant: W / sigma . x + m, and its minibatch mean."""
    groups = stored(layer).chunk(getattr(layer, "groups", 1))
    transposed = isinstance(layer, nn.ConvTranspose2d)
    matrices = [(w.transpose(0, 1) if transposed else w).flatten(1) for w in groups]
    u, v = layer.weight_norm.u.clone(), layer.weight_norm.v.flatten(1).clone()
    sigma = torch.stack([u[g] @ m @ v[g] for g, m in enumerate(matrices)]).max()
    h = torch.func.functional_call(plain, {"weight": stored(layer) / sigma}, (x,))
    axis = h.dim() - 1 if isinstance(layer, nn.Linear) else 1
    mean = h.mean([each for each in range(h.dim()) if each != axis], keepdim=True)
    return h + layer.output_norm.bias.view([-1 if n > 1 else 1 for n in mean.shape]), mean


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "memory_format"), FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_output_gradients_and_running_mean_are_those_of_the_formula(kind, memory_format, dtype):
    layer, plain, x = made(kind, dtype)
    if memory_format is torch.channels_last:
        layer, x = layer.to(memory_format=memory_format), x.to(memory_format=memory_format)
    bank = SigmaBank(layer)
    stored(layer).data.mul_(3).add_(0.1)
    bank.update()
    x.requires_grad_()
    inputs = {"x": x, **dict(layer.named_parameters())}

    def measured(y: Tensor, *means: Any) -> list[Tensor]:
        ramp = torch.linspace(-1, 2, y.numel(), dtype=dtype).view(y.shape)
        loss = (F.leaky_relu(y, 0.1) * ramp).sum()
        return [y.detach().clone(), *torch.autograd.grad(loss, inputs.values()), *means]

    with bank.shared():
        fused = measured(layer(x), layer.output_norm.running_mean)
    shifted, mean = by_formula(layer, plain, x)
    expected = measured(shifted - mean, 0.1 * mean.flatten())
    relative = 1e-6 if dtype == torch.float64 else 2e-4
    for one, other in zip(fused, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= relative * other.norm()
    shifted, _ = by_formula(layer, plain, x)
    difference = (layer.eval()(x) - (shifted - 0.1 * mean)).norm()
    assert difference <= relative * shifted.norm()


@pytest.mark.parametrize(
    ("plain", "arguments"),
    [
        (nn.Linear, (4, 6, False)),
        (nn.Conv2d, (4, 6, 3, 2, 1, 2, 2, False, "circular")),
        (nn.ConvTranspose2d, (4, 6, 3, 2, 1, 1, 2, False, 2)),
    ],
)
def test_the_classes_take_torch_s_arguments_and_have_its_type_and_repr_and_the_state_of_msn(
    plain, arguments
):
    layer, theirs = MSN[plain](*arguments), plain(*arguments)
    assert isinstance(layer, plain)
    assert theirs.extra_repr() == layer.extra_repr()
    assert stored(layer).shape == theirs.weight.shape
    assert layer.output_norm.bias is layer.bias is None
    parts = {f"weight_norm.{each}" for each in ("block", "last_sigma", "u", "v")}
    parts |= {"output_norm.running_mean", "output_norm.num_batches_tracked"}
    assert set(layer.state_dict()) == {"weight", *parts}
    x = torch.randn(5, 4, 7, 7)[(..., 0, 0) if plain is nn.Linear else ...]
    layer(x)
    other = MSN[plain](*arguments)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))


def test_a_transposed_layer_takes_an_output_size():
    strided, x = MSNConvTranspose2d(4, 6, 3, stride=2), torch.randn(5, 4, 7, 7)
    assert strided(x, output_size=[16, 16]).shape == (5, 6, 16, 16)
    assert torch.equal(strided.eval()(x, [15, 15]), strided(x))
    with pytest.raises(ValueError, match="requested an output size"):
        strided(x, output_size=[40, 40])


def test_centring_writes_over_what_the_layer_put_out_and_keeps_nothing_for_the_backward_pass():
    layer = convert(nn.Conv2d(3, 5, 3), "mean_spectral")
    outputs, saved = [], []
    layer.output_norm.register_forward_pre_hook(lambda _, given: outputs.append(given[0]))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(torch.randn(4, 3, 6, 6))
    assert y.data_ptr() == outputs[0].data_ptr()
    assert all(tensor.data_ptr() != y.data_ptr() for tensor in saved)
    y.sum().backward()
    assert stored(layer).grad is not None


MODES = ("train", "running", "last", "eval")
NORMED = ["none", "spectral", "mean_spectral", "mean_only", "weight_mean", "batch"]


def critics(norm: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same network twice, as FusedSequential and as nn.Sequential."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(0.1, inplace=True)]
    layers += [nn.Conv2d(4, 5, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(5, 6, 2)]
    layers += [nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(54, 1)]
    fused = convert(FusedSequential(*layers).double(), norm, head="7", **options)
    return fused, nn.Sequential(*copy.deepcopy(list(fused)))


@pytest.mark.parametrize(
    ("norm", "mode"),  # batch norm keeps no statistics of its last batch
    [(norm, mode) for norm in NORMED for mode in MODES if (norm, mode) != ("batch", "last")],
)
def test_a_fused_sequence_has_the_bits_of_a_plain_one(norm, mode):
    found = []
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for module in critics(norm):
        module(x)
        module.train(mode != "eval")
        inputs = x.clone().requires_grad_()
        with statistics(module, mode) if mode in ("running", "last") else nullcontext():
            y = module(inputs)
        y.square().sum().backward()
        grads = {name: p.grad for name, p in module.named_parameters()}
        found.append({"y": y.detach(), "x": inputs.grad, **grads, **module.state_dict()})
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["mean_spectral", "mean_only"])
def test_a_gradient_penalty_through_a_fused_sequence_is_that_of_a_plain_one(norm):
    found = []
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for module in critics(norm):
        inputs = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(inputs).square().sum(), inputs, create_graph=True)
        slope.square().sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_fused_sequence_under_autocast_is_a_plain_one():
    found = []
    x = torch.randn(4, 3, 8, 8)
    for module in critics("mean_spectral"):
        with torch.autocast("cpu", torch.bfloat16):
            y = module.float()(x)
        y.float().square().sum().backward()
        found.append([y.detach(), *(p.grad for p in module.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_part_with_a_hook_is_called_by_itself(kind, index):
    fused, plain = critics("mean_spectral")
    x, seen, found = torch.randn(4, 3, 8, 8, dtype=torch.float64), [], []
    for module in (fused, plain):
        part, hook = module[index], lambda *given: seen.append(given[-1])
        if kind == "forward":
            part.register_forward_hook(hook)
        elif kind == "pre":
            part.register_forward_pre_hook(hook)
        else:
            module[1].inplace = False  # torch's backward hooks forbid it
            part.register_full_backward_hook(hook)
        module(x.clone().requires_grad_()).sum().backward()
        found.append(stored(module[0]).grad)
    assert len(seen) == 2
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("change", "slopes"),
    [("gain", []), ("not in place", []), ("tanh", [0.0]), ("hooked", [0.2, 0.0])],
)
def test_only_what_is_the_same_is_fused(change, slopes, monkeypatch):
    calls = []
    activated = Centring.activated
    monkeypatch.setattr(
        Centring, "activated", lambda *given: calls.append(given[2]) or activated(*given)
    )
    fused, _ = critics("mean_spectral", gain=change == "gain")
    if change == "tanh":
        fused[1], fused[3] = nn.Tanh(), nn.Tanh()
    if change == "not in place":
        fused[1].inplace = fused[3].inplace = fused[5].inplace = False
    if change == "hooked":
        fused[0].output_norm.register_forward_hook(lambda *_: None)
    fused(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    assert calls == slopes


def test_a_fused_sequence_gives_its_output_over_and_lets_no_other_gradient_be_written():
    fused, _ = critics("mean_spectral")
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    upstream = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    part = FusedSequential(fused[4], nn.LeakyReLU(0.1, inplace=True))
    h = fused[2](fused[0](x)).detach()
    before = upstream.clone()
    part(h).backward(upstream)
    assert torch.equal(upstream, before)


def test_dtype_is_taken_as_torch_takes_it_and_m_is_0_at_first():
    layer = MSNConv2d(4, 6, 3, dtype=torch.float64)
    assert layer.output_norm.bias.tolist() == [0] * 6
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert layer.weight_norm.u.dtype == layer.output_norm.running_mean.dtype == torch.float64


SHAPES = [((4, 3), 1), ((4, 3, 5), 1), ((4, 3, 5, 5), 1), ((2, 3, 2, 2, 2), 1), ((4, 5, 3), -1)]


def over_channels(x: Tensor, axis: int) -> Tensor:
    """The channels first, all the rest in one axis."""
    return x.movedim(axis, 0).flatten(1)


def test_a_gain_multiplies_before_m_is_added_in_training_and_evaluation():
    centring = Centring(2, gain=True)
    centring.weight.data.copy_(torch.tensor([2.0, -1.0]))
    centring.bias.data.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([[1.0, 4.0], [3.0, 8.0]])
    torch.testing.assert_close(centring(x), torch.tensor([[8.0, 22.0], [12.0, 18.0]]))
    centring.eval().running_mean.copy_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(centring(x), torch.tensor([[10.0, 18.0], [14.0, 14.0]]))


@pytest.mark.parametrize(
    ("momentum", "expected"), [(0.1, 0.9 * 0.2 + 0.1 * 15), (None, (2 + 15) / 2)]
)
def test_the_running_mean_moves_by_its_momentum_or_is_the_average_of_all_batches(
    momentum, expected
):
    centring = Centring(1, momentum=momentum).double()
    for batch in ([[1.0], [3.0]], [[10.0], [20.0]]):
        centring(torch.tensor(batch, dtype=torch.float64, requires_grad=True))
    assert centring.running_mean.item() == pytest.approx(expected, rel=1e-14)
    assert centring.num_batches_tracked.item() == 2
    assert not centring.running_mean.requires_grad


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (0, 3), (0, 3, 4, 4)])
def test_training_refuses_a_single_value_per_channel_and_evaluation_takes_it(shape):
    centring = Centring(3)
    with pytest.raises(ValueError, match="more than one value per channel"):
        centring(torch.randn(shape))
    assert centring.num_batches_tracked.item() == 0
    assert centring.running_mean.tolist() == [0, 0, 0]
    assert centring.eval()(torch.randn(shape)).shape == shape


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_bfloat16_input_is_averaged_and_shifted_in_float32(shape, axis):
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
