"""Penalties: values by hand, where they look, and what they leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from conftest import COUPLED
from torch import Generator, Tensor, nn

from msngan.gan import GAN, scale_free
from msngan.losses import PENALTIES, PenaltyName, between, estimate_sigmas, gradient_norms
from msngan.networks import Critic
from msngan.norms import NORMS, SigmaBank, convert, statistics
from msngan.runs.folder import UserError

# Penalties that look at the critic's gradient in the images.
VALUED = sorted(name for name, p in PENALTIES.items() if p.value and not p.of_weights)
every_penalty = pytest.mark.parametrize("name", VALUED)
# Each penalty under one norm, and each norm under one penalty.
PAIRS = [(name, "mean_spectral") for name in VALUED] + [("gradient", norm) for norm in NORMS]
every_pair = pytest.mark.parametrize(("name", "norm"), sorted(set(PAIRS)))

SHAPE = (6, 3, 16, 16)
# The penalty of a critic whose gradient has norm 3 everywhere, and of one with norm 1 / 2.
STEEP_AND_FLAT = {
    "gradient": (4.0, 0.25),
    "lipschitz": (4.0, 0.0),
    "r1": (4.5, 0.125),
    "r2": (4.5, 0.125),
    "dragan": (4.0, 0.25),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def draw(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images() -> tuple[Tensor, Tensor]:
    """Real and fake images in [-1, 1]."""
    return torch.rand(SHAPE) * 2 - 1, torch.rand(SHAPE) * 2 - 1


def linear_critic(slope: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """D(x) = <a, x> + 7 with |a| = slope, and a."""
    a = torch.randn(SHAPE[1:]).flatten()
    a = (slope * a / a.norm()).requires_grad_()
    return a, lambda x: x.flatten(1) @ a + 7


def frozen_sigma_critic(norm: str) -> Critic:
    """A critic in training, whose sigma does not move between passes."""
    critic = Critic(norm=norm, width=2, size=16)
    SigmaBank(critic)
    with torch.no_grad():
        critic(torch.rand(SHAPE))  # some norms learn the size of their inputs from the first
    for module in critic.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.1)
    return critic


def looked_at(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """The points at which a penalty takes the gradient."""
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    PENALTIES[name].value(critic, real, fake, draw())
    assert len(seen) == 1
    return seen[0]


def test_the_type_of_names_lists_the_table() -> None:
    assert get_args(PenaltyName) == tuple(PENALTIES)


@every_penalty
def test_value_for_a_linear_critic_is_the_one_worked_out_by_hand(name: str) -> None:
    for slope, expected in zip((3.0, 0.5), STEEP_AND_FLAT[name], strict=True):
        value = PENALTIES[name].value(linear_critic(slope)[1], *images(), draw())
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


@every_penalty
def test_gradient_in_the_critic_s_weights_is_that_of_the_formula(name: str) -> None:
    a, critic = linear_critic(3.0)
    PENALTIES[name].value(critic, *images(), draw()).backward()
    # d (|a| - 1)^2 / da = 2 (|a| - 1) a / |a|, and d (|a|^2 / 2) / da = a
    factor = 1.0 if name in ("r1", "r2") else 2 * 2 / 3
    torch.testing.assert_close(a.grad, factor * a.detach())


def test_gradient_norms_are_per_image_and_not_averaged() -> None:
    x = torch.randn(SHAPE)
    norms = gradient_norms(lambda x: x.flatten(1).square().sum(1) / 2, x)
    torch.testing.assert_close(norms, x.flatten(1).norm(dim=1))


@every_penalty
def test_a_flat_critic_gives_finite_gradients(name: str) -> None:
    a = torch.zeros(3 * 16 * 16, requires_grad=True)
    PENALTIES[name].value(lambda x: x.flatten(1) @ a, *images(), draw()).backward()
    assert a.grad.isfinite().all()


def test_r1_looks_at_real_and_r2_at_fake_images() -> None:
    real, fake = images()
    assert torch.equal(looked_at("r1", real, fake), real)
    assert torch.equal(looked_at("r2", real, fake), fake)


@pytest.mark.parametrize("name", ["gradient", "lipschitz"])
def test_points_lie_on_the_segments_between_real_and_fake(name: str) -> None:
    real, fake = images()
    share = (looked_at(name, real, fake) - real) / (fake - real)
    per_image = share.flatten(1).median(1).values
    torch.testing.assert_close(
        share, per_image.view(-1, 1, 1, 1).expand_as(share), rtol=0, atol=1e-2
    )
    assert ((per_image > 0) & (per_image < 1)).all()
    assert per_image.unique().numel() == len(real)


def test_the_shares_between_real_and_fake_are_uniform() -> None:
    zeros = torch.zeros(20000, 1, 1, 1)
    shares = between(zeros, zeros + 1, draw()).flatten().sort().values
    uniform = torch.linspace(0, 1, len(shares))
    assert (shares - uniform).abs().max() < 0.02  # Kolmogorov-Smirnov, p below 1e-6


def test_dragan_s_points_are_real_images_plus_at_most_half_a_standard_deviation() -> None:
    real, fake = images()
    near = looked_at("dragan", real, fake)
    noise = (near - real) / (real.std() / 2)
    assert noise.min() >= -1e-5
    assert noise.max() <= 1
    assert noise.flatten(1).std(1).min() > 0.01
    largest = noise.flatten(1).max(1).values
    assert largest.std() > 0.1


@every_penalty
def test_the_same_generator_gives_the_same_value_and_the_global_one_is_not_used(name: str) -> None:
    critic, (real, fake) = frozen_sigma_critic("spectral").eval(), images()
    value = PENALTIES[name].value
    state = torch.get_rng_state()
    first, again = (value(critic, real, fake, draw()).item() for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    random = name not in ("r1", "r2")
    points = [looked_at(name, real, fake)]
    value(lambda x: points.append(x.detach()) or x.flatten(1).sum(1), real, fake, draw(1))
    assert torch.equal(points[0], points[1]) != random


@every_penalty
def test_no_gradient_reaches_the_images(name: str) -> None:
    real, fake = images()
    real.requires_grad_()
    fake.requires_grad_()
    critic = frozen_sigma_critic("none")
    PENALTIES[name].value(critic, real * 1, fake * 1, draw()).backward()
    assert real.grad is fake.grad is None


@every_pair
def test_the_gradient_reaches_every_weight_of_every_critic(name: str, norm: str) -> None:
    critic, (real, fake) = frozen_sigma_critic(norm), images()
    with statistics(critic, "running"):
        scale = 3 / gradient_norms(critic, real).mean().item()  # so that one-sided ones act
        PENALTIES[name].value(lambda x: scale * critic(x), real, fake, draw()).backward()
    weights = {key: p for key, p in critic.named_parameters() if p.dim() > 1}
    assert len(weights) == 8
    for weight in weights.values():
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 0


@pytest.mark.parametrize(  # not dragan: its noise is of the batch
    ("name", "norm"), sorted({pair for pair in PAIRS if pair[0] != "dragan"})
)
def test_with_running_statistics_the_penalty_is_the_mean_of_those_of_single_images(
    name: str, norm: str
) -> None:
    critic, (real, _) = frozen_sigma_critic(norm), images()
    value = PENALTIES[name].value
    with statistics(critic, "running"):
        together = value(critic, real, real, draw())
        alone = [value(critic, x[None], x[None], draw()) for x in real]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("norm", sorted(COUPLED))
def test_with_batch_statistics_the_gradient_of_a_score_is_not_per_image(norm: str) -> None:
    critic, (real, _) = frozen_sigma_critic(norm), images()
    coupled = gradient_norms(critic, torch.cat([real, -real]))[: len(real)]
    assert not torch.allclose(coupled, gradient_norms(critic, real), rtol=1e-3, atol=0)


@every_pair
def test_running_statistics_stay_as_they_are(name: str, norm: str) -> None:
    critic = frozen_sigma_critic(norm)
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    with statistics(critic, "running"):
        PENALTIES[name].value(critic, *images(), draw())
    torch.testing.assert_close(critic.state_dict(), before, rtol=0, atol=0)


@every_penalty
def test_autocast_does_not_reach_the_penalty(name: str) -> None:
    critic, (real, fake) = frozen_sigma_critic("spectral").eval(), images()
    expected = PENALTIES[name].value(critic, real, fake, draw())
    with torch.autocast("cpu", torch.bfloat16):
        value = PENALTIES[name].value(critic, real, fake, draw())
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_clip_clamps_every_parameter_to_its_bound_and_leaves_smaller_ones() -> None:
    critic = nn.Linear(3, 1)
    critic.weight.data.copy_(torch.tensor([[-5.0, 0.003, 0.2]]))
    critic.bias.data.fill_(-0.5)
    penalty = PENALTIES["clip"]
    assert penalty.value is PENALTIES["none"].value is PENALTIES["none"].project is None
    penalty.project(critic, penalty.weight)
    torch.testing.assert_close(critic.weight.data, torch.tensor([[-0.01, 0.003, 0.01]]))
    assert critic.bias.item() == pytest.approx(-0.01)
    assert critic.weight.requires_grad


def of_weights(critic: nn.Module) -> Tensor:
    """The spectral penalty of a prepared critic."""
    return PENALTIES["spectral_penalty"].value(critic, *images(), draw())


def singular(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """sigma, u and v of a layer's weight as a matrix, by its singular value decomposition."""
    weight = layer.weight.detach().double()
    matrix = (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(
        1
    )
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return s[0], u[:, 0], v[0]


@pytest.mark.parametrize("norm", ["none", "batch", "mean_only", "layer"])
def test_the_spectral_penalty_is_half_the_sum_of_squared_singular_values(norm: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 2), nn.Linear(6, 2))
    convert(network.double(), norm)
    estimate_sigmas(network)
    for _ in range(300):
        value = of_weights(network)
    found = [singular(layer) for layer in network]
    assert value.item() == pytest.approx(sum(s.item() ** 2 for s, _, _ in found) / 2, rel=1e-9)
    value.backward()
    for layer, (sigma, u, v) in zip(network, found, strict=True):
        expected = sigma * torch.outer(u, v)
        if isinstance(layer, nn.ConvTranspose2d):
            expected = expected.unflatten(1, (4, 2, 2)).transpose(0, 1)
        torch.testing.assert_close(layer.weight.grad, expected.reshape(layer.weight.shape))


