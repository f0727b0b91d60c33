"""A classifier trains, records, stops and resumes as a GAN does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from classifier_runs import TINY_CLASSIFIER, Fit, fitter
from conftest import same_bits, tiny, weights  # noqa: F401  a fixture
from torch.nn import functional as F

from msngan.classifier import Classifier
from msngan.data import LabelledData
from msngan.norms import NORMS
from msngan.runs.jsonl import read_lines

Run = Callable[..., int]


@pytest.fixture
def fit(run: Run) -> Fit:
    return fitter(run)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of accuracy.jsonl, without what depends on the clock and the run's name."""
    found = read_lines(folder / "accuracy.jsonl")
    return [{k: v for k, v in each.items() if k not in ("seconds", "run")} for each in found]


def curves(folder: Path) -> list[dict[str, Any]]:
    found = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in each.items() if k != "steps_per_second"} for each in found]


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_a_stopped_and_resumed_classifier_ends_in_the_same_bits_and_records(
    fit: Fit, run: Run, norm: str
) -> None:
    # Instance norm needs more than one value per channel, dropout draws from the global stream.
    options = ["--model.norm", norm, "--data.crop", "1", "--data.mirror", "true"]
    options += ["--model.dropout", "0.2"]
    whole = fit("whole", *options, "--steps", "16")
    parts = fit("parts", *options, "--steps", "16", "--checkpoint.every", "7")
    for name in ("last", "previous", "best"):
        (parts / f"{name}.ckpt").rename(parts / f"{name}.kept")
    (parts / "previous.kept").rename(parts / "last.ckpt")  # of step 14, in the third epoch
    assert run("resume", "parts") == 0
    assert same_bits(weights(whole), weights(parts))
    assert lines(whole) == lines(parts)
    assert curves(whole) == curves(parts)


@pytest.mark.parametrize("network", ["vgg7", "densenet_bc", "resnet18"])
def test_every_network_resumes_exactly(fit: Fit, run: Run, network: str) -> None:
    options = ["--model.network", network, "--data.size", "32", "--model.lr_decay", "cosine"]
    options += [] if network == "vgg7" else ["--model.width", "4", "--model.norm", "batch"]
    options += ["--model.depth", "2"] if network == "densenet_bc" else []
    whole = fit("whole", *options, "--steps", "4")
    parts = fit("parts", *options, "--steps", "4", "--checkpoint.every", "3")
    (parts / "last.ckpt").unlink()
    (parts / "previous.ckpt").rename(parts / "last.ckpt")
    assert run("resume", "parts") == 0
    assert same_bits(weights(whole), weights(parts))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_resume_exactly(fit: Fit, run: Run, precision: str) -> None:
    options = ["--trainer.precision", precision, "--model.weight_decay", "0.01"]
    whole = fit("whole", *options, "--steps", "9")
    parts = fit("parts", *options, "--steps", "4")
    assert run("resume", "parts", "--steps", "9") == 0
    assert same_bits(weights(whole), weights(parts))


def test_the_weights_of_two_seeds_differ_and_of_one_do_not(fit: Fit) -> None:
    a, b, c = (weights(fit(name, "--seed", seed)) for name, seed in zip("abc", "001", strict=True))
    assert same_bits(a, b)
    assert not torch.equal(a["network.head.weight"], c["network.head.weight"])


def test_one_step_is_adam_s_on_the_mean_cross_entropy(fit: Fit) -> None:
    folder = fit("one", "--model.norm", "none", "--steps", "1")
    options = torch.load(folder / "last.ckpt", weights_only=True)["hyper_parameters"]
    start = Classifier(**options)
    data = LabelledData("digits", size=8, batch_size=8, validation=16, limit=64)
    from msngan.runs import rng

    order = torch.randperm(48, generator=rng.generator(0, 0, 0, "order"))[:8]
    part = data.images_of("train")
    logits = start.network(data.prepared(part.images[order]))
    F.cross_entropy(logits, part.labels[order]).backward()
    trained = weights(folder)
    for name, parameter in start.network.named_parameters():
        gradient = parameter.grad
        wanted = parameter - 1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
        torch.testing.assert_close(trained[f"network.{name}"], wanted, rtol=0, atol=1e-5)


def test_an_epoch_s_line_holds_what_the_saved_network_gets_right(fit: Fit) -> None:
    folder = fit("mine", "--epochs", "2")
    first, last = read_lines(folder / "accuracy.jsonl")
    assert (first["step"], last["step"]) == (6, 12)
    assert (first["epoch"], last["epoch"]) == (1.0, 2.0)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
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


