"""Spectral clipping and Lipschitz projection: the true norm of a layer, and its bound."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from norm_layers import pairs
from operator_layers import BOUNDED, LAYERS, bounded, exact_norm
from torch import Tensor, nn

from msngan.norms import OperatorNorm, SigmaBank, configured, convert, fold, normalise, stored

every_kind = pytest.mark.parametrize("kind", LAYERS)
every_bound = pytest.mark.parametrize("name", BOUNDED)


@every_kind
def test_sigma_is_near_and_never_above_at_once_and_then_exact_with_its_gradient(kind):
    make, shape = LAYERS[kind]
    plain = make().double()
    part, weight = OperatorNorm(plain), plain.weight
    part.prepare(weight, torch.zeros(1, *shape, dtype=torch.float64))
    sigma = exact_norm(plain, weight, shape)
    assert 1 - 1e-3 < (part.sigma(weight) / sigma).item() < 1 + 1e-12
    for _ in range(100):
        part.iterate(weight)
    torch.testing.assert_close(part.sigma(weight), sigma, rtol=1e-6, atol=0)
    found, exact = (torch.autograd.grad(each, weight)[0] for each in (part.sigma(weight), sigma))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


def test_the_largest_size_of_each_axis_that_training_has_seen_counts():
    _, layer, x = bounded("conv2d", "spectral_clip")
    layer(x[0])  # one image without a batch
    sizes = [tuple(layer.weight_norm.v.shape)]
    for height, width in [(3, 4), (4, 6)]:
        layer(torch.randn(2, 2, height, width, dtype=torch.float64))
        sizes.append(tuple(layer.weight_norm.v.shape))
    assert sizes == [(1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 6)]


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 5), (2,), (2, 2, 2, 5, 4)])
def test_an_input_that_the_layer_refuses_leaves_no_trace(shape):
    _, layer, _ = bounded("conv2d", "spectral_clip")
    with pytest.raises(RuntimeError, match=r"expected input|Expected \dD"):
        layer(torch.randn(shape, dtype=torch.float64))
    assert not layer.weight_norm.known


@every_bound
@pytest.mark.parametrize("seen", [True, False])
def test_a_state_loads_before_any_forward_whether_a_size_is_known_or_not(name, seen):
    _, layer, x = bounded("conv2d", name)
    if seen:
        layer(x)
    for other_size in [None, (2, 2, 8, 3)]:
        _, other, _ = bounded("conv2d", name)
        if other_size:
            other(torch.randn(other_size, dtype=torch.float64))
        other.load_state_dict(layer.state_dict())
        assert other.weight_norm.known == seen
        assert torch.equal(other.weight_norm.v, layer.weight_norm.v)
        assert torch.equal(other.eval()(x), copy.deepcopy(layer).eval()(x))


def test_a_state_of_another_layer_is_refused_and_leaves_an_estimate():
    _, layer, x = bounded("conv2d", "spectral_clip")
    layer(x)
    _, other, y = bounded("conv2d, groups", "spectral_clip")
    other(y)
    before = layer.weight
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_norm\.v"):
        layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer.weight, before, rtol=1e-4, atol=0)


@every_bound
def test_the_start_is_the_same_in_every_process_and_draws_on_no_generator(name):
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        _, layer, x = bounded("conv2d", name)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        layer(x)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(layer.weight_norm.v)
    assert torch.equal(*found)


def test_a_first_forward_compiles_without_a_graph_break():
    _, layer, x = bounded("conv2d", "spectral_clip")
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(4):  # an iteration each
        y = compiled(x)
    for mode in (True, False):
        torch.testing.assert_close(y, twin.train(mode)(x), rtol=1e-3, atol=1e-3)
        y = compiled.eval()(x)


@every_bound
def test_iterations_are_so_many_at_each_update(name):
    _, once, x = bounded("conv2d", name)
    thrice = normalise(LAYERS["conv2d"][0]().double(), configured(name, dict(iterations=3)))
    once(x)
    thrice(x)
    thrice.load_state_dict(once.state_dict())
    SigmaBank(thrice).update()
    for _ in range(3):
        once.weight_norm.iterate(stored(once))
    torch.testing.assert_close(thrice.weight_norm.v, once.weight_norm.v)
    torch.testing.assert_close(stored(thrice), stored(once))


OPTION = {"spectral_clip": "beta", "lipschitz_projection": "bound"}


def critic(name: str) -> nn.Sequential:
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.Flatten(),
        nn.Linear(36, 1),
    )  # fmt: skip
    return convert(body, name)


@pytest.mark.parametrize(("kind", "name"), pairs(LAYERS, BOUNDED))
def test_the_true_norm_of_the_weight_computed_with_is_at_most_the_bound(kind, name):
    bound = 0.7
    plain, layer, x = bounded(kind, name, **{OPTION[name]: bound})
    assert f"bound={bound}" in repr(layer.weight_norm)
    layer(x)
    bank = SigmaBank(layer)
    for _ in range(40):
        bank.update()
    layer.eval()
    weight = fold(layer).weight.detach()
    assert torch.equal(layer.weight, weight)
    exact = exact_norm(plain, weight, x.shape[1:]).item()
    assert bound * (1 - 1e-9) < exact < bound * (1 + 1e-4)
    torch.testing.assert_close(weight / weight.norm(), plain.weight / plain.weight.norm())


@every_kind
def test_clipping_and_projecting_leave_a_weight_within_the_bound_as_it_is(kind):
    plain, clipped, x = bounded(kind, "spectral_clip", factor=0.1)
    y = clipped(x)
    towards = torch.randn_like(y)
    assert torch.equal(y, plain(x))
    gradients = [
        torch.autograd.grad((each(x) * towards).sum(), stored(each)) for each in (clipped, plain)
    ]
    assert torch.equal(*(each[0] for each in gradients))
    _, projected, _ = bounded(kind, "lipschitz_projection", factor=0.1)
    before = stored(projected).detach().clone()
    projected(x)
    SigmaBank(projected).update()
    assert torch.equal(stored(projected), before)


@every_kind
def test_the_gradient_of_a_clipped_weight_is_at_right_angles_to_it(kind):
    _, layer, x = bounded(kind, "spectral_clip")
    layer(x).square().sum().backward()
    gradient, weight = stored(layer).grad, stored(layer)
    assert (gradient * weight).sum().abs() < 1e-10 * gradient.norm() * weight.norm()


@pytest.mark.parametrize("banked", [False, True])
def test_no_forward_projects_and_an_update_does(banked):
    plain, layer, x = bounded("conv2d", "lipschitz_projection")
    bank = SigmaBank(layer, each_pass=True) if banked else None
    version = stored(layer)._version
    loss = layer(x).square().sum() + layer(-x).square().sum()
    assert torch.equal(stored(layer), plain.weight)
    assert stored(layer)._version == version
    loss.backward()
    bank.update() if bank else layer.weight_norm.iterate(stored(layer))
    assert exact_norm(plain, stored(layer).detach(), x.shape[1:]) < 1.1
    assert stored(layer)._version > version


@every_bound
def test_before_the_first_training_input_the_weight_is_as_it_is(name):
    plain, layer, x = bounded("conv2d", name)
    SigmaBank(layer).update()
    layer.eval()
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(fold(layer)(x), plain(x))
    assert layer.weight_norm.v.shape == (0,)


def test_a_linear_layer_is_clipped_from_the_start():
    plain, layer, _ = bounded("linear", "spectral_clip")
    weight = fold(layer).weight.detach()
    assert 1 <= exact_norm(plain, weight, (6,)) < 1.1 < exact_norm(plain, plain.weight, (6,))


@pytest.mark.parametrize("kind", ["conv2d, stride", "conv2d, valid", "linear"])
def test_an_iteration_between_a_pass_and_its_backward_does_not_reach_the_gradient(kind):
    _, layer, x = bounded(kind, "spectral_clip")
    gradients = []
    for twin, interrupted in [(copy.deepcopy(layer), False), (layer, True)]:
        loss = twin(x).square().sum()
        if interrupted:
            twin.weight_norm.iterate(stored(twin))
        loss.backward()
        gradients.append(stored(twin).grad)
    assert torch.equal(*gradients)


def test_the_first_pass_is_clipped_although_the_bank_lent_its_weight_before():
    plain, layer, x = bounded("conv2d", "spectral_clip")
    bank = SigmaBank(layer)
    with bank.shared():
        passes = [layer(x), layer(x)]
    weight = layer.weight_norm.normalised(stored(layer))
    assert exact_norm(plain, weight.detach(), x.shape[1:]) < 1.1
    expected = nn.functional.conv2d(x, weight, layer.bias, padding=1)
    assert torch.equal(passes[0], expected)
    assert torch.equal(passes[1], expected)
    with bank.shared():
        assert layer.weight is layer.weight


@every_bound
def test_evaluation_on_any_size_writes_nothing_and_uses_what_training_found(name):
    _, layer, x = bounded("conv2d", name)
    layer(x)
    layer.eval()
    before, weight = copy.deepcopy(layer.state_dict()), layer.weight
    layer(torch.randn(1, 2, 9, 9, dtype=torch.float64))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(layer.weight, weight)


@every_bound
@pytest.mark.parametrize(
    ("memory_format", "late"), [(torch.contiguous_format, True), (torch.channels_last, False)]
)
def test_a_resumed_run_goes_on_with_the_same_bits(name, memory_format, late):
    def started(state: dict[str, Any] | None) -> tuple[nn.Module, SigmaBank, torch.optim.SGD]:
        network = critic(name)
        if state and not late:
            network.load_state_dict(state)
        network = network.to(memory_format=memory_format)
        if state and late:
            network.load_state_dict(state)
        optimizer = torch.optim.SGD(network.parameters(), 0.02)
        return network, SigmaBank(network, optimizer), optimizer

    def run(parts: tuple[nn.Module, SigmaBank, torch.optim.SGD], steps: range) -> dict[str, Tensor]:
        network, bank, optimizer = parts
        for step in steps:
            noise = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            with bank.shared():
                network(torch.randn(8, 2, 6, 6, generator=noise) + 1).mean().backward()
            optimizer.step()
        return network.state_dict()

    parts = started(None)
    state = copy.deepcopy(run(parts, range(4)))
    whole = run(parts, range(4, 9))
    torch.testing.assert_close(run(started(state), range(4, 9)), whole, rtol=0, atol=0)


@every_bound
def test_a_zero_weight_stays_zero_and_finite(name):
    _, layer, x = bounded("conv2d", name, factor=0.0)
    layer(x).square().sum().backward()
    layer.weight_norm.iterate(stored(layer))
    assert not stored(layer).any()
    assert stored(layer).grad.isfinite().all()


NUMBERS = [0, -1.0, float("nan"), float("inf"), True, "1"]
COUNTS = [0, -1, 1.5, True, "2"]
REFUSED = [(name, option, value) for name, option in OPTION.items() for value in NUMBERS]
REFUSED += [(n, "scale", value) for n in ("scaled", "bidirectional_scaled") for value in NUMBERS]
REFUSED += [(n, "iterations", value) for n in (*OPTION, "released_spectral") for value in COUNTS]


@pytest.mark.parametrize(("name", "option", "value"), REFUSED)
def test_an_option_out_of_range_is_refused_by_value(name, option, value):
    with pytest.raises(ValueError, match=f"norm '{name}': .*{option}.* {re.escape(repr(value))}"):
        configured(name, {option: value})
