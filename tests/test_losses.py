"""Losses: signs for every entry, values by hand, and the formulas as their sources print them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from msngan.losses import LOSSES, LossName

every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
Half = Callable[[Tensor, Tensor], Tensor]

# Scores of two real and two fake images, and what each half gives for them, worked out by hand.
REAL, FAKE = (0.0, 3.0), (0.0, -2.0)
E2, E3, E5 = math.exp(-2), math.exp(-3), math.exp(-5)
LOG = math.log
VALUES = {
    # (1 + 0) / 2 + (1 + 0) / 2; -(0 - 2) / 2
    "hinge": (1.0, 1.0),
    # -1 - 1.5
    "wasserstein": (-2.5, 1.0),
    "nonsaturating": (
        (LOG(2) + LOG(1 + E3)) / 2 + (LOG(2) + LOG(1 + E2)) / 2,
        (LOG(2) + LOG(1 + math.exp(2))) / 2,
    ),
    "minimax": (
        (LOG(2) + LOG(1 + E3)) / 2 + (LOG(2) + LOG(1 + E2)) / 2,
        -(LOG(2) + LOG(1 + E2)) / 2,
    ),
    # (1 + 4) / 4 + (0 + 4) / 4; (1 + 9) / 4
    "least_squares": (2.25, 2.5),
    # pairs (0, 0) and (3, -2)
    "relativistic_paired": ((LOG(2) + LOG(1 + E5)) / 2, (LOG(2) + LOG(1 + math.exp(5))) / 2),
}


def scores(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def slopes(half: Half, real: float, fake: float) -> tuple[float, float]:
    """The derivative of one half for one real and one fake score."""
    logits = scores(real), scores(fake)
    gradients = torch.autograd.grad(half(*logits), logits, materialize_grads=True)
    return gradients[0].item(), gradients[1].item()


def test_the_type_of_names_lists_the_table() -> None:
    assert get_args(LossName) == tuple(LOSSES)


@every_loss
@pytest.mark.parametrize(("real", "fake"), [(0.0, 0.1), (0.5, 0.5), (-0.9, 0.9), (0.9, 0.2)])
def test_critic_pushes_real_up_and_fake_down_and_generator_pushes_fake_up(
    name: str, real: float, fake: float
) -> None:
    real_slope, fake_slope = slopes(LOSSES[name].critic, real, fake)
    assert real_slope < 0 < fake_slope
    assert slopes(LOSSES[name].generator, real, fake)[1] < 0


@every_loss
def test_only_a_paired_loss_reads_real_scores_in_the_generator_s_half(name: str) -> None:
    loss, fake = LOSSES[name], scores(*FAKE)
    changed = loss.generator(scores(7.0, 8.0), fake) != loss.generator(scores(*REAL), fake)
    assert changed.item() == loss.paired


@every_loss
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    critic, generator = VALUES[name]
    loss = LOSSES[name]
    for half, expected in ((loss.critic, critic), (loss.generator, generator)):
        value = half(scores(*REAL), scores(*FAKE))
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_the_batch_is_averaged_not_summed(name: str) -> None:
    loss = LOSSES[name]
    real, fake = scores(*REAL), scores(*FAKE)
    for half in (loss.critic, loss.generator):
        torch.testing.assert_close(half(real.repeat(3), fake.repeat(3)), half(real, fake))


@every_loss
def test_scores_far_out_give_finite_values_and_gradients(name: str) -> None:
    for real, fake in ((1e4, -1e4), (-1e4, 1e4)):
        for half in (LOSSES[name].critic, LOSSES[name].generator):
            logits = torch.tensor([real], requires_grad=True), torch.tensor([fake])
            value = half(*logits)
            assert value.isfinite()
            if value.requires_grad:
                value.backward()
                assert logits[0].grad.isfinite().all()


def test_minimax_and_nonsaturating_are_logarithms_of_sigmoids() -> None:
    real, fake = scores(-1.3, 0.2, 4.0), scores(0.7, -2.2, 1.1)
    s = torch.sigmoid
    critic = -(s(real).log().mean() + (1 - s(fake)).log().mean())
    for name in ("minimax", "nonsaturating"):
        torch.testing.assert_close(LOSSES[name].critic(real, fake), critic)
    minimax = LOSSES["minimax"].generator(real, fake)
    torch.testing.assert_close(minimax, (1 - s(fake)).log().mean())
    torch.testing.assert_close(LOSSES["nonsaturating"].generator(real, fake), -s(fake).log().mean())


def test_the_minimax_generator_saturates_and_the_other_does_not() -> None:
    assert abs(slopes(LOSSES["minimax"].generator, 0.0, -10.0)[1]) < 1e-4
    assert slopes(LOSSES["nonsaturating"].generator, 0.0, -10.0)[1] == pytest.approx(-1, abs=1e-4)


def test_hinge_leaves_scores_beyond_the_margin_alone() -> None:
    assert slopes(LOSSES["hinge"].critic, 1.5, -1.5) == (0, 0)
    assert slopes(LOSSES["hinge"].critic, 0.5, -0.5) == (-1, 1)


@pytest.mark.parametrize("name", ["wasserstein", "relativistic_paired"])
def test_a_constant_added_to_all_scores_does_not_count_for_the_critic(name: str) -> None:
    real, fake = scores(*REAL), scores(*FAKE)
    loss = LOSSES[name]
    torch.testing.assert_close(loss.critic(real + 9, fake + 9), loss.critic(real, fake))
    if loss.paired:
        torch.testing.assert_close(loss.generator(real + 9, fake + 9), loss.generator(real, fake))


def test_the_relativistic_loss_compares_each_real_score_with_its_own_fake_one() -> None:
    loss = LOSSES["relativistic_paired"]
    real, fake = scores(0.0, 3.0), scores(0.0, -2.0)
    assert loss.critic(real, fake) != loss.critic(real, fake.flip(0))
    torch.testing.assert_close(loss.critic(real, fake), loss.critic(real.flip(0), fake.flip(0)))
    torch.testing.assert_close(loss.critic(real, fake), loss.generator(fake, real))
    with pytest.raises(RuntimeError, match="size"):
        loss.critic(scores(1.0, 2.0, 3.0), fake)