def test_the_epoch_s_training_figures_are_the_means_of_its_batches(fit: Fit) -> None:
    folder = fit("mine", "--epochs", "2", "--records.every", "1")
    steps = read_lines(folder / "metrics.jsonl")
    for index, line in enumerate(read_lines(folder / "accuracy.jsonl")):
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
    assert checkpoint["best"] == {
        "score": "validation_accuracy",
        "value": best["validation_accuracy"],
    }
    assert checkpoint["task"] == "classifier"


def test_measuring_less_often_leaves_the_weights_as_they_are(fit: Fit) -> None:
    often = weights(fit("often", "--epochs", "4", "--data.validation", "16"))
    seldom = fit("seldom", "--epochs", "4", "--accuracy.every", "3")
    changed = {
        name for name, value in weights(seldom).items() if not torch.equal(value, often[name])
    }
    assert not changed
    assert [line["epoch"] for line in read_lines(seldom / "accuracy.jsonl")] == [3.0, 4.0]


def test_a_line_s_training_figures_are_of_its_own_epoch_however_seldom_lines_are(fit: Fit) -> None:
    every, second = (
        read_lines(fit(f"by{n}", "--epochs", "2", "--accuracy.every", str(n)) / "accuracy.jsonl")
        for n in (1, 2)
    )
    assert len(second) == 1
    for name in ("train_loss", "train_accuracy", "test_loss"):
        assert second[0][name] == every[1][name]


def test_a_run_says_how_it_ended(fit: Fit, run: Run) -> None:
    folder = fit("mine", "--steps", "3")
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["step"], result["reason"]) == ("done", 3, None)
    assert run("fit", *TINY_CLASSIFIER, "--run", "wild", "--model.lr", "1e30") == 1
    result = json.loads(Path("checkpoints/wild/result.json").read_text())
    assert result["status"] == "diverged"
    assert "training diverged at step" in result["reason"]


def test_a_resumed_run_has_no_result_until_it_ends(fit: Fit, run: Run) -> None:
    folder = fit("mine", "--steps", "3")
    assert run("resume", "mine", "--steps", "5", "--model.lr", "1e30") in (0, 1)
    assert json.loads((folder / "result.json").read_text())["step"] != 3


def test_a_run_killed_between_its_last_step_and_its_result_is_done_by_a_resume(
    fit: Fit, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit("mine", "--steps", "3")
    (folder / "result.json").unlink()
    before = weights(folder)
    capsys.readouterr()
    assert run("resume", "mine") == 0
    assert "had already done all of its 3 steps" in capsys.readouterr().err
    assert json.loads((folder / "result.json").read_text())["status"] == "done"
    assert same_bits(before, weights(folder))
    assert run("resume", "mine") == 2  # it is done, and nothing more was asked for


def test_weight_decay_pulls_weights_and_leaves_biases_and_offsets(fit: Fit) -> None:
    module = Classifier(network="cnn3", channels=1, size=8, weight_decay=0.1)
    decayed, others = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in others["params"]} == {1}


def test_the_config_of_a_run_says_its_task_and_is_enough_to_train_it_again(
    fit: Fit, run: Run
) -> None:
    folder = fit("mine", "--steps", "3")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["task"] == "classifier"
    assert run("fit", "--config", str(folder / "config.yaml"), "--run", "again") == 0
    assert same_bits(weights(folder), weights(Path("checkpoints/again")))


def test_an_interrupted_epoch_s_figures_hold_all_of_it(fit: Fit, run: Run) -> None:
    whole = fit("whole", "--epochs", "2")
    parts = fit("parts", "--steps", "8")
    assert run("resume", "parts", "--steps", "12") == 0
    at_end = [line for line in lines(parts) if line["step"] == 12]
    assert at_end == [lines(whole)[-1]]


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_what_needs_a_generator_refuses_a_classifier(
    fit: Fit, run: Run, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("mine", "--steps", "1")
    capsys.readouterr()
    assert run(command, "mine") == 2
    shown = capsys.readouterr().err
    assert "is of a classifier" in shown
    assert shown.count("\n") == 1


def test_the_leaderboard_does_not_ask_to_score_a_classifier(
    fit: Fit, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("mine", "--steps", "1")
    capsys.readouterr()
    assert run("leaderboard") == 0
    assert "mine" not in capsys.readouterr().out


@pytest.mark.data
@pytest.mark.slow
def test_a_minute_on_the_real_digits_of_mnist_learns_them(fit: Fit) -> None:
    folder = fit(
        "mnist",
        *["--data.dataset", "mnist", "--data.size", "28", "--model.width", "8"],
        *["--data.limit", "12000", "--data.validation", "2000", "--data.batch_size", "100"],
        *["--data.test_limit", "2000", "--epochs", "2", "--model.lr", "0.003"],
    )
    assert read_lines(folder / "accuracy.jsonl")[-1]["test_accuracy"] > 0.93
