"""What many tests share: a tiny run that takes a second."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from msngan.__main__ import main
from msngan.norms import NORMS, is_batch_coupled, normalise

# What fixtures are, in the signatures of tests.
Run = Callable[..., int]
Tiny = Callable[..., Path]
Refused = Callable[..., str]
AtStep = Callable[[int, Callable[[], object]], None]
Shown = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

TINY = ["--config", "digits_msn", "--model.width", "2", "--model.latent_dim", "4"]
TINY += ["--data.batch_size", "8", "--data.limit", "64", "--data.size", "8"]
TINY += ["--steps", "6", "--threads", "1"]
# 48 images to train on in batches of 8: an epoch is 6 steps.
TINY_CLASSIFIER = ["--config", "digits_cnn3_msn", "--model.width", "2", "--data.size", "8"]
TINY_CLASSIFIER += ["--data.batch_size", "8", "--data.limit", "64", "--data.validation", "16"]
TINY_CLASSIFIER += ["--data.test_limit", "150", "--threads", "1", "--checkpoint.every", "0"]
TINY_CLASSIFIER += ["--dynamics.every", "0", "--records.every", "4"]
# The last convolution of an 8x8 critic has one value per channel; an instance norm needs more.
SMALLEST = {"instance": 16}
# Norms whose output for one sample depends on the rest of the batch, in training.
COUPLED = {name for name in NORMS if is_batch_coupled(normalise(nn.Conv2d(1, 1, 1), NORMS[name]))}


def smallest(norm: str) -> int:
    """The size of the smallest images that a critic under this norm takes."""
    return SMALLEST.get(norm, 8)


def under(norm: str) -> list[str]:
    """The options of a tiny run under this norm."""
    return ["--model.norm", norm, "--data.size", str(smallest(norm))]


QUIET = ["--scores.enabled", "false", "--samples.every", "0", "--checkpoint.every", "0"]
QUIET += ["--dynamics.every", "0"]  # half the time of a tiny run


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests measure bits, not speed, and run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def digits_are_read_once() -> Iterator[None]:
    """Parsing their text takes a tenth of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.datasets.load_digits", cache(load_digits))
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch) -> None:
    """Nothing is written to the user's folders."""
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: Patch) -> Run:
    """`run("fit", ...)`: the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        try:
            return main([str(argument) for argument in arguments])
        except SystemExit as ending:
            return int(ending.code or 0)

    return call


@pytest.fixture
def tiny(run: Run) -> Tiny:
    """`tiny("name", options...)`: fit a tiny GAN without scores; returns the run's folder."""

    def fit(name: str, *options: str) -> Path:
        assert run("fit", *TINY, *QUIET, "--run", name, *options) == 0
        return Path("checkpoints") / name

    return fit


@pytest.fixture
def classifier(run: Run) -> Tiny:
    """`classifier("name", options...)`: fit a tiny classifier; returns the run's folder."""

    def fit(name: str, *options: str) -> Path:
        assert run("fit", *TINY_CLASSIFIER, "--run", name, *options) == 0
        return Path("checkpoints") / name

    return fit


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below with its content, and every folder."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(run: Run, tmp_path: Path, capfd: Shown, monkeypatch: Patch) -> Refused:
    """`refused("fit", ...)`: bad input, so nothing is written or cached; returns its one line."""
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> str:
        before = snapshot(tmp_path)
        capfd.readouterr()
        assert run(*arguments) == 2
        shown = capfd.readouterr()
        lines = shown.err.strip().splitlines()
        assert len(lines) == 1, shown.err
        assert lines[0].startswith("msngan")
        assert "error: " in lines[0]
        assert "Traceback" not in shown.out + shown.err
        assert not shown.out.strip()
        assert snapshot(tmp_path) == before
        return lines[0]

    return call


@pytest.fixture
def at_step(monkeypatch: Patch) -> AtStep:
    """`at_step(n, do)`: before the step that follows n, once."""
    from msngan import gan

    original = gan.GAN.training_step
    todo: dict[int, Callable[[], object]] = {}

    def stepped(self: Any, *batch: object) -> object:
        todo.pop(self.trainer.global_step, lambda: None)()
        return original(self, *batch)

    monkeypatch.setattr(gan.GAN, "training_step", stepped)
    return todo.__setitem__


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny GAN `mine` was trained, once for all tests, with everything on."""
    root = tmp_path_factory.mktemp("trained")
    options = ["--samples.every", "2", "--checkpoint.every", "2", "--records.every", "2"]
    options += ["--scores.samples", "20", "--model.generator_lr", "0.05", "--dynamics.every", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MSNGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(["fit", *TINY, "--run", "mine", *options]) == 0
    return root


@pytest.fixture
def mine(trained: Path, run: Run, tmp_path: Path) -> Path:
    """The folder of a copy of the run `mine`, to be changed at will."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return Path("checkpoints") / "mine"


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """Everything that training changes in a checkpoint, by name: both networks and optimizers."""
    checkpoint = torch.load(folder / name, weights_only=True)
    found = dict(checkpoint["state_dict"])
    for index, optimizer in enumerate(checkpoint["optimizer_states"]):
        for number, state in optimizer["state"].items():
            found |= {f"adam{index}.{number}.{key}": value for key, value in state.items()}
    return found


def resumed_from_previous(folder: Path, run: Run) -> dict[str, torch.Tensor]:
    """The weights after the run in `folder` was resumed from its previous checkpoint."""
    (folder / "previous.ckpt").replace(folder / "last.ckpt")
    assert run("resume", folder.name) == 0
    return weights(folder)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing is downloaded: what needs the official files runs where they are."""
    if os.environ.get("MSNGAN_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="needs MSNGAN_DATA"))