def test_the_spectral_penalty_follows_the_weight_in_training_and_not_in_evaluation() -> None:
    critic = nn.Linear(4, 3).double()
    estimate_sigmas(critic)
    critic.weight.data.normal_()
    before = copy.deepcopy(critic.sigma_estimate.state_dict())
    critic.eval()
    of_weights(critic)
    torch.testing.assert_close(critic.sigma_estimate.state_dict(), before, rtol=0, atol=0)
    critic.train()
    of_weights(critic)
    assert critic.sigma_estimate.last_sigma.item() == pytest.approx(
        singular(critic)[0].item(), rel=1e-3
    )


def test_the_spectral_penalty_adds_state_and_no_parameter_and_needs_it() -> None:
    critic = Critic(norm="batch", width=2, size=8)
    with pytest.raises(ValueError, match="needs a prepared critic"):
        of_weights(critic)
    parameters = dict(critic.named_parameters())
    before = set(critic.state_dict())
    estimate_sigmas(critic)
    assert dict(critic.named_parameters()) == parameters
    added = set(critic.state_dict()) - before
    assert len(added) == 4 * 8
    assert {name.split(".sigma_estimate.")[1] for name in added} == {
        *("u", "v", "last_sigma", "block")
    }


def test_the_spectral_penalty_stays_in_float32_under_autocast_and_draws_nothing() -> None:
    critic = Critic(norm="none", width=2, size=8)
    estimate_sigmas(critic)
    critic.eval()
    state = torch.get_rng_state()
    generator = draw()
    value = PENALTIES["spectral_penalty"].value
    expected = value(critic, torch.zeros(1), torch.zeros(1), generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), draw().get_state())
    with torch.autocast("cpu", torch.bfloat16):
        found = value(critic, torch.zeros(1), torch.zeros(1), generator)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_sigma_falls_as_the_spectral_penalty_s_weight_grows() -> None:
    sigmas = []
    for weight in (0.0, 0.1, 1.0, 10.0):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        estimate_sigmas(network)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        x = torch.randn(64, 8)
        y = 2 * x[:, :1] - x[:, 1:2]
        for _ in range(150):
            loss = (network(x) - y).square().mean() + weight * of_weights(network)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sigmas.append(max(singular(network[index])[0].item() for index in (0, 2)))
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] < 0.5 * sigmas[0]


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_the_spectral_penalty_is_refused_where_sigma_is_fixed(norm: str) -> None:
    before = torch.random.get_rng_state()
    scale_free(norm, {})  # draws nothing from the global stream
    assert torch.equal(torch.random.get_rng_state(), before)
    layer = convert(nn.Sequential(nn.Linear(4, 6, bias=False)), norm, head="0").eval()
    x = torch.randn(5, 4)
    before = layer(x)
    next(layer.parameters()).data *= 0.125
    fixed = torch.allclose(layer(x), before, rtol=1e-3)
    assert scale_free(norm, {}) == fixed
    assert scale_free("scaled", {"scale": 2.0})
    options = {"width": 2, "size": 16, "latent_dim": 4, "penalty": "spectral_penalty"}
    if fixed:
        with pytest.raises(UserError, match=f"with --model.norm {norm}: the norm undoes"):
            GAN(norm=norm, **options)
        options["norm_layers"] = [0, 1]  # the others are free
    gan = GAN(norm=norm, **options)
    assert len([name for name in gan.state_dict() if name.endswith("sigma_estimate.u")]) == 8
