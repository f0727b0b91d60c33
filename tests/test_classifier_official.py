"""The paper's configs train on files in the official formats, small ones that the tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from official_files import write_cifar, write_mnist, write_svhn

from msngan.runs.configs import known_configs, top_level
from msngan.runs.jsonl import read_lines

CONFIGS = sorted(
    name
    for name, path in known_configs().items()
    if top_level(path).get("task") == "classifier" and not name.startswith("digits")
)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith("_msn")])
def test_a_config_of_the_paper_trains_on_its_own_data_set(
    name: str, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_every_norm_of_every_network_has_a_config() -> None:
    stems = {name.rpartition("_")[0] for name in CONFIGS}
    assert stems == {"mnist_cnn3", "fashion_cnn3", "svhn_vgg7", "cifar_vgg7", "cifar_densenet"}
    assert {*CONFIGS} == {
        f"{stem}_{norm}" for stem in stems for norm in ("none", "bn", "sn", "msn")
    }
