"""What every entry of NORMS promises, on every kind of layer and inside a network."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import COUPLED
from norm_layers import LAYERS, ONE_OF_EACH_KIND, pairs, some
from torch import Tensor, nn

from msngan.networks.updates import share_of, update_average
from msngan.norms import (
    NORMS,
    SigmaBank,
    WeightPart,
    convert,
    fold,
    normalise,
    statistics,
    stored,
)

every_norm = pytest.mark.parametrize("norm", sorted(NORMS))
every_kind = pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)


def network(norm: str, **options: Any) -> nn.Module:
    """A small critic in float64 with weights large enough for every norm to act, seen one input."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
    layers += [nn.Conv2d(4, 6, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True), nn.Flatten()]
    plain = nn.Sequential(*layers, nn.Linear(96, 1)).double()
    for parameter in plain.parameters():
        parameter.data.mul_(4)
    made = convert(plain, norm, head="5", **options)
    made(images())
    return made


def images(count: int = 5) -> Tensor:
    return 0.5 + torch.randn(count, 3, 8, 8, dtype=torch.float64)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def close(a: Any, b: Any, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def train(module: nn.Module, bank: SigmaBank, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(steps):
        with bank.shared():
            loss = module(images()).square().mean() - module(-images()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bank.update()
    return optimizer


@every_kind
@pytest.mark.parametrize("lent", [False, True])
@pytest.mark.parametrize("by", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_made_in_training_trains_on_its_own(norm, lent, by):
    original = network(norm)
    bank = SigmaBank(original)
    train(original, bank)
    with bank.shared() if lent else nullcontext():
        original(images())
        duplicate = by(original)
    x = images()
    assert torch.equal(original.eval()(x), duplicate.eval()(x))
    before = copy.deepcopy(original.state_dict())
    for bank in (SigmaBank(nn.Module()), SigmaBank(duplicate)):
        train(duplicate.train(), bank)
    close(original.state_dict(), before, rtol=0)
    assert not torch.equal(original(x), duplicate.eval()(x))
    close(fold(duplicate)(x), duplicate(x))


@every_kind
def test_a_moving_average_of_the_network_is_a_network_under_the_same_norm(norm):
    live = network(norm)
    average = copy.deepcopy(live).requires_grad_(False)
    bank = SigmaBank(live)
    for step in range(20):
        train(live, bank, steps=1)
        update_average(average, live, share_of(0.9, step))
    assert average.eval()(images()).isfinite().all()
    for mine in average.modules():
        part = getattr(mine, "weight_norm", None)
        if not isinstance(part, WeightPart):
            continue
        anew = copy.deepcopy(part)
        anew.settle(stored(mine))
        torch.testing.assert_close(mine.weight, anew.normalised(stored(mine)), rtol=1e-2, atol=0)


@pytest.mark.parametrize("norm", [*ONE_OF_EACH_KIND, "bidirectional"])
@pytest.mark.parametrize("banked", [False, True])
def test_the_memory_layout_changes_no_number(norm, banked):
    first = copy.deepcopy(network(norm))
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)
    x = images()
    for each, batch in ((first, x), (second, x.to(memory_format=torch.channels_last))):
        bank = SigmaBank(each) if banked else SigmaBank(nn.Module())
        for _ in range(2):
            with bank.shared():
                loss = each(batch).square().sum()
            loss.backward()
            bank.update()
    close(gradients(second), gradients(first))
    # The vectors beside the leading one, of close singular values, are less exact than it.
    states = [
        {k: v for k, v in each.state_dict().items() if not k.endswith(".block")}
        for each in (second, first)
    ]
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-11)
    close(second.eval()(x), first.eval()(x))


@pytest.mark.parametrize(
    ("norm", "mode"),  # output halves, and both; in training, see tests/test_norm_reading.py
    [("mean_only", "train"), ("mean_spectral", "lent"), ("layer", "eval")],
)
def test_it_compiles_without_a_graph_break_to_the_same_numbers(norm, mode):
    eager = network(norm)
    compiled = copy.deepcopy(eager)
    torch._dynamo.reset()
    function = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = images()
    for each, forward in ((eager, eager), (compiled, function)):
        each.train(mode != "eval")
        bank = SigmaBank(each if mode == "lent" else nn.Module())
        with bank.shared():
            forward(x).square().sum().backward()
    close(gradients(compiled), gradients(eager))
    close(compiled.state_dict(), eager.state_dict())


@every_norm
@pytest.mark.parametrize("banked", [False, True])
def test_autocast_leaves_the_state_and_the_weights_in_full_precision(norm, banked):
    plain = network(norm).float()
    cast = copy.deepcopy(plain)
    x, found = images().float(), []
    for each, enabled in ((plain, False), (cast, True)):
        bank = SigmaBank(each) if banked else SigmaBank(nn.Module())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            with bank.shared():
                logits = each(x)
                lent = [layer.weight for layer in each if hasattr(layer, "weight_norm")]
            bank.update()
        assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        assert all(weight.dtype == torch.float32 for weight in lent)
        found.append(logits.float())
    torch.testing.assert_close(*found, rtol=0.1, atol=0.1 * found[0].abs().max().item())
    state = {name: value for name, value in plain.state_dict().items() if "weight_norm" in name}
    for name, value in state.items():
        if value.is_floating_point():
            assert cast.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(cast.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "norm"), some(pairs(LAYERS)))
def test_gradients_of_first_and_second_order_are_those_of_finite_differences(
    kind, norm, monkeypatch
):
    make, shape = LAYERS[kind]
    layer = convert(nn.Sequential(make()).double(), norm)
    x = torch.randn(2, *shape[1:], dtype=torch.float64, requires_grad=True)
    layer(x.detach())
    stored(layer[0]).data.mul_(4)
    # The gradient takes what is estimated as constant, so nothing may be estimated in between.
    SigmaBank(layer)
    monkeypatch.setattr(WeightPart, "follow", lambda *_: None)
    values = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(values, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x,))

    inputs = (x, *values.values())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@every_kind
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_gradients_of_gradients_through_lent_weights_are_those_of_the_layers_alone(norm, mode):
    module = network(norm)
    bank, x, weight = SigmaBank(module), images(), stored(module[0])
    bank.update()
    found = []
    for lender in (bank, SigmaBank(nn.Module())):
        module.zero_grad()
        with lender.shared(), statistics(module, mode):
            points = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(module(points).sum(), points, create_graph=True)
            ((slope.flatten(1).norm(dim=1) - 1).square().mean() + module(x).mean()).backward()
            loss = module(x).square().sum()
            (first,) = torch.autograd.grad(loss, weight, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), weight)
        found.append(gradients(module) | {"second": second})
    close(found[0], found[1])
    assert any(gradient.abs().max() > 1e-3 for gradient in found[0].values())
    assert found[0]["second"].abs().max() > 0


