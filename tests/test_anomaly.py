"""--detect-anomaly names the layer that a NaN begins in, and changes no bit of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classifier_runs import TINY_CLASSIFIER
from conftest import QUIET, TINY, same_bits, weights
from torch import Tensor, nn

from msngan.gan import GAN
from msngan.runs.folder import Run as Place
from msngan.training.callbacks.anomaly import LayerWatch
from msngan.training.tasks import ClassifierTask, GanTask

Run = Callable[..., int]
Tiny = Callable[..., Path]
GAN_RUN = ["fit", *TINY, *QUIET, "--run", "mine"]
CLASSIFIER_RUN = ["fit", *TINY_CLASSIFIER, "--epochs", "1", "--run", "mine"]


class Root(nn.Module):
    """x, whose gradient is none: that of a root at zero is infinite, and zero times it is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 * x).sqrt()


class Poison(nn.Module):
    """NaN instead of x, in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan") if self.training else x


def put(monkeypatch: pytest.MonkeyPatch, kind: type[Any], place: str, layer: nn.Module) -> None:
    """Every new network has this layer at this place."""
    build = kind.build

    def built(self: Any) -> Any:
        module = build(self)
        above, _, own = place.rpartition(".")
        setattr(module.get_submodule(above), own, layer)
        return module

    monkeypatch.setattr(kind, "build", built)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (GanTask, "critic.body.3"),
        (GanTask, "generator.body.1"),
        (ClassifierTask, "network.body.1"),
    ],
)
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Poison, "(Poison) produced nan in the forward pass"),
        (Root, "(Root) produced a gradient of nan in the back"),
    ],
)
def test_the_layer_that_a_nan_begins_in_is_named(
    run: Run,
    kind: type[Any],
    place: str,
    layer: type[nn.Module],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    put(monkeypatch, kind, place, layer())
    options = GAN_RUN if kind is GanTask else CLASSIFIER_RUN
    assert run(*options, "--detect-anomaly") == 1
    *_, last = capfd.readouterr().err.strip().splitlines()
    assert last.startswith(f"msngan: error: training diverged at step 1: {place} {words}")
    assert "Try" in last
    assert "--model." in last


def test_a_weight_that_was_bad_before_is_said_in_fit_and_resume(
    tiny: Tiny, run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny("mine", "--steps", "2")
    step = GAN.training_step

    def poisoned(self: GAN, batch: Tensor, batch_idx: int) -> Any:
        if self.trainer.global_step == 3:
            with torch.no_grad():
                self.critic.get_parameter("body.4.weight")[0] = float("nan")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(GAN, "training_step", poisoned)
    capfd.readouterr()
    again = ("resume", "mine", "--steps", "6")
    assert run(*again, "--detect-anomaly") == 1
    shown = capfd.readouterr().err.strip().splitlines()[-1]
    assert "at step 4: critic.body.4 (NormConv2d) produced nan in the forward pass" in shown
    assert "its weight holds nan already" in shown
    assert "detect_anomaly: true" not in Place("mine").config.read_text()
    assert run(*again) == 1
    shown = capfd.readouterr().err
    assert "critic_loss nan" in shown
    assert "`msngan resume mine --detect-anomaly` names the layer" in shown
    assert run(*again, "--trainer.detect_anomaly", "true") == 1
    assert "critic.body.4 (NormConv2d) produced nan" in capfd.readouterr().err


def test_looking_changes_no_bit_of_a_gan(tiny: Tiny) -> None:
    options = ["--model.penalty", "gradient", "--trainer.precision", "bf16-mixed"]
    looked = tiny("looked", *options, "--detect-anomaly")
    assert same_bits(weights(looked), weights(tiny("not", *options)))


def test_looking_changes_no_bit_of_a_classifier(run: Run) -> None:
    assert run("fit", *TINY_CLASSIFIER, "--epochs", "1", "--run", "looked", "--detect-anomaly") == 0
    assert run("fit", *TINY_CLASSIFIER, "--epochs", "1", "--run", "not") == 0
    assert same_bits(weights(Path("checkpoints/looked")), weights(Path("checkpoints/not")))


def test_it_does_not_go_with_compiled_networks(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*GAN_RUN, "--detect-anomaly", "--model.compile", "true") == 2
    assert "--model.compile false" in capfd.readouterr().err
    assert not Path("checkpoints").exists()


def test_a_penalty_whose_second_derivative_is_none_is_named() -> None:
    found: list[str] = []
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        critic[0].bias.fill_(-9.0)  # all is dead: the slope is zero
    watch = LayerWatch({"critic": critic}, found.append)
    watch.active = True
    x = torch.randn(5, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    assert not found
    slope.square().sum(1).sqrt().mean().backward()
    assert found[0] == "a penalty on the gradient of critic.0 (Linear) produced a gradient of nan"


def test_the_loss_is_named_where_the_networks_are_sound() -> None:
    found: list[str] = []
    critic = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    watch = LayerWatch({"critic": critic}, found.append)
    watch.active = True
    (critic(torch.randn(5, 3)) * 0).sqrt().sum().backward()
    assert found[0] == "the loss behind critic produced a gradient of nan in the backward pass"
    watch.remove()
    found.clear()
    (critic(torch.randn(5, 3)) * 0).sqrt().sum().backward()
    assert not found
