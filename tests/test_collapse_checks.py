"""Collapse checks: a critic or generator that stops working is reported once, others never."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, Patch, Shown
from torch import Tensor

from msngan.gan import GAN
from msngan.losses import LOSSES
from msngan.training.callbacks import collapse_checks as health

SOUND: dict[str, Any] = {"critic_loss": 1.2, "fixed_loss": 2.0, "blank_loss": 2.0}
SOUND |= {"real_logit": 0.1, "fake_logit": -0.2, "logit_spread": 0.4, "sample_distance": 0.9}
SOUND |= {"generator_gradient": 1e-3, "growth": 1.5, "grown": "sigma of critic.head.weight"}
FAULTS: dict[str, dict[str, Any]] = {
    "does not tell images apart": {"logit_spread": 0.0, "critic_loss": 2.0},
    "the critic has won": {"critic_loss": 1e-6, "fixed_loss": 3.0},
    "learns nothing": {"generator_gradient": 0.0},
    "makes one image": {"sample_distance": 1e-3},
    "sigma of critic.head.weight is 1e+03 times": {"growth": 1000.0},
}


def lines(*faults: dict[str, Any], start: int = 1000) -> list[health.Line]:
    return [{"step": start + 10 * at, **SOUND, **fault} for at, fault in enumerate(faults)]


@pytest.mark.quick
@pytest.mark.parametrize(("words", "fault"), FAULTS.items())
def test_three_checks_in_a_row_make_one_warning(words, fault):
    seen = lines({}, fault, fault, {}, fault, fault, fault, fault, {}, fault, {}, {}, {})
    found = list(health.found(seen))
    assert [step for step, _ in found] == [1060]
    assert words in found[0][1]
    assert "at step 1060" in found[0][1]
    assert "; try " in found[0][1]
    assert health.warnings(seen[:7]) == [found[0][1]]
    assert health.warnings(seen[:8]) == []


def test_a_fault_that_was_over_is_said_again():
    fault = FAULTS["makes one image"]
    seen = lines(*[fault] * 4, {}, {}, {}, *[fault] * 4)
    assert [step for step, _ in health.found(seen)] == [1020, 1090]


def test_a_start_is_near_nothing_and_no_fault():
    fault = FAULTS["makes one image"]
    assert not list(health.found(lines(*[fault] * 6, start=0)))
    assert list(health.found(lines({}, *[fault] * 6, start=0)))
    assert list(health.found(lines(*[fault] * 6, start=health.WARM_UP)))


@pytest.mark.parametrize("damage", [{"step": "x"}, {"critic_loss": None}, {"growth": "big"}])
def test_a_strange_line_is_no_fault(damage):
    assert not list(health.found([{**SOUND, **damage}] * 5 + [{}] * 5))


WATCH = ["--health.every", "2", "--steps", "8"]


@pytest.fixture
def from_the_start(monkeypatch: Patch) -> None:
    monkeypatch.setattr(health, "WARM_UP", 0)


def after_each_step(monkeypatch: Patch, spoil: Callable[[GAN], None]) -> None:
    train = GAN.training_step

    def spoiled(self: GAN, batch: Tensor, batch_idx: int) -> Any:
        figures = train(self, batch, batch_idx)
        with torch.no_grad():
            spoil(self)
        return figures

    monkeypatch.setattr(GAN, "training_step", spoiled)


def told(capfd: Shown) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.usefixtures("from_the_start")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_constant_critic_is_said_under_every_loss(tiny, loss, monkeypatch, capfd):
    after_each_step(monkeypatch, lambda gan: gan.critic.head.weight.zero_())  # type: ignore
    tiny("mine", *WATCH, "--model.norm", "none", "--model.loss", loss)
    critic = [line for line in told(capfd) if "the critic does not tell images apart" in line]
    assert len(critic) == 1
    assert "at step 6" in critic[0]
    assert "--model.critic_lr" in critic[0]


@pytest.mark.usefixtures("from_the_start")
def test_a_generator_that_makes_one_image_is_said_once_by_a_run_and_its_resume(
    tiny, run, monkeypatch, capfd
):
    after_each_step(monkeypatch, lambda gan: gan.generator.stem.weight.zero_())  # type: ignore
    words = "warning: the generator makes one image"
    whole = tiny("whole", *WATCH)
    assert sum(line.startswith(words) for line in told(capfd)) == 1
    tiny("mine", *WATCH, "--steps", "6")
    assert sum(line.startswith(words) for line in told(capfd)) == 1
    assert run("resume", "mine", *WATCH) == 0
    assert not told(capfd)
    records = [(folder / "health.jsonl").read_text() for folder in (whole, whole.parent / "mine")]
    assert records[0] == records[1]


def test_a_weight_that_explodes_is_said(tiny, capfd):
    tiny("mine", *WATCH, "--model.critic_lr", "50")
    (said,) = [line for line in told(capfd) if "times what it was before" in line]
    assert said.startswith("warning: sigma of critic.")
    assert "lower learning rate" in said


def test_a_critic_that_has_won_is_said(tiny, capfd):
    strong = ["--model.norm", "none", "--model.critic_lr", "0.02", "--model.generator_lr", "1e-9"]
    tiny("mine", *strong, "--steps", "60", "--health.every", "4", "--model.width", "8")
    assert any("the critic has won" in line for line in told(capfd))


def test_a_classifiers_weights_are_looked_at(classifier, capfd):
    classifier("mine", "--model.lr", "50", "--health.every", "1", "--epochs", "1")
    assert any(line.startswith("warning: sigma of network.") for line in told(capfd))


@pytest.mark.slow
def test_a_run_that_learns_is_told_nothing(run, capfd):
    sound = [*TINY, *QUIET, "--model.width", "4"]
    assert run("fit", *sound, "--steps", "120", "--health.every", "2", "--run", "mine") == 0
    assert not told(capfd)
    records = Path("checkpoints/mine/health.jsonl").read_text().splitlines()
    seen = [json.loads(line) for line in records]
    assert len(seen) == 60
    assert max(line["growth"] for line in seen) < health.GROWN / 10
