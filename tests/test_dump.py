"""A run that diverged leaves what the step held, under a name that nothing goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classifier_runs import TINY_CLASSIFIER
from torch import Tensor

from msngan.classifier import Classifier
from msngan.gan import GAN
from msngan.runs.folder import Run as Place

Run = Callable[..., int]
Tiny = Callable[..., Path]


@pytest.fixture
def poisoned_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`poisoned_from(step, network)`: a NaN in the network's first weight before that step."""

    def poison(step: int, network: str = "critic") -> None:
        train = GAN.training_step

        def poisoned(self: GAN, batch: Tensor, batch_idx: int) -> Any:
            if self.trainer.global_step == step:
                with torch.no_grad():
                    next(getattr(self, network).parameters()).fill_(float("nan"))
            return train(self, batch, batch_idx)

        monkeypatch.setattr(GAN, "training_step", poisoned)

    return poison


@pytest.mark.quick
@pytest.mark.parametrize("network", ["critic", "generator"])
def test_a_nan_stops_the_run_and_leaves_its_checkpoints_and_a_dump(
    tiny: Tiny,
    run: Run,
    poisoned_from: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    network: str,
) -> None:
    folder = tiny("mine", "--steps", "2", "--checkpoint.every", "1")
    names = ("last.ckpt", "previous.ckpt")
    before = [(folder / name).read_bytes() for name in names]
    poisoned_from(4, network)
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


def test_a_run_keeps_one_dump_and_nothing_goes_on_from_it(
    tiny: Tiny, run: Run, poisoned_from: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny("mine", "--steps", "2")
    poisoned_from(4)
    assert run("resume", "mine", "--steps", "9") == 1
    poisoned_from(3)
    assert run("resume", "mine", "--steps", "9") == 1
    assert [each.name for each in folder.glob("diverged*")] == ["diverged-00000004.ckpt"]
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).unlink(missing_ok=True)
    assert Place("mine").newest is None
    capfd.readouterr()
    dump = str(folder / "diverged-00000004.ckpt")
    assert run("sample", dump) == 2
    assert "is not a msngan checkpoint" in capfd.readouterr().err


def test_a_dump_that_cannot_be_written_hides_nothing(
    tiny: Tiny,
    run: Run,
    poisoned_from: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tiny("mine", "--steps", "2")
    poisoned_from(4)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msngan.training.callbacks.anomaly.torch.save", full)
    assert run("resume", "mine", "--steps", "9", "--checkpoint.every", "0") == 1
    shown = capfd.readouterr().err.strip().splitlines()[-1]
    assert "diverged at step 5: critic_loss nan" in shown
    assert "diverged-00000005.ckpt could not be written: No space left on device" in shown
    assert not list(Place("mine").folder.glob("*diverged*"))


def test_a_classifier_leaves_one_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Classifier.training_step

    def poisoned(self: Classifier, batch: Any, batch_idx: int) -> Any:
        return train(self, (batch[0] * float("nan"), batch[1]), batch_idx)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    assert run("fit", *TINY_CLASSIFIER, "--run", "mine") == 1
    held = torch.load("checkpoints/mine/diverged-00000001.ckpt", weights_only=True)
    assert [part.dim() for part in held["batch"]] == [4, 1]
    assert held["diverged"]["figures"]["loss"] != held["diverged"]["figures"]["loss"]
