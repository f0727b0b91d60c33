"""What every entry of NORMS promises inside a network: copies, layouts, compilation, precision."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from norm_layers import LAYERS, ONE_OF_EACH_KIND, pairs
from torch import Tensor, nn

from msngan.networks.updates import update_average
from msngan.norms import NORMS, SigmaBank, WeightPart, convert, statistics, stored

every_norm = pytest.mark.parametrize("norm", sorted(NORMS))
every_kind = pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
WEIGHTED = sorted(name for name in NORMS if NORMS[name].weight is not None)
every_weight_norm = pytest.mark.parametrize("norm", WEIGHTED)


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
def test_a_copy_made_in_training_trains_on_its_own(norm: str, lent: bool) -> None:
    original = network(norm)
    bank = SigmaBank(original)
    train(original, bank)
    with bank.shared() if lent else nullcontext():
        original(images())
        duplicate = copy.deepcopy(original)
    x = images()
    assert torch.equal(original.eval()(x), duplicate.eval()(x))
    before = copy.deepcopy(original.state_dict())
    train(duplicate.train(), SigmaBank(duplicate))
    close(original.state_dict(), before, rtol=0)
    assert not torch.equal(original(x), duplicate.eval()(x))


@every_norm
def test_a_moving_average_of_the_network_is_a_network_under_the_same_norm(norm: str) -> None:
    live = network(norm)
    average = copy.deepcopy(live).requires_grad_(False)
    bank = SigmaBank(live)
    for step in range(20):
        train(live, bank, steps=1)
        update_average(average, live, 0.9, step)
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
def test_the_memory_layout_changes_no_number(norm: str, banked: bool) -> None:
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
def test_it_compiles_without_a_graph_break_to_the_same_numbers(norm: str, mode: str) -> None:
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


@every_weight_norm
@pytest.mark.parametrize("banked", [False, True])
def test_autocast_leaves_the_state_and_the_weights_in_full_precision(
    norm: str, banked: bool
) -> None:
    plain = network(norm).float()
    cast = copy.deepcopy(plain)
    x = images().float()
    for each, enabled in ((plain, False), (cast, True)):
        bank = SigmaBank(each) if banked else SigmaBank(nn.Module())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            with bank.shared():
                logits = each(x)
                lent = [layer.weight for layer in each if hasattr(layer, "weight_norm")]
            bank.update()
        assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        assert all(weight.dtype == torch.float32 for weight in lent)
    state = {name: value for name, value in plain.state_dict().items() if "weight_norm" in name}
    for name, value in state.items():
        if value.is_floating_point():
            assert cast.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(cast.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "norm"), pairs(LAYERS))
def test_gradients_of_first_and_second_order_are_those_of_finite_differences(
    kind: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_a_gradient_penalty_through_lent_weights_is_that_of_the_layers_alone(
    norm: str, mode: str
) -> None:
    module = network(norm)
    bank, x = SigmaBank(module), images()
    bank.update()
    found = []
    for lender in (bank, SigmaBank(nn.Module())):
        module.zero_grad()
        with lender.shared(), statistics(module, mode):
            points = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(module(points).sum(), points, create_graph=True)
            ((slope.flatten(1).norm(dim=1) - 1).square().mean() + module(x).mean()).backward()
        found.append(gradients(module))
    close(found[0], found[1])
    assert any(gradient.abs().max() > 1e-3 for gradient in found[0].values())


@every_weight_norm
def test_a_gradient_through_lent_weights_can_itself_be_differentiated(norm: str) -> None:
    module = network(norm)
    bank, x = SigmaBank(module), images()
    bank.update()
    weight, found = stored(module[0]), []
    for lender in (bank, SigmaBank(nn.Module())):
        with lender.shared():
            loss = module(x).square().sum()
            (first,) = torch.autograd.grad(loss, weight, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), weight)
        found.append(second)
    close(found[0], found[1])
    assert found[0].abs().max() > 0


@every_weight_norm
@pytest.mark.parametrize("how", ["fused", "foreach"])
def test_after_an_optimizer_of_any_kind_the_lent_weight_is_that_of_the_new_weight(
    norm: str, how: str
) -> None:
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
def test_no_buffer_is_saved_for_the_backward_pass(norm: str, banked: bool) -> None:
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
