"""The norm `released_spectral` does what the authors' released code does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from norm_layers import LAYERS, exact_sigma
from torch import Tensor, nn

from msngan.norms import NORMS, SigmaBank, configured, convert, fold, normalise, stored
from msngan.norms.spectral import ReleasedSpectralNorm

NAME = "released_spectral"
every_kind = pytest.mark.parametrize("kind", LAYERS)


def released(kind: str, **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain layer in float64, a copy of it under the norm, and a batch."""
    make, shape = LAYERS[kind]
    plain = make().double()
    stored(plain).data *= 3
    layer = normalise(copy.deepcopy(plain), configured(NAME, options))
    return plain, layer, torch.randn(shape, dtype=torch.float64)


def largest(layer: nn.Module) -> float:
    return exact_sigma(layer, stored(layer).detach()).item()


def gradient(layer: nn.Module, x: Tensor, towards: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((layer(x) * towards).sum(), stored(layer))
    return found


def digits() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 8, 4, 2))
    network.extend([nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)])
    return convert(network, NAME)


def test_after_each_optimizer_step_sigma_of_every_stored_weight_is_one():
    network = digits()
    steps = torch.optim.Adam(network.parameters(), lr=1e-3)
    bank = SigmaBank(network, steps)
    for _ in range(20):
        with bank.shared():
            loss = network(torch.randn(16, 1, 10, 10)).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        for index in (0, 2, 5):
            assert largest(network[index]) == pytest.approx(1, abs=1e-4)


@every_kind
@pytest.mark.parametrize("banked", [True, False])
def test_the_first_training_pass_overwrites_the_weight_and_computes_with_it(kind, banked):
    plain, layer, x = released(kind)
    bank = SigmaBank(layer if banked else nn.Module())
    assert torch.equal(stored(layer), stored(plain))
    with bank.shared():
        y = layer(x)
    # Sigma of small matrices, whose first two may be close.
    assert largest(layer) == pytest.approx(1, abs=1e-3)
    direction = stored(plain) / stored(plain).norm()
    torch.testing.assert_close(stored(layer) / stored(layer).norm(), direction)
    stored(plain).data.copy_(stored(layer))
    assert torch.equal(y, plain(x))


@every_kind
def test_evaluation_writes_nothing_and_before_training_computes_what_training_will(kind):
    plain, layer, x = released(kind)
    y = layer.eval()(x)
    assert torch.equal(stored(layer), stored(plain))
    assert not layer.weight_norm.u.any()
    torch.testing.assert_close(fold(layer)(x), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.train()(x), y, rtol=1e-12, atol=1e-12)


@every_kind
def test_the_gradient_is_that_of_a_plain_layer_and_not_that_of_the_equations(kind):
    plain, layer, x = released(kind)
    towards = torch.randn_like(layer(x))
    stored(plain).data.copy_(stored(layer))
    found = gradient(layer, x, towards)
    torch.testing.assert_close(found, gradient(plain, x, towards))
    exact = normalise(copy.deepcopy(plain), NORMS["spectral"])
    by_equations = gradient(exact, x, towards)
    # <G, W> u v^T is what the released code leaves out.
    assert (by_equations * stored(plain)).sum().abs() < 1e-9 * by_equations.norm()
    assert (found * stored(layer)).sum().abs() > 1e-3 * found.norm()
    assert (found - by_equations).norm() > 1e-3 * found.norm()


def test_under_a_bank_passes_leave_the_weight_and_a_projection_changes_no_pass_before_it():
    _, layer, x = released("conv2d")
    bank = SigmaBank(layer)
    layer(x)
    stored(layer).data *= 5
    before = stored(layer).detach().clone()
    with bank.shared():
        layer(x)
    layer(x)
    assert torch.equal(stored(layer), before)
    bank.update()
    assert largest(layer) == pytest.approx(1, abs=1e-3)
    found = []
    for interrupted in (False, True):
        loss = layer(x).square().sum()
        before, version = stored(layer).detach().clone(), stored(layer)._version
        if interrupted:
            bank.update()
        loss.backward()
        assert stored(layer)._version == version
        torch.testing.assert_close(stored(layer).detach(), before, rtol=1e-6, atol=0)
        found.append(stored(layer).grad)
        stored(layer).grad = None
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-9)


@every_kind
@pytest.mark.parametrize("trained", [True, False])
def test_a_state_round_trip_and_a_deep_copy_go_on_with_the_same_bits(kind, trained):
    _, layer, x = released(kind)
    if trained:
        layer(x)
    duplicate = copy.deepcopy(layer)
    _, loaded, _ = released(kind)
    if not trained:
        loaded(x)  # what is loaded has not been projected, whatever this layer did
    loaded.load_state_dict(layer.state_dict())
    states = []
    for each in (layer, duplicate, loaded):
        bank = SigmaBank(each)
        with bank.shared():
            y = each(x).detach()
        stored(each).data.add_(0.1)
        bank.update()
        states.append({**each.state_dict(), "output": y})
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)


@every_kind
def test_a_zero_weight_stays_zero(kind):
    _, layer, x = released(kind)
    stored(layer).data.zero_()
    bank = SigmaBank(layer)
    layer(x).square().sum().backward()
    bank.update()
    assert not stored(layer).any()
    assert stored(layer).grad.isfinite().all()
    norms = layer.weight_norm.u.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_iterations_are_so_many_at_each_projection_and_a_hundred_by_default():
    def u(updates: int, **options: int) -> Tensor:
        torch.manual_seed(0)
        _, layer, _ = released("conv2d", **options)
        for _ in range(updates):
            layer.weight_norm.iterate(stored(layer))
        return layer.weight_norm.u

    assert ReleasedSpectralNorm.of(nn.Linear(2, 2)).iterations == 100
    torch.testing.assert_close(u(1, iterations=6), u(3, iterations=2))
    assert not torch.allclose(u(1, iterations=6), u(1, iterations=2))
    torch.testing.assert_close(u(1), u(1, iterations=100), rtol=0, atol=0)