@every_kind
@pytest.mark.parametrize("how", ["fused", "foreach"])
def test_after_an_optimizer_of_any_kind_the_lent_weight_is_that_of_the_new_weight(norm, how):
    module = network(norm)
    options = {"fused": how == "fused", "foreach": how == "foreach"}
    optimizer = torch.optim.Adam(module.parameters(), 0.1, **options)
    bank = SigmaBank(module, optimizer)
    for _ in range(2):
        with bank.shared():
            lent = module[0].weight.clone()
            module(images()).square().sum().backward()
        optimizer.step()
    with bank.shared():
        now = module[0].weight
    close(now, module[0].weight, rtol=1e-9)
    assert (now - lent).abs().max() > 1e-3


@every_kind
@pytest.mark.parametrize("banked", [False, True])
def test_no_buffer_is_saved_for_the_backward_pass(norm, banked):
    # Several processes write their buffers in place between a forward pass and its backward.
    if norm == "batch":
        pytest.skip("torch's own kernel saves its running statistics")
    module = network(norm)
    bank = SigmaBank(module) if banked else SigmaBank(nn.Module())
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), bank.shared():
        module(images())
        with statistics(module, "running"):
            module(images())
    buffers = {b.untyped_storage().data_ptr() for b in module.buffers() if b.numel()}
    assert saved
    assert not buffers & {tensor.untyped_storage().data_ptr() for tensor in saved}


# A bias has no effect under these: they subtract a mean per channel.
CANCELLING = {*COUPLED, "instance"}
every_norm_and_layer = pytest.mark.parametrize(("kind", "name"), some(pairs(LAYERS)))
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


