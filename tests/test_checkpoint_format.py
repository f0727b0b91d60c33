"""Later code reads the checkpoints of earlier code, goes on from them, or says which it is."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch

from msngan import GAN
from msngan.networks import read_generator
from msngan.runs import checkpoint_files as checkpoints
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.folder import UserError

# Of the images that the version which wrote the fixture drew: seed 0, four of 8x8.
IMAGES = "5a5f307aa9ce504d9235634f15cf382e8914c49fbd8dd4d4c47136c917886f7b"
Run = Callable[..., int]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A run of format 1, in its folder."""
    folder = tmp_path / "checkpoints" / "format1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(hostile.FIXTURE.with_name("format-1.yaml").read_bytes())
    (folder / "last.ckpt").write_bytes(hostile.sound())
    return folder / "last.ckpt"


def test_a_checkpoint_of_format_1_draws_the_same_images(run: Run, first: Path) -> None:
    for target in ("format1", str(first)):
        assert run("sample", target, "--n", "4", "--format", "npz", "--out", "x.npz") == 0
        assert hashlib.sha256(np.load("x.npz")["arr_0"].tobytes()).hexdigest() == IMAGES


def test_a_run_of_format_1_goes_on(
    run: Run, first: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = first.with_name("environment.json")
    environment.write_text('{"command": "msngan fit --run format1"}')  # as older versions wrote it
    assert run("resume", "format1", "--steps", "9") == 0
    commands = [each["command"] for each in json.loads(environment.read_text())["commands"]]
    assert commands == ["msngan fit --run format1", shlex.join(["msngan", *sys.argv[1:]])]
    changes = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    assert [line for line in changes if not line.startswith("threads")] == ["steps: 6 -> 9"]
    saved = read_checkpoint(first)
    assert saved["msngan"]["step"] == 9
    assert {float(each["step"]) for each in saved["optimizer_states"][0]["state"].values()} == {9}


def test_lightning_reads_the_former_names_of_options_too(first: Path) -> None:
    """Lightning drops a name that GAN does not take, and would give its default."""
    saved = torch.load(first, weights_only=True)
    saved["hyper_parameters"].pop("critic_batch", None)
    saved["hyper_parameters"]["passes"] = "joint"
    torch.save(saved, first)
    assert GAN.load_from_checkpoint(first).joint
    assert GAN.load_from_checkpoint(str(first), width=saved["hyper_parameters"]["width"]).joint
    assert not GAN.load_from_checkpoint(first, critic_batch="separate").joint


def test_a_younger_checkpoint_is_refused_by_its_format(first: Path) -> None:
    first.write_bytes(hostile.saved(hostile.put(3, "msngan", "format")))
    with pytest.raises(UserError, match=r"is of format 3, this msngan reads up to 1; upgrade"):
        read_checkpoint(first)


def test_an_older_checkpoint_is_brought_up_one_format_after_the_other(
    run: Run, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_FORMAT", 3)
    with pytest.raises(UserError, match=r"is of format 1, this msngan reads none before 2"):
        read_checkpoint(first)

    def second(checkpoint: dict[str, Any]) -> dict[str, Any]:
        checkpoint["hyper_parameters"]["slop"] = checkpoint["hyper_parameters"].pop("slope")
        return checkpoint

    def third(checkpoint: dict[str, Any]) -> dict[str, Any]:
        checkpoint["hyper_parameters"]["slope"] = checkpoint["hyper_parameters"].pop("slop")
        return checkpoint

    monkeypatch.setattr(checkpoints, "UPGRADES", {1: second, 2: third})
    assert read_checkpoint(first)["msngan"]["format"] == 3
    assert run("resume", "format1", "--steps", "7") == 0  # Lightning gets what was brought up
    monkeypatch.setattr(checkpoints, "UPGRADES", {1: second, 2: lambda checkpoint: {}["x"]})
    first.write_bytes(hostile.sound())
    with pytest.raises(UserError, match="not a valid checkpoint of format 1"):
        read_checkpoint(first)


@pytest.mark.parametrize("raw", [False, True])
def test_an_exported_generator_draws_the_checkpoints_images(
    run: Run, first: Path, raw: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    word = ["--raw"] if raw else []
    assert run("export", "format1", "--out", "x.safetensors", *word) == 0
    sha256 = hashlib.sha256(Path("x.safetensors").read_bytes()).hexdigest()
    assert sha256 in capfd.readouterr().out
    drawn = []
    for target in ("format1", "x.safetensors"):
        assert run("sample", target, "--n", "8", "--format", "npz", "--out", "x.npz", *word) == 0
        drawn.append(np.load("x.npz")["arr_0"])
    assert np.array_equal(*drawn)
    generator, about = read_generator(Path("x.safetensors"))
    assert about["weights"] == ("raw" if raw else "ema")
    assert about["msngan"]["step"] == 6
    state = torch.load(first, weights_only=True)["state_dict"]
    prefix = "generator." if raw else "ema."
    assert all(torch.equal(state[prefix + n], x) for n, x in generator.state_dict().items())
    assert run("sample", "x.safetensors", *([] if raw else ["--raw"])) == 2
    assert run("export", "format1", "--out", "x.safetensors") == 2  # it is there
    assert run("export", "format1", "--out", "x.ckpt") == 2
