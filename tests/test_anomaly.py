"""A NaN leaves a dump of its step, and --detect-anomaly names the layer that it begins in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, TINY_CLASSIFIER, Patch, same_bits, weights
from torch import Tensor, nn

from msngan.gan import GAN
from msngan.runs.folder import Run as Place
from msngan.training.callbacks.anomaly import LayerWatch
from msngan.training.tasks import ClassifierTask, GanTask

Poisoned = Callable[..., None]
GAN_RUN = ["fit", *TINY, *QUIET, "--run", "mine"]
CLASSIFIER_RUN = ["fit", *TINY_CLASSIFIER, "--epochs", "1", "--run", "mine"]


@pytest.fixture
def poisoned_from(monkeypatch: Patch) -> Poisoned:
    """`poisoned_from(step, weight)`: a NaN in this weight before that step."""

    def poison(step: int, weight: str = "critic.body.0.weight") -> None:
        train = GAN.training_step

        def poisoned(self: GAN, batch: Tensor, batch_idx: int) -> Any:
            if self.trainer.global_step == step:
                with torch.no_grad():
                    self.get_parameter(weight).fill_(float("nan"))
            return train(self, batch, batch_idx)

        monkeypatch.setattr(GAN, "training_step", poisoned)

    return poison


@pytest.mark.quick
@pytest.mark.parametrize("weight", ["critic.body.0.weight", "generator.stem.weight"])
def test_a_nan_stops_the_run_and_leaves_its_checkpoints_and_a_dump(
    tiny, run, poisoned_from, capfd, weight
):
    folder = tiny("mine", "--steps", "2", "--checkpoint.every", "1")
    names = ("last.ckpt", "previous.ckpt")
    before = [(folder / name).read_bytes() for name in names]
    poisoned_from(4, weight)
    assert run("resume", "mine", "--steps", "9", "--checkpoint.every", "0") == 1
    path = folder / "diverged-00000005.ckpt"
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    said = shown.strip().splitlines()[-1]
    assert "diverged at step 5: " in said
    assert "_loss nan" in said
    assert "_lr" in said  # a remedy
    assert str(path) in said
    held = torch.load(path, weights_only=True)
    about = held["diverged"]
    assert (about["step"], about["seed"], about["rank"], about["run"]) == (5, 0, 0, "mine")
    assert about["figures"]["critic_loss"] != about["figures"]["critic_loss"]
    assert set(about["figures"]) >= {"critic_loss", "generator_loss", "real_logit"}
    assert held["batch"].shape == (8, 1, 8, 8)
    assert any(value.isnan().any() for value in held["state_dict"].values())
    assert len(held["optimizer_states"]) == 2
    assert held["hyper_parameters"]["width"] == 2
    assert [(folder / name).read_bytes() for name in names] == before
    assert Place("mine").newest == folder / "last.ckpt"


def test_a_run_keeps_one_dump_and_nothing_goes_on_from_it(tiny, run, poisoned_from, capfd):
    folder = tiny("mine", "--steps", "2")
    for step in (4, 3):
        poisoned_from(step)
        assert run("resume", "mine", "--steps", "9") == 1
    assert [each.name for each in folder.glob("diverged*")] == ["diverged-00000004.ckpt"]
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).unlink(missing_ok=True)
    assert Place("mine").newest is None
    capfd.readouterr()
    dump = str(folder / "diverged-00000004.ckpt")
    assert run("sample", dump) == 2
    assert "is not a msngan checkpoint" in capfd.readouterr().err


def test_a_dump_that_cannot_be_written_hides_nothing(tiny, run, poisoned_from, monkeypatch, capfd):
    tiny("mine", "--steps", "2")
    poisoned_from(4)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run("resume", "mine", "--steps", "9", "--checkpoint.every", "0") == 1
    shown = capfd.readouterr().err.strip().splitlines()[-1]
    assert "diverged at step 5: critic_loss nan" in shown
    assert "diverged-00000005.ckpt could not be written: No space left on device" in shown
    assert not list(Place("mine").folder.glob("*diverged*"))


class Root(nn.Module):
    """x, whose gradient is none: that of a root at zero is infinite, and zero times it is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 * x).sqrt()


class Poison(nn.Module):
    """NaN instead of x, in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan") if self.training else x


def put(monkeypatch: Patch, kind: type[Any], place: str, layer: nn.Module) -> None:
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
    [(GanTask, "critic.body.3"), (GanTask, "generator.body.1"), (ClassifierTask, "network.body.1")],
)
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Poison, "(Poison) produced nan in the forward pass"),
        (Root, "(Root) produced a gradient of nan in the back"),
    ],
)
def test_the_layer_that_a_nan_begins_in_is_named(
    run, kind, place, layer, words, monkeypatch, capfd
):
    put(monkeypatch, kind, place, layer())
    options = GAN_RUN if kind is GanTask else CLASSIFIER_RUN
    assert run(*options, "--detect-anomaly") == 1
    *_, last = capfd.readouterr().err.strip().splitlines()
    assert last.startswith(f"msngan: error: training diverged at step 1: {place} {words}")
    assert "Try" in last
    assert "--model." in last
    held = torch.load("checkpoints/mine/diverged-00000001.ckpt", weights_only=True)
    batch = held["batch"] if kind is ClassifierTask else [held["batch"]]
    assert [part.dim() for part in batch] == [4, 1][: len(batch)]


def test_a_weight_that_was_bad_before_is_said_in_fit_and_resume(tiny, run, poisoned_from, capfd):
    tiny("mine", "--steps", "2")
    poisoned_from(3, "critic.body.4.weight")
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


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("tiny", ["--model.penalty", "gradient", "--trainer.precision", "bf16-mixed"]),
        ("classifier", ["--epochs", "1"]),
    ],
)
def test_looking_and_checking_change_no_bit(request, task, options):
    fit = request.getfixturevalue(task)
    looked = fit("looked", *options, "--detect-anomaly", "--health.every", "1")
    unlooked = fit("not", *options, "--health.every", "0")
    assert same_bits(weights(looked), weights(unlooked))
    assert len((looked / "health.jsonl").read_text().splitlines()) == 6
    assert not (unlooked / "health.jsonl").exists()


def test_a_penalty_whose_second_derivative_is_none_is_named():
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


def test_the_loss_is_named_where_the_networks_are_sound():
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
