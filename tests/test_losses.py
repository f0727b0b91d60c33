"""Losses and penalties: signs, values by hand, where a penalty looks, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import exp, log

import pytest
import torch
from conftest import COUPLED
from torch import Generator, Tensor, nn

from msngan.gan import GAN, scale_free
from msngan.losses import (
    LOSSES,
    PENALTIES,
    between,
    estimate_sigmas,
    gradient_norms,
)
from msngan.networks import Critic
from msngan.norms import NORMS, SigmaBank, convert, statistics
from msngan.runs.folder import UserError

every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
Half = Callable[[Tensor, Tensor], Tensor]


def softplus(x: float) -> float:
    return log(1 + exp(x))


# Scores of two real and two fake images, and what each half gives for them, worked out by hand.
REAL, FAKE = (0.0, 3.0), (0.0, -2.0)
LOGISTIC = (log(2) + softplus(-3)) / 2 + (log(2) + softplus(-2)) / 2
VALUES = {
    # (1 + 0) / 2 + (1 + 0) / 2; -(0 - 2) / 2
    "hinge": (1.0, 1.0),
    # -1 - 1.5
    "wasserstein": (-2.5, 1.0),
    "nonsaturating": (LOGISTIC, (log(2) + softplus(2)) / 2),
    "minimax": (LOGISTIC, -(log(2) + softplus(-2)) / 2),
    # (1 + 4) / 4 + (0 + 4) / 4; (1 + 9) / 4
    "least_squares": (2.25, 2.5),
    # pairs (0, 0) and (3, -2)
    "relativistic_paired": ((log(2) + softplus(-5)) / 2, (log(2) + softplus(5)) / 2),
}


def scores(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def slopes(half: Half, real: float, fake: float) -> tuple[float, float]:
    """The derivative of one half for one real and one fake score."""
    logits = scores(real), scores(fake)
    gradients = torch.autograd.grad(half(*logits), logits, materialize_grads=True)
    return gradients[0].item(), gradients[1].item()


@every_loss
@pytest.mark.parametrize(("real", "fake"), [(0.0, 0.1), (0.5, 0.5), (-0.9, 0.9), (0.9, 0.2)])
def test_critic_pushes_real_up_and_fake_down_and_generator_pushes_fake_up(name, real, fake):
    real_slope, fake_slope = slopes(LOSSES[name].critic, real, fake)
    assert real_slope < 0 < fake_slope
    assert slopes(LOSSES[name].generator, real, fake)[1] < 0


@every_loss
def test_only_a_paired_loss_reads_real_scores_in_the_generator_s_half(name):
    loss, fake = LOSSES[name], scores(*FAKE)
    changed = loss.generator(scores(7.0, 8.0), fake) != loss.generator(scores(*REAL), fake)
    assert changed.item() == loss.paired


@pytest.mark.parametrize("name", VALUES)
def test_value_is_the_one_worked_out_by_hand(name):
    critic, generator = VALUES[name]
    loss = LOSSES[name]
    for half, expected in ((loss.critic, critic), (loss.generator, generator)):
        value = half(scores(*REAL), scores(*FAKE))
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_scores_far_out_give_finite_values_and_gradients(name):
    for real, fake in ((1e4, -1e4), (-1e4, 1e4)):
        for half in (LOSSES[name].critic, LOSSES[name].generator):
            logits = torch.tensor([real], requires_grad=True), torch.tensor([fake])
            value = half(*logits)
            assert value.isfinite()
            if value.requires_grad:
                value.backward()
                assert logits[0].grad.isfinite().all()


def test_a_paired_loss_needs_as_many_real_scores_as_fake_ones():
    with pytest.raises(RuntimeError, match="size"):
        LOSSES["relativistic_paired"].critic(scores(1.0, 2.0, 3.0), scores(*FAKE))


# Penalties that look at the critic's gradient in the images.
VALUED = sorted(name for name, p in PENALTIES.items() if p.value and not p.of_weights)
every_penalty = pytest.mark.parametrize("name", VALUED)
# Each penalty under one norm, and each norm under one penalty.
PAIRS = [(name, "mean_spectral") for name in VALUED if name != "gradient"]
PAIRS += [("gradient", norm) for norm in NORMS]
every_pair = pytest.mark.parametrize(("name", "norm"), PAIRS)

SHAPE = (6, 3, 16, 16)
# The penalty of a critic whose gradient has norm 3 everywhere, and of one with norm 1 / 2.
STEEP_AND_FLAT = {"gradient": (4.0, 0.25), "lipschitz": (4.0, 0.0), "dragan": (4.0, 0.25)}
STEEP_AND_FLAT |= {"r1": (4.5, 0.125), "r2": (4.5, 0.125)}


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


def looked_at(name: str, real: Tensor, fake: Tensor, generator: Generator | None = None) -> Tensor:
    """The points at which a penalty takes the gradient."""
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    PENALTIES[name].value(critic, real, fake, generator or draw())
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("name", STEEP_AND_FLAT)
def test_value_and_gradient_for_a_linear_critic_are_those_of_the_formula(name):
    for slope, expected in zip((3.0, 0.5), STEEP_AND_FLAT[name], strict=True):
        value = PENALTIES[name].value(linear_critic(slope)[1], *images(), draw())
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)
    a, critic = linear_critic(3.0)
    real, fake = (x.requires_grad_() for x in images())
    PENALTIES[name].value(critic, real * 1, fake * 1, draw()).backward()
    # d (|a| - 1)^2 / da = 2 (|a| - 1) a / |a|, and d (|a|^2 / 2) / da = a
    factor = 1.0 if name in ("r1", "r2") else 2 * 2 / 3
    torch.testing.assert_close(a.grad, factor * a.detach())
    assert real.grad is fake.grad is None


def test_gradient_norms_are_per_image_and_not_averaged():
    x = torch.randn(SHAPE)
    norms = gradient_norms(lambda x: x.flatten(1).square().sum(1) / 2, x)
    torch.testing.assert_close(norms, x.flatten(1).norm(dim=1))


@every_penalty
def test_a_flat_critic_gives_finite_gradients(name):
    a = torch.zeros(3 * 16 * 16, requires_grad=True)
    PENALTIES[name].value(lambda x: x.flatten(1) @ a, *images(), draw()).backward()
    assert a.grad.isfinite().all()


def test_r1_looks_at_real_and_r2_at_fake_images():
    real, fake = images()
    assert torch.equal(looked_at("r1", real, fake), real)
    assert torch.equal(looked_at("r2", real, fake), fake)


@pytest.mark.parametrize("name", ["gradient", "lipschitz"])
def test_points_lie_on_the_segments_between_real_and_fake(name):
    real, fake = images()
    share = (looked_at(name, real, fake) - real) / (fake - real)
    per_image = share.flatten(1).median(1).values
    torch.testing.assert_close(
        share, per_image.view(-1, 1, 1, 1).expand_as(share), rtol=0, atol=1e-2
    )
    assert ((per_image > 0) & (per_image < 1)).all()
    assert per_image.unique().numel() == len(real)


def test_the_shares_between_real_and_fake_are_uniform():
    zeros = torch.zeros(20000, 1, 1, 1)
    shares = between(zeros, zeros + 1, draw()).flatten().sort().values
    uniform = torch.linspace(0, 1, len(shares))
    assert (shares - uniform).abs().max() < 0.02  # Kolmogorov-Smirnov, p below 1e-6


def test_dragan_s_points_are_real_images_plus_at_most_half_a_standard_deviation():
    real, fake = images()
    near = looked_at("dragan", real, fake)
    noise = (near - real) / (real.std() / 2)
    assert noise.min() >= -1e-5
    assert noise.max() <= 1
    assert noise.flatten(1).std(1).min() > 0.01
    largest = noise.flatten(1).max(1).values
    assert largest.std() > 0.1


@pytest.mark.parametrize("name", [name for name in PENALTIES if PENALTIES[name].value])
def test_it_repeats_with_its_generator_and_ignores_the_global_one_and_autocast(name):
    penalty = PENALTIES[name]
    critic = frozen_sigma_critic("none" if penalty.of_weights else "spectral").eval()
    if penalty.prepare:
        penalty.prepare(critic)
    (real, fake), value = images(), penalty.value
    state = torch.get_rng_state()
    first, again = (value(critic, real, fake, draw()) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", torch.bfloat16):
        cast = value(critic, real, fake, draw())
    assert cast.dtype == torch.float32
    assert torch.equal(cast, first)
    if name in STEEP_AND_FLAT:
        points = [looked_at(name, real, fake, draw(seed)) for seed in (0, 1)]
        assert torch.equal(*points) == (name in ("r1", "r2"))


@every_pair
def test_the_gradient_reaches_every_weight_and_running_statistics_stay(name, norm):
    critic, (real, fake) = frozen_sigma_critic(norm), images()
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    with statistics(critic, "running"):
        scale = 3 / gradient_norms(critic, real).mean().item()  # so that one-sided ones act
        PENALTIES[name].value(lambda x: scale * critic(x), real, fake, draw()).backward()
    torch.testing.assert_close(critic.state_dict(), before, rtol=0, atol=0)
    weights = {key: p for key, p in critic.named_parameters() if p.dim() > 1}
    assert len(weights) == 8
    for weight in weights.values():
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 0


@pytest.mark.parametrize(  # not dragan: its noise is of the batch
    ("name", "norm"), [pair for pair in PAIRS if pair[0] in {*STEEP_AND_FLAT} - {"dragan"}]
)
def test_with_running_statistics_the_penalty_is_the_mean_of_those_of_single_images(name, norm):
    critic, (real, _) = frozen_sigma_critic(norm), images()
    value = PENALTIES[name].value
    with statistics(critic, "running"):
        together = value(critic, real, real, draw())
        alone = [value(critic, x[None], x[None], draw()) for x in real]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("norm", sorted(COUPLED))
def test_with_batch_statistics_the_gradient_of_a_score_is_not_per_image(norm):
    critic, (real, _) = frozen_sigma_critic(norm), images()
    coupled = gradient_norms(critic, torch.cat([real, -real]))[: len(real)]
    assert not torch.allclose(coupled, gradient_norms(critic, real), rtol=1e-3, atol=0)


def test_clip_clamps_every_parameter_to_its_bound_and_leaves_smaller_ones():
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


@pytest.mark.parametrize("norm", ["none", "mean_only"])
def test_the_spectral_penalty_is_half_the_sum_of_squared_singular_values(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 2), nn.Linear(6, 2))
    convert(network.double(), norm)
    estimate_sigmas(network)
    before = copy.deepcopy(network.eval().state_dict())
    of_weights(network)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)  # only in training
    network.train()
    for _ in range(100):
        value = of_weights(network)
    found = [singular(layer) for layer in network]
    assert value.item() == pytest.approx(sum(s.item() ** 2 for s, _, _ in found) / 2, rel=1e-9)
    value.backward()
    for layer, (sigma, u, v) in zip(network, found, strict=True):
        expected = sigma * torch.outer(u, v)
        if isinstance(layer, nn.ConvTranspose2d):
            expected = expected.unflatten(1, (4, 2, 2)).transpose(0, 1)
        torch.testing.assert_close(layer.weight.grad, expected.reshape(layer.weight.shape))


def test_the_spectral_penalty_adds_state_and_no_parameter_and_needs_it():
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


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_the_spectral_penalty_is_refused_where_sigma_is_fixed(norm):
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
