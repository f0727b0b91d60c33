"""Whole networks: what enters their activations, and that measuring leaves every bit as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msngan.networks import CLASSIFIERS, Critic
from msngan.norms import NORMS, SigmaBank, convert, layers_of, stored
from msngan.training.dynamics.dynamics_file import PER_LAYER, appended
from msngan.training.dynamics.measure import Seen, Subject, figures, look, measure
from msngan.training.dynamics.weight_measures import kernel_singular


def by_hand() -> nn.Sequential:
    """x -> (x, -x, 0 x + 5), then an activation that writes over its input."""
    network = nn.Sequential(nn.Linear(1, 3), nn.LeakyReLU(0.1, inplace=True), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
        network[0].bias.copy_(torch.tensor([0.0, 0.0, 5.0]))
    return network


def test_preactivations_by_hand() -> None:
    network = by_hand()
    seen = look(network, layers_of(network), torch.tensor([[1.0], [2.0], [3.0]]))
    sd = math.sqrt(2 / 3)
    first = seen["0"]
    assert first.mean is not None
    np.testing.assert_allclose(first.mean, [2, -2, 5])
    np.testing.assert_allclose(first.sd, [sd, sd, 0], rtol=1e-6)
    assert first.dead.tolist() == [False, True, False]  # type: ignore[union-attr]
    found = figures(first, np.array([1, -2, 7], np.float32))
    expected = {
        "preactivation_mean": 5 / 3,
        "preactivation_sd": 2 * sd / 3,
        "offset": 2 / sd,  # the third channel does not vary
        "drift": 0.5 / sd,
        "drift_signed": 0.5 / sd,
        "dead": 1 / 3,
    }
    assert found == pytest.approx(expected, rel=1e-6)
    apart = figures(first, np.array([1, -1, 7], np.float32))
    assert (apart["drift"], apart["drift_signed"]) == pytest.approx((1 / sd, 0))
    assert figures(first, None)["drift"] == 0
    assert seen["2"] == Seen(())
    assert figures(seen["2"], None) == {}


def test_channels_that_vary_by_rounding_alone_have_no_offset() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.copy_(torch.tensor([0.1, -0.3, 0.0]))
    seen = look(network, layers_of(network), torch.randn(7, 1, 5, 5))["0"]
    found = figures(seen, np.zeros(3, np.float32))
    assert math.isnan(found["offset"])
    assert math.isnan(found["drift"])
    assert found["dead"] == pytest.approx(2 / 3)  # 0 is not above 0


class Joined(nn.Module):
    """Two layers, of which an activation takes the outputs together, and another one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 1), nn.Linear(5, 1)
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        old = self.a(x)
        both = torch.cat([old, self.b(old)], 1)
        return self.c(self.second(self.first(both)).mean((2, 3)))


def test_what_enters_an_activation_belongs_to_the_layer_called_last_before_it() -> None:
    network = Joined()
    x = torch.randn(4, 1, 6, 5)
    seen = look(network, layers_of(network), x)
    assert {name: each.size for name, each in seen.items()} == {"a": (6, 5), "b": (4, 3), "c": ()}
    assert seen["a"].mean is None
    assert seen["c"].mean is None
    old = network.a(x)
    both = torch.cat([old, network.b(old)], 1)
    np.testing.assert_allclose(seen["b"].mean, both.mean((0, 2, 3)).detach(), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_layer_of_a_classifier_is_measured(name: str) -> None:
    small: dict[str, Any] = {"depth": 2} if name == "densenet_bc" else {}
    network = CLASSIFIERS[name]("mean_spectral", channels=3, size=32, width=2, **small)
    found = measure([Subject("network", network, torch.randn(6, 3, 32, 32))], 0, None)
    assert found.layers == tuple(f"network.{each}" for each in layers_of(network))
    for each in ("matrix_norm", "operator_norm", "stable_rank", "weight_sd", "effective_sd"):
        assert np.isfinite(getattr(found, each)).all()
    assert np.isfinite(found.dead[0, 0])
    assert np.isnan(found.dead[0, -1])
    assert np.isnan(found.gradient_rms).all()
    assert found.histogram.sum() == 0
    assert (found.spectral_complexity > 0).all()


def test_drift_is_from_the_first_measurement() -> None:
    network = by_hand()
    subject = Subject("network", network, torch.tensor([[1.0], [2.0], [3.0]]))
    first = measure([subject], 0, None)
    with torch.no_grad():
        network[0].bias[:2] += 1
    second = measure([subject], 10, first)
    assert first.drift[0, 0] == 0
    assert second.drift[0, 0] == pytest.approx(1 / math.sqrt(2 / 3), rel=1e-6)
    third = measure([subject], 20, appended(first, second))
    assert third.drift[0, 0] == second.drift[0, 0]
    np.testing.assert_allclose(second.channel_mean[0], [[3, -1, 5]])
    assert np.isnan(second.drift[0, 1])


def test_the_parameter_and_the_weight_computed_with_are_told_apart() -> None:
    layer = nn.Conv2d(2, 3, 3, bias=False)
    network = convert(nn.Sequential(layer, nn.ReLU()), "spectral")
    bank = SigmaBank(network)
    with torch.no_grad():
        stored(layer).mul_(10)
    bank.update()
    found = measure([Subject("network", network, torch.randn(2, 2, 5, 5))], 0, None)
    sigma = float(torch.linalg.matrix_norm(stored(layer).detach().flatten(1), 2))
    assert found.matrix_norm[0, 0] == pytest.approx(1, rel=1e-5)
    assert found.weight_sd[0, 0] == pytest.approx(found.effective_sd[0, 0] * sigma, rel=1e-4)
    assert found.kernel_singular[0, 0] == pytest.approx(
        kernel_singular(stored(layer) / sigma), rel=1e-4
    )
    assert found.weight_mean[0, 0] == pytest.approx(float(stored(layer).detach().mean()), rel=1e-5)


def everything(network: nn.Module) -> dict[str, Any]:
    """All that a measurement might touch, with the versions that a write in place raises."""
    found: dict[str, Any] = {"random": torch.get_rng_state()}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found |= {name: tensor.detach().clone(), f"{name} version": tensor._version}
        if tensor.grad is not None:
            found[f"{name} gradient"] = tensor.grad.clone()
    for name, module in network.named_modules():
        hooks = len(module._forward_pre_hooks) + len(module._forward_hooks)
        found |= {f"{name} training": module.training, f"{name} hooks": hooks}
        for own in ("track_running_stats", "last_mean", "_shared", "managed"):
            if hasattr(module, own):
                found[f"{name}.{own}"] = getattr(module, own)
    return found


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a is b or a == b

    return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)


