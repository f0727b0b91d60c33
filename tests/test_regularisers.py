"""Penalties of logits, lazy penalties, and every penalty of a conditional critic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import COUPLED
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from msngan.gan import GAN
from msngan.losses import PENALTIES, ScoredBatch, consistency, lecam, track_logits
from msngan.losses.regularisers import disturbed
from msngan.runs.folder import UserError

SMALL: dict[str, Any] = {"width": 2, "latent_dim": 4, "size": 8, "channels": 1}
TERMS = sorted(name for name, each in PENALTIES.items() if each.is_term)
BATCH = 6


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scored(real: list[float], fake: list[float], **given: Any) -> ScoredBatch:
    logits = [torch.tensor(each, requires_grad=True) for each in (real, fake)]
    images = torch.rand(2, len(real), 1, 8, 8)
    other = {"critic": nn.Identity(), "again": lambda *_: logits, "draw": draw()}
    return ScoredBatch(
        real=images[0],
        fake=images[1],
        real_logits=logits[0],
        fake_logits=logits[1],
        **other | given,
    )


def fitted(gan: GAN, steps: int = 1) -> list[dict[str, float]]:
    """The figures of each step of a GAN under a plain Trainer, on images with labels 0, 1, 2."""
    count, found = BATCH * gan.options.critic_steps, []
    images, labels = torch.rand(count * steps, 1, 8, 8) * 2 - 1, torch.arange(count * steps) % 3
    original = gan.to_loggers
    gan.to_loggers = lambda f: (found.append({k: float(v) for k, v in f.items()}), original(f))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(**quiet, enable_model_summary=False, accelerator="cpu", max_epochs=1)
    trainer.fit(gan, DataLoader(TensorDataset(images, labels), count))
    return found


def test_consistency_is_the_squared_distance_worked_out_by_hand():
    seen: list[Tensor] = []

    def again(*images: Tensor) -> list[Tensor]:
        seen.extend(images)
        return [torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])]

    update = scored([1.0, 2.0], [0.0, -1.0], again=again)
    value = consistency(update)
    assert value.item() == (1 + 4) / 2 + (1 + 4) / 2
    value.backward()
    assert update.real_logits.grad.tolist() == [1, -2]
    assert update.fake_logits.grad.tolist() == [-1, -2]
    assert [each.shape for each in seen] == [update.real.shape, update.fake.shape]
    assert not any(map(torch.equal, seen, (update.real, update.fake)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_image_is_mirrored_or_not_and_moved_with_its_edge_repeated(layout):
    images = torch.rand(300, 2, 8, 8).contiguous(memory_format=layout)
    made, counts = disturbed(images, draw()), torch.zeros(18)
    assert made.is_contiguous(memory_format=layout)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    views = [
        padded[..., row : row + 8, column : column + 8] for row in range(3) for column in range(3)
    ]
    same = torch.stack([(made == x).all((1, 2, 3)) for view in views for x in (view, view.flip(3))])
    assert (same.sum(0) == 1).all()
    counts = same.sum(1)
    assert counts.min() > 5  # of 300 / 18 = 17 on average


def test_lecam_is_worked_out_by_hand_and_begins_with_means():
    critic = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="needs a prepared critic"):
        lecam(scored([1.0], [1.0], critic=critic))
    track_logits(critic)
    # Means 2 and -1.5: (2.5^2 + 4.5^2) / 2 + (3^2 + 4^2) / 2
    first = scored([1.0, 3.0], [-1.0, -2.0], critic=critic)
    value = lecam(first)
    assert value.item() == pytest.approx(25.75)
    value.backward()
    assert first.real_logits.grad.tolist() == pytest.approx([2.5, 4.5])
    assert first.fake_logits.grad.tolist() == pytest.approx([-3.0, -4.0])
    # Of 0.99 * 0.01 * mean + 0.01 * 0, divided by 0.99 * 0.01 + 0.01.
    share = 0.99 / 1.99
    value = lecam(scored([0.0], [0.0], critic=critic))
    assert value.item() == pytest.approx((1.5 * share) ** 2 + (2 * share) ** 2)
    assert critic.state_dict()["lecam_averages"].tolist() == pytest.approx(
        [0.0198, -0.01485, 0.0199]
    )


@pytest.mark.quick
def test_a_lazy_penalty_is_taken_at_every_nth_update_with_n_times_its_weight(monkeypatch):
    totals: list[float] = []
    backward = GAN.manual_backward
    monkeypatch.setattr(
        GAN,
        "manual_backward",
        lambda self, loss: (totals.append(loss.item()), backward(self, loss)),
    )
    lazy = {"penalty": ["r1", "lecam"], "penalty_weight": [5e6, 5e6], "penalty_every": [2, 3]}
    found = fitted(GAN(**SMALL, norm="spectral", **lazy), steps=6)
    for step, (figures, total) in enumerate(zip(found, totals[::2], strict=True), 1):
        due = {name: figures.get(f"penalty_{name}") for name in ("r1", "lecam")}
        assert [value is not None for value in due.values()] == [step % 2 == 0, step % 3 == 0]
        terms = 2 * 5e6 * (due["r1"] or 0) + 3 * 5e6 * (due["lecam"] or 0)
        assert total == pytest.approx(figures["critic_loss"] + terms, rel=1e-5)
        assert terms == 0 or terms > 0.1
    assert found[5]["penalty_r1"] > 0 < found[5]["penalty_lecam"]
    found = fitted(GAN(**SMALL, penalty="r1", penalty_every=3, critic_steps=2), steps=3)
    assert ["penalty" in figures for figures in found] == [False, False, True]


@pytest.mark.parametrize("batches", ["separate", "joint"])
@pytest.mark.parametrize("norm", sorted(COUPLED & {"batch", "mean_spectral"}))
def test_consistency_scores_as_the_update_does_and_moves_no_statistics(norm, batches):
    states = []
    for penalty in ("none", "consistency"):
        torch.manual_seed(0)
        gan = GAN(**SMALL, norm=norm, critic_batch=batches, penalty=penalty, critic_lr=1e-30)
        sizes: list[int] = []
        gan.critic.register_forward_pre_hook(lambda _, given, s=sizes: s.append(len(given[0])))
        fitted(gan, steps=2)
        critic = gan.critic.state_dict()
        states.append({k: v for k, v in critic.items() if "running" in k or "tracked" in k})
    torch.testing.assert_close(*states)
    joint = batches == "joint"
    assert sizes == 2 * ([2 * BATCH] * 3 if joint else [BATCH] * 5)


@pytest.mark.parametrize("conditioning", ["projection", "acgan"])
@pytest.mark.parametrize("penalty", TERMS)
def test_every_penalty_scores_with_the_labels_of_its_images(penalty, conditioning):
    gan = GAN(
        **SMALL,
        norm="batch",
        conditional=True,
        classes=3,
        conditioning=conditioning,
        penalty=penalty,
    )
    seen: list[tuple[int, Tensor]] = []
    gan.critic.register_forward_pre_hook(lambda _, given: seen.append((len(given[0]), given[1])))
    (figures,) = fitted(gan)
    assert figures["penalty"] >= 0
    expected = torch.arange(BATCH) % 3
    own = {"consistency": 2, "lecam": 0, "spectral_penalty": 0}.get(penalty, 1)
    assert len(seen) == 3 + own
    for count, labels in seen:
        assert torch.equal(labels, expected.repeat(count // BATCH))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": ["r1", "r2"], "penalty_every": [2]}, r"penalty_every \[2\] does not fit"),
        ({"penalty": "r1", "penalty_every": 0}, "--model.penalty_every 0 is less than 1"),
        ({"penalty": "clip", "penalty_every": 2}, "every 2 with --model.penalty clip: it is no"),
    ],
    ids=str,
)
def test_what_cannot_be_lazy_is_one_line(options, words):
    with pytest.raises(UserError, match=words):
        GAN(**SMALL | {"norm": "none"} | options)
    GAN(**SMALL, norm="none", penalty=["r1", "clip"], penalty_every=[16, 1])


def test_penalties_of_logits_go_with_compiled_networks(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    gan = GAN(**SMALL, penalty=["consistency", "lecam"], compile=True)
    assert [weight for _, _, weight in gan.penalties] == [10.0, 0.3]
