"""Spectral clipping and Lipschitz projection keep the true norm of a layer within a bound."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from norm_layers import pairs
from operator_layers import BOUNDED, LAYERS, bounded, exact_norm
from torch import Tensor, nn

from msngan.norms import SigmaBank, configured, convert, fold, normalise, stored

OPTION = {"spectral_clip": "beta", "lipschitz_projection": "bound"}

every_kind = pytest.mark.parametrize("kind", LAYERS)
every_bound = pytest.mark.parametrize("name", BOUNDED)


def critic(name: str) -> nn.Sequential:
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.Flatten(),
        nn.Linear(36, 1),
    )  # fmt: skip
    return convert(body, name)


@pytest.mark.parametrize(("kind", "name"), pairs(LAYERS, BOUNDED))
def test_the_true_norm_of_the_weight_computed_with_is_at_most_the_bound(
    kind: str, name: str
) -> None:
    bound = 0.7
    plain, layer, x = bounded(kind, name, **{OPTION[name]: bound})
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
def test_clipping_and_projecting_leave_a_weight_within_the_bound_as_it_is(kind: str) -> None:
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
def test_the_gradient_of_a_clipped_weight_is_at_right_angles_to_it(kind: str) -> None:
    _, layer, x = bounded(kind, "spectral_clip")
    layer(x).square().sum().backward()
    gradient, weight = stored(layer).grad, stored(layer)
    assert (gradient * weight).sum().abs() < 1e-10 * gradient.norm() * weight.norm()


def test_without_a_bank_no_forward_projects_and_iterate_does() -> None:
    _, layer, x = bounded("conv2d", "lipschitz_projection")
    before, version = stored(layer).detach().clone(), stored(layer)._version
    loss = layer(x).square().sum() + layer(-x).square().sum()
    assert torch.equal(stored(layer), before)
    assert stored(layer)._version == version
    loss.backward()
    layer.weight_norm.iterate(stored(layer))
    assert stored(layer).norm() < 0.9 * before.norm()
    assert stored(layer)._version > version


def test_a_bank_that_leaves_iterations_to_the_passes_projects_all_the_same() -> None:
    plain, layer, x = bounded("conv2d", "lipschitz_projection")
    bank = SigmaBank(layer, each_pass=True)
    layer(x)
    assert torch.equal(stored(layer), plain.weight)
    bank.update()
    assert exact_norm(plain, stored(layer).detach(), x.shape[1:]) < 1.1


@every_bound
def test_before_the_first_training_input_the_weight_is_as_it_is(name: str) -> None:
    plain, layer, x = bounded("conv2d", name)
    SigmaBank(layer).update()
    layer.eval()
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(fold(layer)(x), plain(x))
    assert layer.weight_norm.v.shape == (0,)


def test_a_linear_layer_is_clipped_from_the_start() -> None:
    plain, layer, _ = bounded("linear", "spectral_clip")
    weight = fold(layer).weight.detach()
    assert 1 <= exact_norm(plain, weight, (6,)) < 1.1 < exact_norm(plain, plain.weight, (6,))


@pytest.mark.parametrize("kind", ["conv2d, stride", "conv2d, valid", "linear"])
def test_an_iteration_between_a_pass_and_its_backward_does_not_reach_the_gradient(
    kind: str,
) -> None:
    _, layer, x = bounded(kind, "spectral_clip")
    gradients = []
    for twin, interrupted in [(copy.deepcopy(layer), False), (layer, True)]:
        loss = twin(x).square().sum()
        if interrupted:
            twin.weight_norm.iterate(stored(twin))
        loss.backward()
        gradients.append(stored(twin).grad)
    assert torch.equal(*gradients)


def test_the_first_pass_is_clipped_although_the_bank_lent_its_weight_before() -> None:
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


@pytest.mark.parametrize("kind", ["conv2d", "conv2d, stride", "conv_transpose2d"])
def test_the_bound_of_a_size_holds_for_smaller_inputs(kind: str) -> None:
    plain, layer, x = bounded(kind, "spectral_clip")
    layer(x)
    weight = layer.eval().weight.detach()
    for height, width in [(x.shape[2] - 1, x.shape[3]), (x.shape[2], x.shape[3] - 1)]:
        assert exact_norm(plain, weight, (2, height, width)) < 1 + 1e-4


@every_bound
def test_evaluation_on_any_size_writes_nothing_and_uses_what_training_found(name: str) -> None:
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
def test_a_resumed_run_goes_on_with_the_same_bits(
    name: str, memory_format: torch.memory_format, late: bool
) -> None:
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
def test_a_zero_weight_stays_zero_and_finite(name: str) -> None:
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
def test_an_option_out_of_range_is_refused_by_value(name: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"norm '{name}': .*{option}.* {re.escape(repr(value))}"):
        configured(name, {option: value})


def test_the_options_reach_the_layer() -> None:
    for name, option in OPTION.items():
        part = normalise(nn.Linear(2, 2), configured(name, {option: 2})).weight_norm
        assert part.bound == 2.0
        assert "bound=2.0" in repr(part)
