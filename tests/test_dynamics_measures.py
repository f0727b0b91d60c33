"""The measures of training dynamics: values by hand, explicit matrices, no trace of measuring."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smallest
from operator_layers import LAYERS, operator_matrix
from scipy.linalg import block_diag, subspace_angles
from torch import Tensor, nn

from msngan.networks import CLASSIFIERS, Critic
from msngan.norms import NORMS, Centring, SampleNorm, SigmaBank, convert, layers_of, stored
from msngan.training.activations import Seen, figures, look
from msngan.training.callbacks.dynamics import (
    EDGES,
    THRESHOLD,
    Subject,
    gradient_figures,
    histogram,
    measure,
)
from msngan.training.dynamics import PER_LAYER, appended
from msngan.training.smoothness import Loss
from msngan.training.weight_measures import (
    SUBSPACE,
    TOLERANCE,
    by_inputs,
    effective_weight,
    kernel_singular,
    leading,
    lipschitz_of,
    matrix_of,
    mean_cosine,
    operator_norm,
    output_lengths,
    spectral_complexity,
    stable_rank,
)

MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pointwise": (lambda: nn.Conv2d(3, 4, 1, stride=2), (3, 5, 5)),
    "pointwise, groups": (lambda: nn.Conv2d(4, 4, 1, groups=2), (4, 3, 3)),
    "pointwise, circular": (lambda: nn.Conv2d(2, 2, 1, 1, 1, padding_mode="circular"), (2, 3, 3)),
    "pointwise, transposed": (lambda: nn.ConvTranspose2d(3, 2, 1, 2), (3, 3, 3)),
}
CASES = LAYERS | MORE
# Of these a tap may meet the same pixel twice, or a pixel that is not there.
PADDED_BY_OTHERS = ("circular", "reflect", "replicate")


def made(name: str) -> tuple[nn.Module, tuple[int, ...], Tensor]:
    """A float64 layer, the size of its input, and the matrix that it is at that size."""
    torch.manual_seed(0)
    make, shape = CASES[name]
    layer = make().double()
    with torch.no_grad():
        return layer, shape[1:], operator_matrix(layer, effective_weight(layer), shape).T


@pytest.mark.parametrize("name", CASES)
def test_the_figures_of_a_layer_are_those_of_its_explicit_matrix(name):
    layer, size, explicit = made(name)
    weight = effective_weight(layer)
    groups = getattr(layer, "groups", 1)
    blocks, turned = [], []
    for block in np.split(weight.detach().numpy(), groups):  # the outputs, or transposed the inputs
        if "transpose" in name:
            block = np.swapaxes(block, 0, 1)
        blocks.append(block.reshape(len(block), -1))
        turned.append(np.swapaxes(block, 0, 1).reshape(block.shape[1], -1))
    matrices = matrix_of(layer, weight.detach())
    values, *_ = leading(matrices)
    for given, expected in ((matrices, blocks), (by_inputs(layer, matrices), turned)):
        u, all_values, vt = np.linalg.svd(block_diag(*expected), full_matrices=False)
        found, left, right = leading(given)
        np.testing.assert_allclose(found, all_values, atol=1e-7)
        assert len(left) == len(right) == (k := max(1, min(SUBSPACE, len(found) // 2)))
        np.testing.assert_allclose(left.T @ left, u[:, :k] @ u[:, :k].T, atol=1e-5)
        np.testing.assert_allclose(right.T @ right, vt[:k].T @ vt[:k], atol=1e-5)
    known, exact = float(values[0]), np.linalg.svd(explicit.numpy(), compute_uv=False)[0]
    assert operator_norm(layer, weight, size, 1e-12, 300, known) == pytest.approx(exact, rel=1e-9)
    rough = operator_norm(layer, weight, size, known=known)
    assert exact * (1 - TOLERANCE / 2) <= rough <= exact * (1 + 1e-9)
    if not any(word in name for word in PADDED_BY_OTHERS):
        lengths = float(explicit.norm(dim=1).sum())
        assert output_lengths(layer, weight, size) == pytest.approx(lengths, rel=1e-12)


def test_the_operator_norm_is_zero_of_zeros_nearly_the_same_in_float32_and_draws_nothing():
    layer, size, explicit = made("conv2d, stride")
    weight = effective_weight(layer).detach()
    assert operator_norm(layer, torch.zeros_like(weight), size) == 0
    exact = float(torch.linalg.matrix_norm(explicit, 2))
    state = torch.get_rng_state()
    found = {operator_norm(layer, weight.float(), size, 1e-6) for _ in range(3)}
    assert found.pop() == pytest.approx(exact, rel=1e-5)
    assert not found
    assert torch.equal(torch.get_rng_state(), state)


def test_the_stable_rank_is_the_squared_frobenius_norm_by_that_of_the_largest():
    assert stable_rank(np.array([4.0, 3.0])) == 25 / 16
    assert stable_rank(np.ones(7)) == 7
    assert math.isnan(stable_rank(np.zeros(3)))


def test_the_mean_cosine_is_that_of_the_principal_angles():
    draw = np.random.default_rng(0)
    a, b = (np.linalg.qr(draw.normal(size=(9, k)))[0] for k in (4, 3))
    assert mean_cosine(a.T, b.T) == pytest.approx(np.cos(subspace_angles(a, b)).mean(), rel=1e-9)
    x, y, z, w = np.eye(4)
    assert mean_cosine(np.stack([x, y]), np.stack([y, z])) == 0.5  # one shared, one orthogonal
    assert mean_cosine(np.stack([x, y]), np.stack([z, w])) == 0
    assert mean_cosine(np.stack([x, y]), (x + z)[None] / math.sqrt(2)) == pytest.approx(0.5**0.5)
    assert math.isnan(mean_cosine(np.eye(3), np.eye(3)[:1]))  # the whole space
    assert math.isnan(mean_cosine(np.eye(4)[:2], np.eye(5)[:2]))
    assert math.isnan(mean_cosine(np.eye(4)[:2], np.empty((0, 0))))
    zero = leading(torch.zeros(1, 4, 6, dtype=torch.float64))
    assert (zero[0] == 0).all()
    assert math.isnan(mean_cosine(zero[1], zero[1]))


def test_subspaces_by_hand():
    # The first layer writes its largest outputs to channels 0 and 1; the second reads 1 and 2 most.
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([9.0, 8.0, 2.0, 1.0])))
        network[2].weight.copy_(torch.diag(torch.tensor([1.0, 8.0, 9.0, 2.0])).roll(1, 0))
    subject = Subject("network", network, torch.randn(5, 4))
    first = measure([subject], 0, None)
    np.testing.assert_allclose(first.subspace_left, 1, rtol=1e-6)
    np.testing.assert_allclose(first.subspace_right, 1, rtol=1e-6)
    assert math.isnan(first.subspace_link[0, 0])
    assert first.subspace_link[0, 1] == pytest.approx(0.5, rel=1e-6)
    with torch.no_grad():  # its inputs swap places: the right subspace is another one
        network[0].weight.copy_(network[0].weight[:, [0, 2, 1, 3]])
    second = appended(first, measure([subject], 1, first))
    np.testing.assert_allclose(second.subspace_left[1, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(second.subspace_right[1, 0], 0.5, rtol=1e-6)
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight[[2, 3, 0, 1]])
    third = measure([subject], 2, second)
    np.testing.assert_allclose(third.subspace_left[0, 0], 0, atol=1e-6)
    assert third.subspace_link[0, 1] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 4, 2), (3, 2, 1, 1), (6, 4), (3, 2, 5), (2, 2, 2, 3, 2)])
def test_the_released_singular_value_is_that_of_each_kernel_slice_on_average(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    slices = weight.numpy()
    if len(shape) < 4:  # a number, or a row
        slices = slices.reshape(*shape[:2], 1, -1)
    if len(shape) == 5:
        slices = slices.reshape(*shape[:2], -1, shape[-1])
    expected = np.linalg.svd(slices, compute_uv=False)[..., 0].mean()
    assert kernel_singular(weight) == pytest.approx(expected, rel=1e-7)
    if math.prod(shape[2:]) == 1:
        assert kernel_singular(weight) == pytest.approx(float(weight.abs().mean()), rel=1e-12)


def test_gradient_figures_by_hand():
    assert THRESHOLD == 0.01
    gradient = torch.tensor([[0.0, -0.0, 0.015], [3.0, -4.0, 0.03]])
    found = gradient_figures(gradient)
    rms = math.sqrt((0.015**2 + 9 + 16 + 0.03**2) / 6)  # 2.041: 0.0204 is the threshold
    mean = (0.015 - 1 + 0.03) / 6
    assert found["gradient_zero"] == 2 / 6
    assert found["gradient_small"] == 3 / 6
    assert found["gradient_rms"] == pytest.approx(rms)
    assert found["gradient_mean"] == pytest.approx(mean)
    assert found["gradient_sd"] == pytest.approx(math.sqrt(rms**2 - mean**2))
    nothing = gradient_figures(torch.zeros(5))
    assert [*nothing.values()] == [1, 1, 0, 0, 0]


def test_the_histogram_counts_by_sign_and_magnitude():
    values = [0, -0.0, 0.05, -0.05, 0.1, 0.99, 1, -1, 9.9, 10, -10, 1000, -1e9]
    gradient = torch.tensor(values, dtype=torch.float64).view(13, 1)
    counts = histogram(gradient, np.array([0.1, 1, 10]))
    assert counts.tolist() == [[1, 0, 3], [3, 2, 4]]
    assert counts.dtype == np.uint32
    # Of every run: six bins a decade, from 1e-10 to 1e3.
    assert (EDGES[0], EDGES[-1], len(EDGES)) == (pytest.approx(1e-10), pytest.approx(1e3), 79)
    np.testing.assert_allclose(EDGES[6:] / EDGES[:-6], 10)


def test_spectral_complexity_of_two_layers_by_hand():
    # W1 = diag(3, 4): s 4, rows of length 3 and 4. W2 = (1, 2): s and length sqrt(5).
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        network[2].weight.copy_(torch.tensor([[1.0, 2.0]]))
    by_hand = 4 * math.sqrt(5) * ((7 / 4) ** (2 / 3) + 1) ** 1.5
    assert by_hand == pytest.approx(34.3461, rel=1e-5)
    norms, lengths = [4, math.sqrt(5)], [7, math.sqrt(5)]
    assert spectral_complexity(norms, lengths) == pytest.approx(by_hand)
    assert spectral_complexity(norms, lengths, 3) == pytest.approx(3 * by_hand)
    found = measure([Subject("network", network, torch.randn(4, 2))], 0, None)
    assert found.spectral_complexity.tolist() == [[pytest.approx(by_hand, rel=1e-6)]]
    assert spectral_complexity([4, 0.0], [7, 0.0]) == 0
    assert math.isnan(spectral_complexity([4, math.nan], [7, 1]))


def test_the_lipschitz_constant_takes_what_norms_multiply_by():
    batch = nn.BatchNorm2d(2, eps=0.0)
    with torch.no_grad():
        batch.weight.copy_(torch.tensor([1.0, -6.0]))
        batch.running_var.copy_(torch.tensor([0.25, 4.0]))  # type: ignore[union-attr]
    centring = Centring(2, gain=True)
    with torch.no_grad():
        centring.weight.copy_(torch.tensor([0.5, 7.0]))  # type: ignore[union-attr]
    plain = nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.1), Centring(2))
    assert lipschitz_of(plain) == 1
    assert lipschitz_of(nn.Sequential(batch, plain)) == 3
    assert lipschitz_of(nn.Sequential(batch, plain, centring, nn.LeakyReLU(2.0))) == 42
    assert math.isnan(lipschitz_of(nn.Sequential(SampleNorm(2, over="layer"), batch)))


def by_hand() -> nn.Sequential:
    """x -> (x, -x, 0 x + 5), then an activation that writes over its input."""
    network = nn.Sequential(nn.Linear(1, 3), nn.LeakyReLU(0.1, inplace=True), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]))
        network[0].bias.copy_(torch.tensor([0.0, 0.0, 5.0]))
    return network


def test_preactivations_by_hand():
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
    with torch.no_grad():  # channels that vary by rounding alone have no offset
        network[0].weight.zero_()
        network[0].bias.copy_(torch.tensor([0.1, -0.3, 0.0]))
    constant = figures(look(network, layers_of(network), torch.randn(7, 1))["0"], np.zeros(3))
    assert math.isnan(constant["offset"])
    assert math.isnan(constant["drift"])
    assert constant["dead"] == pytest.approx(2 / 3)  # 0 is not above 0


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


def test_what_enters_an_activation_belongs_to_the_layer_called_last_before_it():
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
def test_every_layer_of_a_classifier_is_measured(name):
    small: dict[str, Any] = {"depth": 1} if name == "densenet_bc" else {}
    size = 32 if name == "vgg7" else 9 if name == "resnet18" else 8
    network = CLASSIFIERS[name]("mean_spectral", channels=3, size=size, width=1, **small)
    found = measure([Subject("network", network, torch.randn(6, 3, size, size))], 0, None)
    assert found.layers == tuple(f"network.{each}" for each in layers_of(network))
    for each in ("matrix_norm", "operator_norm", "stable_rank", "weight_sd", "effective_sd"):
        assert np.isfinite(getattr(found, each)).all()
    assert np.isfinite(found.dead[0, 0])
    assert np.isnan(found.dead[0, -1])
    assert np.isnan(found.gradient_rms).all()
    assert found.histogram.sum() == 0
    assert (found.spectral_complexity > 0).all()


def test_drift_is_from_the_first_measurement():
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


def test_the_parameter_and_the_weight_computed_with_are_told_apart():
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
    ("norm", "banked"), [*((norm, True) for norm in NORMS), *((n, False) for n in ALONE)]
)
def test_measuring_leaves_the_network_and_its_training_as_they_are(norm, banked):
    def trained(measured: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        size = smallest(norm)
        critic = Critic(norm, width=1, size=size)
        critic.body.insert(2, nn.Dropout(0.2))
        bank = SigmaBank(critic) if banked else None
        optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
        probe = torch.randn(6, 3, size, size)
        first = None

        def loss() -> Loss:
            return lambda network: network(probe).square().mean()

        for step in range(2):
            if measured:
                before = everything(critic)
                made = measure([Subject("critic", critic, probe, None, loss, 0.1)], step, first)
                assert 0 < made.beta_smoothness[0, 0] < math.inf
                first = first or made
                assert unchanged(before, everything(critic))
            optimizer.zero_grad()
            critic(torch.randn(4, 3, size, size)).square().mean().backward()
            optimizer.step()
            if bank is not None:
                bank.update()
        return everything(critic)

    assert unchanged(trained(False), trained(True))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_a_network_is_looked_at_as_in_training_without_dropout_and_then_is_as_it_was():
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


def test_gradients_are_of_the_parameters_and_nothing_where_there_are_none():
    network = by_hand()
    subject = Subject("network", network, torch.tensor([[1.0], [2.0]]))
    network(subject.probe).sum().backward()
    gradient, network[2].weight.grad = network[0].weight.grad, None
    found = measure([subject], 1, None)
    assert found.gradient_rms[0, 0] == pytest.approx(float(gradient.square().mean().sqrt()))
    assert found.histogram[0, 0].sum() == 3
    for name in PER_LAYER:
        missing = np.isnan(getattr(found, name)[0, 1])
        assert missing or not name.startswith("gradient")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_network_that_diverges_is_measured_all_the_same(value):
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
