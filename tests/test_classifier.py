"""A classifier trains, records, stops and resumes as a GAN does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from classifier_runs import TINY_CLASSIFIER, Fit, fitter
from conftest import same_bits, weights
from torch.nn import functional as F

from msngan.__main__ import main
from msngan.classifier import Classifier
from msngan.data import LabelledData
from msngan.runs import rng
from msngan.runs.jsonl import read_lines

Run = Callable[..., int]


@pytest.fixture
def fit(run: Run) -> Fit:
    return fitter(run)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the run `mine`, of two epochs, trained once for the tests that only read."""
    root = tmp_path_factory.mktemp("once")
    words = ["--run", "mine", "--root", str(root), "--epochs", "2", "--records.every", "1"]
    assert main(["fit", *TINY_CLASSIFIER, *words]) == 0
    return root


@pytest.fixture
def mine(once: Path, run: Run, tmp_path: Path) -> Path:
    """The folder of a copy of `mine`, to be changed at will."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return Path("checkpoints") / "mine"


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of accuracy.jsonl, without what depends on the clock and the run's name."""
    found = read_lines(folder / "accuracy.jsonl")
    return [{k: v for k, v in each.items() if k not in ("seconds", "run")} for each in found]


def curves(folder: Path) -> list[dict[str, Any]]:
    found = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in each.items() if k != "steps_per_second"} for each in found]


SMALL = ["--data.size", "32", "--model.width", "4", "--model.lr_decay", "cosine"]


@pytest.mark.parametrize(
    "options",
    [  # one norm of each kind, and each network; dropout and gates draw from the global stream
        ["--model.norm", "batch"],
        ["--model.norm", "mean_spectral"],
        ["--model.norm", "optional_spectral"],
        ["--model.network", "vgg7", *SMALL[:2], "--model.width", "1"],
        ["--model.network", "densenet_bc", *SMALL, "--model.norm", "batch", "--model.depth", "2"],
        ["--model.network", "resnet18", *SMALL, "--model.norm", "batch"],
    ],
    ids=lambda options: options[1],
)
def test_a_stopped_and_resumed_classifier_ends_in_the_same_bits_and_records(
    fit: Fit, run: Run, options: list[str]
) -> None:
    steps = "16" if options[0] == "--model.norm" else "4"
    options = [*options, "--data.crop", "1", "--data.mirror", "true", "--steps", steps]
    options += ["--model.dropout", "0.2"]
    whole = fit("whole", *options)
    parts = fit("parts", *options, "--checkpoint.every", "7" if steps == "16" else "3")
    for name in ("last", "best"):
        (parts / f"{name}.ckpt").unlink()
    # of step 14, in the third epoch; of the networks, 3
    (parts / "previous.ckpt").rename(parts / "last.ckpt")
    assert run("resume", "parts") == 0
    assert same_bits(weights(whole), weights(parts))
    assert lines(whole) == lines(parts)
    assert curves(whole) == curves(parts)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_resume_exactly(fit: Fit, run: Run, precision: str) -> None:
    options = ["--trainer.precision", precision, "--model.weight_decay", "0.01"]
    whole = fit("whole", *options, "--steps", "9")
    parts = fit("parts", *options, "--steps", "4")
    assert run("resume", "parts", "--steps", "9") == 0
    assert same_bits(weights(whole), weights(parts))


def test_the_config_is_enough_to_train_a_run_again_and_another_seed_gives_other_weights(
    mine: Path, run: Run
) -> None:
    config = yaml.safe_load((mine / "config.yaml").read_text())
    assert config["task"] == "classifier"
    again = ["fit", "--config", str(mine / "config.yaml")]
    assert run(*again, "--run", "again") == 0
    assert run(*again, "--run", "other", "--seed", "1") == 0
    first, same, other = (
        weights(Path("checkpoints") / name) for name in ("mine", "again", "other")
    )
    assert same_bits(first, same)
    assert not torch.equal(first["network.head.weight"], other["network.head.weight"])


def test_one_step_is_adam_s_on_the_mean_cross_entropy(fit: Fit) -> None:
    folder = fit("one", "--model.norm", "none", "--steps", "1")
    options = torch.load(folder / "last.ckpt", weights_only=True)["hyper_parameters"]
    start = Classifier(**options)
    data = LabelledData("digits", size=8, batch_size=8, validation=16, limit=64)
    order = torch.randperm(48, generator=rng.generator(0, 0, 0, "order"))[:8]
    part = data.images_of("train")
    logits = start.network(data.prepared(part.images[order]))
    F.cross_entropy(logits, part.labels[order]).backward()
    trained = weights(folder)
    for name, parameter in start.network.named_parameters():
        gradient = parameter.grad
        wanted = parameter - 1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(trained[f"network.{name}"], wanted, rtol=0, atol=1e-5)