@every_norm_and_layer
@pytest.mark.parametrize("conv_bias", [False, True])
def test_every_parameter_has_a_gradient_but_a_bias_that_is_kept_although_the_norm_cancels_it(
    kind, name, conv_bias
):
    layer, x = layer_and_input(kind, name, conv_bias=conv_bias)
    y = layer(x)
    plain = LAYERS[kind][0]().double()(x)
    assert (y.shape, y.dtype) == (plain.shape, torch.float64)
    (y * torch.randn_like(y)).sum().backward()
    gradients = {key: p.grad.abs().max().item() for key, p in layer.named_parameters()}
    assert ("bias" in gradients) == (conv_bias or not NORMS[name].cancels_bias)
    cancelled = gradients.pop("bias") if conv_bias and name in CANCELLING else 0
    assert cancelled < 1e-10
    assert min(gradients.values()) > 1e-3


@every_norm_and_layer
def test_the_head_gets_the_weight_part_alone_and_keeps_its_bias(kind, name):
    layer, x = layer_and_input(kind, name, head=True)
    assert layer.bias is not None
    assert getattr(layer, "output_norm", None) is None
    weight_norm = getattr(layer, "weight_norm", None)
    assert (weight_norm is None) == (NORMS[name].weight is None)
    alone = torch.cat([layer.eval()(sample[None]) for sample in x])
    torch.testing.assert_close(layer.train()(x), alone, rtol=0.05, atol=0.05)


@pytest.mark.quick
@coupled_norm_and_layer
def test_in_training_the_mean_of_each_channel_is_the_learned_offset(kind, name):
    layer, x = layer_and_input(kind, name)
    layer.output_norm.bias.data.normal_()
    y = layer(x).movedim(channel_axis(layer), 0).flatten(1)
    torch.testing.assert_close(y.mean(1), layer.output_norm.bias.detach())


@every_norm_and_layer
def test_evaluation_scores_each_sample_by_itself_and_writes_nothing(kind, name):
    layer, x = layer_and_input(kind, name)
    trained(layer, x)
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    alone = torch.cat([layer(sample[None]) for sample in x])
    torch.testing.assert_close(y, alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x), y)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@coupled_norm_and_layer
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_statistics_compute_as_in_training_or_evaluation_and_leave_the_running_ones(
    kind, name, mode
):
    layer, x = layer_and_input(kind, name)
    trained(layer, x).train()
    before = copy.deepcopy(layer.output_norm.state_dict())
    layer.weight_norm = None
    expected = copy.deepcopy(layer).train(mode == "batch")(x)
    with statistics(layer, mode):
        assert layer.training
        y = layer(x)
    close(layer.output_norm.state_dict(), before, rtol=0)
    torch.testing.assert_close(y, expected)
    layer(x)
    assert not torch.equal(layer.output_norm.running_mean, before["running_mean"])


@pytest.mark.parametrize("name", ["batch", "batch_no_gain"])
def test_batch_norm_has_no_last_statistics(name):
    layer, _ = layer_and_input("conv2d", name)
    with pytest.raises(ValueError, match="keeps no statistics"), statistics(layer, "last"):
        pass


@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("name", ["batch", "mean_only"])
def test_statistics_are_as_before_when_the_block_raises(name, mode):
    both = nn.ModuleList([layer_and_input("linear", name)[0] for _ in range(2)])
    both[1].eval().output_norm.track_running_stats = False
    with pytest.raises(KeyError), statistics(both, mode):
        raise KeyError
    state = [(part.output_norm.training, part.output_norm.track_running_stats) for part in both]
    assert state == [(True, True), (False, False)]


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_norm_takes_the_dtype_of_the_layer(norm, dtype):
    layer = normalise(nn.Conv2d(4, 6, 3).to(dtype), NORMS[norm])
    for parameter in layer.parameters():
        assert parameter.dtype == dtype
    assert layer(torch.randn(5, 4, 5, 5, dtype=dtype)).dtype == dtype


def test_a_layer_without_a_weight_matrix_or_with_a_norm_is_refused():
    layer = nn.Conv2d(4, 6, 3)
    assert normalise(layer, NORMS["none"]) is layer
    assert type(layer) is nn.Conv2d
    normed = normalise(nn.Linear(2, 2), NORMS["spectral"])
    for each, message in ((nn.ReLU(), "ReLU, which has no weight matrix"), (normed, "NormLinear")):
        with pytest.raises(TypeError, match=f"cannot put a norm on {message}"):
            normalise(each, NORMS["spectral"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "name"), pairs(LAYERS, ["mean_only", "mean_spectral", "weight_mean"])
)
def test_last_statistics_subtract_the_means_of_the_last_training_batch_as_constants(
    kind, name, dtype
):
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