ALONE = ("spectral", "mean_spectral", "optional_spectral")  # also tested without a bank


@pytest.mark.parametrize(
    ("norm", "banked"), [*((norm, True) for norm in sorted(NORMS)), *((n, False) for n in ALONE)]
)
def test_measuring_leaves_the_network_and_its_training_as_they_are(norm: str, banked: bool) -> None:
    def trained(measured: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        critic = Critic(norm, width=2, size=16)
        critic.body.insert(2, nn.Dropout(0.2))
        bank = SigmaBank(critic) if banked else None
        optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
        probe = torch.randn(6, 3, 16, 16)
        first = None
        for step in range(3):
            if measured:
                before = everything(critic)
                made = measure([Subject("critic", critic, probe)], step, first)
                first = first or made
                assert unchanged(before, everything(critic))
            optimizer.zero_grad()
            critic(torch.randn(4, 3, 16, 16)).square().mean().backward()
            optimizer.step()
            if bank is not None:
                bank.update()
        return everything(critic)

    assert unchanged(trained(False), trained(True))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_a_network_is_looked_at_as_in_training_without_dropout_and_then_is_as_it_was() -> None:
    torch.manual_seed(0)
    parts = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)]
    network = nn.Sequential(*parts, nn.ReLU(), Noise())
    x, layers, state = torch.randn(50, 3) + 7, layers_of(network), torch.get_rng_state()
    trained = look(network.train(), layers, x)
    evaluated = look(network.eval(), layers, x)
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)
    network[3] = nn.Identity()
    without = look(network, layers, x)
    np.testing.assert_allclose(trained["0"].mean, np.zeros(4), atol=1e-5)  # type: ignore[arg-type]
    for name in ("0", "4"):
        for other in (evaluated, without):
            np.testing.assert_array_equal(trained[name].mean, other[name].mean)  # type: ignore[arg-type]


def test_gradients_are_of_the_parameters_and_nothing_where_there_are_none() -> None:
    network = by_hand()
    subject = Subject("network", network, torch.tensor([[1.0], [2.0]]))
    network(subject.probe).sum().backward()
    network[2].weight.grad = None
    found = measure([subject], 1, None)
    gradient = network[0].weight.grad
    assert gradient is not None
    assert found.gradient_rms[0, 0] == pytest.approx(float(gradient.square().mean().sqrt()))
    assert found.histogram[0, 0].sum() == 3
    assert np.isnan(found.gradient_zero[0, 1])
    network[0].weight.grad = None
    without = measure([subject], 1, None)
    for name in PER_LAYER:
        whole = np.isnan(getattr(without, name)).all()
        assert whole == name.startswith("gradient")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_network_that_diverges_is_measured_all_the_same(value: float) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())
    subject = Subject("network", network, torch.randn(2, 1, 6, 6))
    first = measure([subject], 0, None)
    network(subject.probe).sum().backward()
    with torch.no_grad():
        network[0].weight.fill_(value)
        network[0].weight.grad.fill_(value)
        network[2].weight.mul_(1e20)
    found = measure([subject], 1, first)
    assert np.isnan(found.operator_norm[0, 0]) or found.operator_norm[0, 0] > 1e30
    assert np.isfinite(found.matrix_norm[0, 1])
    assert found.histogram[0, 0].sum() == 18
    assert found.spectral_complexity[0, 0] > 1e40 or np.isnan(found.spectral_complexity[0, 0])
