"""DiffAugment: its operations, what of training sees them, and the adaptive probability."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import resumed_from_previous, same_bits, weights
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from msngan.gan import GAN
from msngan.losses import augment
from msngan.losses.augment import DRAWS, OPERATIONS, Augment, augmented, whole_number
from msngan.runs.folder import UserError
from msngan.runs.jsonl import read_lines

ALL = list(OPERATIONS)
SMALL: dict[str, Any] = {"width": 2, "latent_dim": 4, "size": 8, "channels": 1}
BATCH = 6


def images(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) * 2 - 1


def one_by_one(image: Tensor, draw: list[float], policy: list[str], probability: float) -> Tensor:
    """DiffAugment of one image (C, H, W), an operation and a pixel after the other."""
    if draw[0] >= probability:
        return image
    channels, height, width = image.shape
    if "color" in policy:
        image = image + (draw[1] - 0.5)
        pixel = image.mean(0, keepdim=True)
        image = pixel + 2 * draw[2] * (image - pixel)
        image = image.mean() + (draw[3] + 0.5) * (image - image.mean())
    if "translation" in policy:
        down, right = (
            int(d * (2 * s // 8 + 1)) - s // 8 for d, s in ((draw[4], height), (draw[5], width))
        )
        before, image = image, torch.zeros_like(image)
        for row in range(height):
            for column in range(width):
                if 0 <= row - down < height and 0 <= column - right < width:
                    image[:, row, column] = before[:, row - down, column - right]
    if "cutout" in policy:
        image = image.clone()
        top, left = (int(d * (height + 1)) - height // 4 for d in draw[6:8])
        for row in range(max(top, 0), min(top + height // 2, height)):
            image[:, row, max(left, 0) : max(left + width // 2, 0)] = 0
    return image


@pytest.mark.quick
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], ALL], ids=",".join)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_policy_is_that_of_one_image_at_a_time(policy, layout, channels):
    given = images(40, channels, 16, 16).contiguous(memory_format=layout)
    draws = torch.rand(40, DRAWS, dtype=torch.float64)
    made = augmented(given, draws, policy, 0.8)
    pairs = zip(given, draws.tolist(), strict=True)
    torch.testing.assert_close(made, torch.stack([one_by_one(*x, policy, 0.8) for x in pairs]))
    assert made.is_contiguous(memory_format=layout)
    assert torch.equal(augmented(given, draws, policy, 0.0), given)
    changed = (augmented(given, draws, policy) != given).any((1, 2, 3))
    assert changed.sum() > 30  # a shift may be by no pixel


@pytest.mark.parametrize("policy", [*([name] for name in ALL), ALL], ids=",".join)
def test_its_gradients_are_exact_of_the_first_and_the_second_order(policy):
    draws = torch.rand(3, DRAWS, dtype=torch.float64)
    given = images(3, 2, 8, 8).requires_grad_()

    def curved(x: Tensor) -> Tensor:
        return augmented(x, draws, policy).square()

    assert torch.autograd.gradcheck(curved, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(curved, given, fast_mode=True)


def test_whole_numbers_are_uniform_and_never_the_count():
    draws = torch.arange(9000) / 9000
    assert whole_number(draws, 9).bincount().tolist() == [1000] * 9
    largest = torch.tensor(1 - 2**-24)
    assert all(whole_number(largest, count) == count - 1 for count in range(1, 300))


def critic_inputs(**options: Any) -> tuple[Tensor, list[Tensor]]:
    """The real images of one step, and those of each pass of its critic."""
    real, seen = images(BATCH, 1, 8, 8).float(), []
    gan = GAN(norm="none", **SMALL | options)
    gan.critic.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    shown = {"enable_model_summary": False, "accelerator": "cpu", "max_steps": 1}
    Trainer(**quiet, **shown).fit(gan, DataLoader(real, BATCH))  # type: ignore[arg-type]
    return real, seen


def test_the_critic_scores_augmented_images_alone_and_a_penalty_the_same():
    policy = {"policy": ["cutout"]}
    real, seen = critic_inputs(augment=policy, penalty=["r1", "r2"])
    first, fake, of_r1, of_r2, again = seen
    assert torch.equal(first, of_r1)
    assert torch.equal(fake, of_r2)
    holes = [(each == 0).flatten(1).sum(1) for each in (first, fake, again)]
    assert all((hole >= 4).all() and (hole <= 16).all() for hole in holes)
    assert torch.equal(first[first != 0], real[first != 0])
    assert not torch.equal(first == 0, fake == 0)  # drawn independently
    real, seen = critic_inputs()
    assert torch.equal(seen[0], real)
    *_, later, fake = critic_inputs(loss="relativistic_paired", augment=policy)[1]
    assert ((later == 0).flatten(1).sum(1) >= 4).all()


def test_with_probability_0_a_run_is_the_one_without(tiny):
    plain = weights(tiny("plain", "--steps", "2"))
    none = ["--augment.policy", "color,translation,cutout", "--augment.probability"]
    assert same_bits(plain, weights(tiny("never", "--steps", "2", *none, "0")))
    assert not same_bits(plain, weights(tiny("often", "--steps", "2", *none, "0.5")))


def test_the_probability_adapts_as_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(augment, "RISE", 64)
    adaptive = Augment(["color"], probability=0.6, target=0.5)
    found = []
    # Of four logits a step, these are above the boundary, 0.5: one on it has no sign.
    for step, real in enumerate([[1, 1, 1, 1]] * 4 + [[1, 1, 1, 0]] * 4 + [[2, 2, 1, 0.5]] * 12):
        adaptive.observe(torch.tensor(real), 0.5)
        found.append(adaptive.adapt(step)["augment_probability"].item())
    # Mean signs 1, 1 / 2 and 3 / 4; a change is 16 / 64; the most is 0.6.
    steps = [0.0] * 3 + [0.25] * 8 + [0.5] * 4 + [0.6] * 5
    assert found == pytest.approx(steps)
    for step in range(20, 32):
        adaptive.observe(torch.tensor([-3.0] * 4), 0.5)
        adaptive.adapt(step)
    assert adaptive.p == 0
    assert set(adaptive.state_dict()) == {"p", "signs", "seen"}
    fixed = Augment(["color"])
    assert (fixed.adapt(3), fixed.state_dict()) == ({}, {})


def test_an_adaptive_run_is_resumed_exactly_and_its_probability_recorded(tiny, run, monkeypatch):
    monkeypatch.setattr(augment, "RISE", 80)
    options = ["--augment.policy", "color,translation,cutout", "--augment.target", "0"]
    options += ["--model.critic_lr", "0.01", "--records.every", "1"]
    # Step 6 is between two changes, after 4 and 8 steps.
    folder = tiny("whole", *options, "--steps", "10", "--checkpoint.every", "6")
    whole = weights(folder)
    rows = read_lines(folder / "metrics.jsonl")
    found = [row["augment_probability"] for row in rows]
    assert found == pytest.approx([0.0] * 3 + [found[3]] * 4 + [found[7]] * 3)
    assert abs(found[7] - found[3]) == pytest.approx(0.4)
    assert whole["augment.p"].item() == pytest.approx(found[-1])
    assert same_bits(whole, resumed_from_previous(folder, run))


def test_changes_of_the_augmentation_are_said_or_refused_by_resume(tiny, run, refused, capfd):
    tiny("mine", "--augment.policy", "color")
    capfd.readouterr()
    changed = ["--augment.policy", "color,cutout", "--augment.probability", "0.5"]
    assert run("resume", "mine", "--steps", "7", *changed) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    policy = "augment.policy: color -> ['color', 'cutout']"
    assert sorted(said) == [policy, "augment.probability: 1.0 -> 0.5", "steps: 6 -> 7"]
    line = refused("resume", "mine", "--steps", "8", "--augment.target", "0.6")
    assert "was trained with augment.target None, the config says 0.6" in line
    assert GAN.load_from_checkpoint("checkpoints/mine/last.ckpt").augment.limit == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"augment": {"policy": "colour"}}, "unknown value 'colour' .did you mean 'color'"),
        ({"augment": {"policy": ["color"], "p": 1}}, "augment=.*: unknown option 'p'.* policy, "),
        ({"augment": {"policy": ["color", "color"]}}, "give each operation once"),
        ({"augment": {"policy": ["color"], "probability": 1.5}}, "probability 1.5 is more than 1"),
        ({"augment": {"target": 0.6}}, "target without --augment.policy"),
        ({"augment": {"probability": 0.5}}, "probability without --augment.policy"),
        (
            {"augment": {"policy": ["color"], "target": 0.6}, "loss": "wasserstein"},
            "target with --model.loss wasserstein: the sign",
        ),
        ({"augment": 3}, "--model.augment: 3 is not a mapping"),
    ],
    ids=str,
)
def test_what_cannot_be_augmented_is_one_line(options, words):
    with pytest.raises(UserError, match=words):
        GAN(**SMALL | options)
    assert GAN(**SMALL, augment={"policy": None}).augment is None
