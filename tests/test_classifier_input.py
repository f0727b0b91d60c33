"""What is wrong with a classifier's options is one line, found before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from classifier_runs import TINY_CLASSIFIER, Fit, fitter

Run = Callable[..., int]


@pytest.fixture
def fit(run: Run) -> Fit:
    return fitter(run)


WRONG = [
    (["--model.network", "vgg7"], ["vgg7", "32 pixels", "8"]),
    (["--model.norm_options.gian", "true"], ["gian", "did you mean 'gain'"]),
    (["--model.norm_layers", "[9]"], ["no layer 9"]),
    (["--model.other_norm", "batch"], ["other_norm"]),
    (["--model.as_released", "true", "--model.norm", "layer"], ["layer", "batch"]),
    (["--data.dataset", "folder"], ["folder", "labels"]),
    (["--data.validation", "60"], ["--data.validation 60", "batch of 8"]),
    (["--data.mean", "[0.1, 0.2]"], ["--data.mean", "1 channels"]),
    (["--data.batch_size", "49"], ["batch"]),
    (["--trainer.devices", "2"], ["torchrun"]),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda x: " ".join(x)[:40])
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    run: Run, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *TINY_CLASSIFIER, *options) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1, shown
    assert shown.startswith("msngan: error: ")
    for word in words:
        assert word in shown
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "1"], ["done 6 steps", "--epochs 1"]),
        (["--steps", "5"], ["done 6 steps", "--steps says 5"]),
        (["--model.norm", "batch"], ["mean_spectral", "batch"]),
        (["--model.network", "resnet18", "--epochs", "2"], ["network", "resnet18"]),
        (["--data.size", "16", "--epochs", "2"], ["size"]),
    ],
    ids=lambda x: " ".join(x)[:40],
)
def test_a_resume_that_cannot_be_is_one_line_and_changes_nothing(
    fit: Fit, run: Run, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit("mine", "--epochs", "1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run("resume", "mine", *options) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1, shown
    for word in words:
        assert word in shown
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_gan_s_checkpoint_does_not_start_a_classifier_nor_the_reverse(
    fit: Fit, run: Run, tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gan, classifier = tiny("gan", "--steps", "1"), fit("classifier", "--steps", "1")
    capsys.readouterr()
    start = ["--ckpt_path", str(gan / "last.ckpt")]
    assert run("fit", *TINY_CLASSIFIER, *start) == 2
    assert "is of a gan, the config trains a classifier" in capsys.readouterr().err
    start = ["--ckpt_path", str(classifier / "last.ckpt")]
    assert run("fit", "--config", "digits_msn", *start) == 2
    assert "is of a classifier, the config trains a gan" in capsys.readouterr().err


def test_the_help_of_each_task_names_the_other_s(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--help") == 0
    gan = capsys.readouterr().out
    assert "--task classifier --help" in " ".join(gan.split())
    assert "--model.loss" in gan
    assert run("fit", "--task", "classifier", "--help") == 0
    classifier = capsys.readouterr().out
    assert "--model.network" in classifier
    assert "--model.loss" not in classifier
