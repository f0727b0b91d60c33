"""A classifier trains, records, stops and resumes as a GAN does; the paper's configs train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import (
    TINY_CLASSIFIER,
    Run,
    resumed_from_previous,
    same_bits,
    weights,
)
from official_files import write_cifar, write_mnist, write_svhn
from torch.nn import functional as F

from msngan.__main__ import main
from msngan.classifier import Classifier
from msngan.data import LabelledData
from msngan.runs import rng
from msngan.runs.configs import known_configs, top_level
from msngan.runs.jsonl import read_lines


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


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def curves(folder: Path) -> list[dict[str, Any]]:
    found = read_lines(folder / "metrics.jsonl")
    return [{k: v for k, v in each.items() if k != "steps_per_second"} for each in found]


SMALL = ["--data.size", "32", "--steps", "4", "--checkpoint.every", "3", "--model.width"]
DEEP = [*SMALL, "4", "--model.norm", "batch", "--model.lr_decay", "cosine", "--model.network"]


@pytest.mark.parametrize(
    "options",
    [  # one norm of each kind, each network, each precision; dropout and gates draw globally
        ["--model.norm", "batch"],
        ["--model.norm", "mean_spectral"],
        ["--model.norm", "optional_spectral"],
        ["--trainer.precision", "bf16-mixed", "--model.weight_decay", "0.01"],
        ["--trainer.precision", "64-true"],
        [*SMALL, "1", "--model.network", "vgg7"],
        [*DEEP, "densenet_bc", "--model.depth", "2"],
        [*DEEP, "resnet18"],
    ],
    ids=" ".join,
)
def test_a_stopped_and_resumed_classifier_ends_in_the_same_bits_and_records(
    classifier, run, options
):
    # Of step 14, in the third epoch; of the networks, 3.
    every = ["--steps", "16", "--checkpoint.every", "14", "--model.dropout", "0.2"]
    folder = classifier("whole", *every, "--data.crop", "1", "--data.mirror", "true", *options)
    whole = weights(folder), lines(folder), curves(folder)
    resumed = resumed_from_previous(folder, run)
    assert same_bits(whole[0], resumed)
    assert whole[1:] == (lines(folder), curves(folder))


def test_the_config_is_enough_to_train_a_run_again_and_another_seed_gives_other_weights(mine, run):
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


def test_one_step_is_adam_s_on_the_mean_cross_entropy(classifier):
    folder = classifier("one", "--model.norm", "none", "--steps", "1")
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
def test_an_epoch_s_line_holds_what_the_saved_network_gets_right(mine):
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


def test_the_best_checkpoint_is_of_the_first_epoch_with_the_best_validation_accuracy(classifier):
    folder = classifier("mine", "--epochs", "4")
    found = read_lines(folder / "accuracy.jsonl")
    best = max(found, key=lambda line: (line["validation_accuracy"], -line["step"]))
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)["msngan"]
    assert checkpoint["step"] == best["step"]
    value = best["validation_accuracy"]
    assert checkpoint["best"] == {"score": "validation_accuracy", "value": value}
    assert checkpoint["task"] == "classifier"


def test_measuring_less_often_leaves_weights_and_an_epoch_s_own_figures_as_they_are(
    mine, classifier
):
    seldom = classifier("seldom", "--epochs", "2", "--accuracy.every", "2")
    assert same_bits(weights(mine), weights(seldom))
    (line,) = read_lines(seldom / "accuracy.jsonl")
    for name in ("epoch", "train_loss", "train_accuracy", "test_loss"):
        assert line[name] == read_lines(mine / "accuracy.jsonl")[1][name]


def test_a_run_says_how_it_ended_also_after_a_kill_before_its_result(mine, run, capsys):
    result = read_result(mine)
    assert (result["status"], result["step"], result["reason"]) == ("done", 12, None)
    (mine / "result.json").unlink()
    before = weights(mine)
    capsys.readouterr()
    assert run("resume", "mine") == 0
    assert "already done all of its 12 steps" in capsys.readouterr().err
    assert read_result(mine)["status"] == "done"
    assert same_bits(before, weights(mine))
    assert run("resume", "mine") == 2  # it is done, and nothing more was asked for
    assert run("resume", "mine", "--steps", "14", "--model.lr", "1e30") in (0, 1)
    assert read_result(mine)["step"] != 12
    assert run("fit", *TINY_CLASSIFIER, "--run", "wild", "--model.lr", "1e30") == 1
    result = read_result(Path("checkpoints/wild"))
    assert result["status"] == "diverged"
    assert "training diverged at step" in result["reason"]


def test_weight_decay_pulls_weights_and_leaves_biases_and_offsets():
    module = Classifier(network="cnn3", channels=1, size=8, weight_decay=0.1)
    decayed, others = module.configure_optimizers().param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in others["params"]} == {1}


def test_what_needs_a_generator_refuses_a_classifier(mine, run, refused, capfd):
    for command in ("sample", "evaluate"):
        assert "is of a classifier" in refused(command, "mine")
    assert run("leaderboard") == 0
    assert "mine" not in capfd.readouterr().out


@pytest.mark.data
@pytest.mark.slow
def test_a_minute_on_the_real_digits_of_mnist_learns_them(classifier):
    folder = classifier(
        "mnist",
        *["--data.dataset", "mnist", "--data.size", "28", "--model.width", "8"],
        *["--data.limit", "3000", "--data.validation", "500", "--data.batch_size", "50"],
        *["--data.test_limit", "500", "--epochs", "2", "--model.lr", "0.003"],
    )
    assert read_lines(folder / "accuracy.jsonl")[-1]["test_accuracy"] > 0.85


# ---- what is wrong with a classifier's options is one line, before anything is written ----

WRONG = [
    (["--model.network", "vgg7"], ["vgg7", "32 pixels", "8"]),
    (["--model.norm_options.gian", "true"], ["gian", "did you mean 'gain'"]),
    (["--model.norm_layers", "[9]"], ["no layer 9"]),
    (["--model.other_norm", "batch"], ["other_norm"]),
    (["--model.as_released", "true", "--model.norm", "layer"], ["layer", "batch"]),
    (["--data.dataset", "folder"], ["folder", "--data.root"]),
    (["--data.validation", "60"], ["--data.validation 60", "batch of 8"]),
    (["--data.mean", "[0.1, 0.2]"], ["--data.mean", "1 channel;"]),
    (["--data.batch_size", "49"], ["batch"]),
    (["--trainer.devices", "2"], ["torchrun"]),
]
DONE = [
    (["--epochs", "2"], ["done 12 steps", "--epochs 2"]),
    (["--steps", "5"], ["done 12 steps", "--steps is 5"]),
    (["--model.norm", "batch"], ["mean_spectral", "batch"]),
    (["--model.network", "resnet18", "--epochs", "3"], ["network", "resnet18"]),
    (["--data.size", "16", "--epochs", "3"], ["size"]),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_a_wrong_option_is_one_line_and_leaves_nothing(refused, options, words):
    line = refused("fit", *TINY_CLASSIFIER, *options)
    assert all(word in line for word in words)


def test_a_resume_or_a_start_that_cannot_be_is_one_line_and_changes_nothing(mine, trained, refused):
    for options, words in DONE:
        line = refused("resume", "mine", *options)
        assert all(word in line for word in words), (words, line)
    start = ["fit", "--config", "digits_msn", "--ckpt_path", str(mine / "last.ckpt")]
    assert "is of a classifier, the config trains a gan" in refused(*start)
    start = ["fit", *TINY_CLASSIFIER, "--ckpt_path", str(trained / "checkpoints/mine/last.ckpt")]
    assert "is of a gan, the config trains a classifier" in refused(*start)


# ---- the paper's configs, on small files in the official formats ----

CONFIGS = sorted(
    name
    for name, path in known_configs().items()
    if top_level(path).get("task") == "classifier" and not name.startswith("digits")
)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("_msn")])
def test_a_config_of_the_paper_trains_on_its_own_data_set(name, run, tmp_path, monkeypatch):
    dataset = yaml.safe_load(known_configs()[name].read_text())["data"]["dataset"]
    root = tmp_path / "data"
    written = {
        "mnist": lambda: write_mnist(root, "MNIST"),
        "fashion": lambda: write_mnist(root, "FashionMNIST"),
        "cifar10": lambda: write_cifar(root, monkeypatch),
        "svhn": lambda: write_svhn(root, monkeypatch),
    }[dataset]()
    options = ["--data.root", str(root), "--data.download", "false", "--data.batch_size", "4"]
    options += ["--data.validation", "2", "--steps", "2", "--threads", "1", "--dynamics.every", "0"]
    options += ["--model.width", "4"] + (["--model.depth", "2"] if "densenet" in name else [])
    assert run("fit", "--config", name, *options, "--run", "mine") == 0
    (line,) = read_lines(Path("checkpoints/mine/accuracy.jsonl"))
    assert line["step"] == 2
    assert line["epoch"] == 1.0  # 8 images to train on, in batches of 4
    assert 0 <= sum(line["test_right"]) <= len(written["test"])


def test_every_norm_of_every_network_has_a_config():
    stems = {name.rpartition("_")[0] for name in CONFIGS}
    assert stems == {"mnist_cnn3", "fashion_cnn3", "svhn_vgg7", "cifar_vgg7", "cifar_densenet"}
    assert {*CONFIGS} == {
        f"{stem}_{norm}" for stem in stems for norm in ("none", "bn", "sn", "msn")
    }