@pytest.mark.quick
def test_an_epoch_s_line_holds_what_the_saved_network_gets_right(mine: Path) -> None:
    first, last = read_lines(mine / "accuracy.jsonl")
    assert (first["step"], last["step"]) == (6, 12)
    assert (first["epoch"], last["epoch"]) == (1.0, 2.0)
    checkpoint = torch.load(mine / "last.ckpt", weights_only=True)
    module = Classifier(**checkpoint["hyper_parameters"])
    module.load_state_dict(checkpoint["state_dict"])
    module.network.eval()
    data = LabelledData("digits", size=8, batch_size=8, validation=16, limit=64, test_limit=150)
    for part in ("validation", "test"):
        images = data.images_of(part)
        with torch.no_grad():
            logits = module.network(data.prepared(images.images))
        right = logits.argmax(1) == images.labels
        assert last[f"{part}_accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-9)
        loss = F.cross_entropy(logits, images.labels).item()
        assert last[f"{part}_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["test_right"] == [int(right[:100].sum()), int(right[100:].sum())]
    steps = read_lines(mine / "metrics.jsonl")
    for index, line in enumerate((first, last)):  # training figures are means of its batches
        inside = steps[6 * index : 6 * index + 6]
        mean = sum(each["loss"] for each in inside) / 6
        assert line["train_loss"] == pytest.approx(mean, rel=1e-5)
        right = sum(each["accuracy"] for each in inside) / 6
        assert line["train_accuracy"] == pytest.approx(right, rel=1e-6)


def test_the_best_checkpoint_is_of_the_first_epoch_with_the_best_validation_accuracy(
    fit: Fit,
) -> None:
    folder = fit("mine", "--epochs", "6")
    found = read_lines(folder / "accuracy.jsonl")
    best = max(found, key=lambda line: (line["validation_accuracy"], -line["step"]))
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)["msngan"]
    assert checkpoint["step"] == best["step"]
    value = best["validation_accuracy"]
    assert checkpoint["best"] == {"score": "validation_accuracy", "value": value}
    assert checkpoint["task"] == "classifier"


def test_measuring_less_often_leaves_weights_and_an_epoch_s_own_figures_as_they_are(
    mine: Path, fit: Fit
) -> None:
    seldom = fit("seldom", "--epochs", "2", "--accuracy.every", "2")
    assert same_bits(weights(mine), weights(seldom))
    (line,) = read_lines(seldom / "accuracy.jsonl")
    for name in ("epoch", "train_loss", "train_accuracy", "test_loss"):
        assert line[name] == read_lines(mine / "accuracy.jsonl")[1][name]


def test_a_run_says_how_it_ended_also_after_a_kill_before_its_result(
    mine: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((mine / "result.json").read_text())
    assert (result["status"], result["step"], result["reason"]) == ("done", 12, None)
    (mine / "result.json").unlink()
    before = weights(mine)
    capsys.readouterr()
    assert run("resume", "mine") == 0
    assert "already done all of its 12 steps" in capsys.readouterr().err
    assert json.loads((mine / "result.json").read_text())["status"] == "done"
    assert same_bits(before, weights(mine))
    assert run("resume", "mine") == 2  # it is done, and nothing more was asked for
    assert run("resume", "mine", "--steps", "14", "--model.lr", "1e30") in (0, 1)
    assert json.loads((mine / "result.json").read_text())["step"] != 12
    assert run("fit", *TINY_CLASSIFIER, "--run", "wild", "--model.lr", "1e30") == 1
    result = json.loads(Path("checkpoints/wild/result.json").read_text())
    assert result["status"] == "diverged"
    assert "training diverged at step" in result["reason"]


def test_weight_decay_pulls_weights_and_leaves_biases_and_offsets() -> None:
    module = Classifier(network="cnn3", channels=1, size=8, weight_decay=0.1)
    decayed, others = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in others["params"]} == {1}


def test_an_interrupted_epoch_s_figures_hold_all_of_it(mine: Path, fit: Fit, run: Run) -> None:
    parts = fit("parts", "--steps", "8")
    assert run("resume", "parts", "--steps", "12") == 0
    assert [line for line in lines(parts) if line["step"] == 12] == [lines(mine)[-1]]


def test_what_needs_a_generator_refuses_a_classifier(
    mine: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("sample", "evaluate"):
        assert run(command, "mine") == 2
        shown = capsys.readouterr().err
        assert "is of a classifier" in shown
        assert shown.count("\n") == 1
    assert run("leaderboard") == 0
    assert "mine" not in capsys.readouterr().out


@pytest.mark.data
@pytest.mark.slow
def test_a_minute_on_the_real_digits_of_mnist_learns_them(fit: Fit) -> None:
    folder = fit(
        "mnist",
        *["--data.dataset", "mnist", "--data.size", "28", "--model.width", "8"],
        *["--data.limit", "6000", "--data.validation", "1000", "--data.batch_size", "100"],
        *["--data.test_limit", "1000", "--epochs", "2", "--model.lr", "0.003"],
    )
    assert read_lines(folder / "accuracy.jsonl")[-1]["test_accuracy"] > 0.9


# ---- what is wrong with a classifier's options is one line, before anything is written ----

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
DONE = [
    (["--epochs", "2"], ["done 12 steps", "--epochs 2"]),
    (["--steps", "5"], ["done 12 steps", "--steps says 5"]),
    (["--model.norm", "batch"], ["mean_spectral", "batch"]),
    (["--model.network", "resnet18", "--epochs", "3"], ["network", "resnet18"]),
    (["--data.size", "16", "--epochs", "3"], ["size"]),
]


def test_a_wrong_option_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, words in WRONG:
        assert run("fit", *TINY_CLASSIFIER, *options) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1, shown
        assert shown.startswith("msngan: error: ")
        assert all(word in shown for word in words), (words, shown)
        assert not (tmp_path / "checkpoints").exists()


def test_a_resume_or_a_start_that_cannot_be_is_one_line_and_changes_nothing(
    mine: Path, trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    gan = str(trained / "checkpoints/mine/last.ckpt")
    cases = [(["resume", "mine", *options], words) for options, words in DONE]
    start = ["fit", "--config", "digits_msn", "--ckpt_path", str(mine / "last.ckpt")]
    cases.append((start, ["is of a classifier, the config trains a gan"]))
    start = ["fit", *TINY_CLASSIFIER, "--ckpt_path", gan]
    cases.append((start, ["is of a gan, the config trains a classifier"]))
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    for command, words in cases:
        assert run(*command) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1, shown
        assert all(word in shown for word in words), (words, shown)
    assert before == {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
