"""What a person types in the first hour: each gives one line that helps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import QUIET, TINY

from msngan.scores.protocol import Protocol

Run = Callable[..., int]
SMALL = """steps: 2
data: {dataset: digits, batch_size: 8, limit: 64, size: 8}
model: {width: 2, latent_dim: 4}
"""
EXTRACTOR = {"extractor": "toy", "official_inception": False, "resize": "none"}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("fit", "nothing to train; give a config, as `msngan fit --config digits_msn`"),
        ("fit digits_msn", "a config is given as --config digits_msn"),
        ("fit digits_msn.yaml", "a config is given as --config digits_msn.yaml"),
        ("fit --lr 0.1", "did you mean 'model.generator_lr' or 'model.critic_lr'"),
        ("fit --config", "--config needs a name, as --config digits_msn"),
        (
            "fit --config digits_msn --trainer.devices 0,1, --trainer.accelerator cpu",
            "names GPUs, and training is on the CPU; give a number of processes, as"
            " --trainer.devices 2",
        ),
        (
            "fit --config digits_msn --trainer.devices 0,x",
            "--trainer.devices 0,x is not a list of GPU numbers; write it as 0,1",
        ),
    ],
)
def test_it_is_answered_in_one_line_and_makes_no_folder(
    run: Run, capfd: pytest.CaptureFixture[str], typed: str, answer: str
) -> None:
    assert run(*typed.split()) == 2
    said = capfd.readouterr().err
    assert answer in said
    assert said.count("\n") == 1
    assert not Path("checkpoints").exists()


def test_a_device_that_holds_no_numbers_cannot_score(
    run: Run, tiny: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny("mine")
    capfd.readouterr()
    assert run("evaluate", "mine", "--device", "meta") == 2
    assert "--device meta cannot score; use cpu" in capfd.readouterr().err


def test_an_option_wins_over_a_config_that_stands_after_it(run: Run) -> None:
    Path("other.yaml").write_text("steps: 5\nmodel:\n  loss: wasserstein\n  norm: batch\n")
    at = TINY.index("--steps")
    others = [*TINY[:at], *TINY[at + 2 :], *QUIET, "--run", "mine"]
    options = ["--steps", "2", "--model.loss=hinge", *others, "-c", "other.yaml"]
    assert run("fit", *options) == 0
    config = yaml.safe_load(Path("checkpoints/mine/config.yaml").read_text())
    assert config["steps"] == 2
    assert (config["model"]["loss"], config["model"]["norm"]) == ("hinge", "batch")


@pytest.mark.parametrize("command", ["--help", "fit --help", "configs"])
def test_a_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    words = [sys.executable, "-m", "msngan", *command.split()]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # before anything is written
    assert process.wait() == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_run_is_named_by_what_its_command_changes(run: Run) -> None:
    Path("small.yaml").write_text(SMALL)
    options = ["--model.norm", "spectral", "--model.critic_lr=1e-3", "--steps", "2"]
    assert run("fit", "--config", "small", *QUIET, *options) == 2  # not in ./configs
    assert run("fit", "--config", "small.yaml", *QUIET, *options) == 0
    name = "small-norm=spectral-critic_lr=1e_3-s0-0"
    assert Path(f"checkpoints/{name}/last.ckpt").is_file()
    assert run("resume", name, "--steps", "3") == 0


def test_a_name_that_would_be_too_long_leaves_the_changes_out(run: Run) -> None:
    Path("small.yaml").write_text(SMALL)
    layers = ["--model.norm_layers", "[0, 1, 2, 3, 4, 5]", "--model.other_norm", "batch_no_gain"]
    options = ["--config", "small.yaml", *QUIET, *layers, "--model.loss", "nonsaturating"]
    assert run("fit", *options) == 0
    assert Path("checkpoints/small-s0-0/last.ckpt").is_file()


def test_two_seeds_of_a_protocol_have_no_run_in_common() -> None:
    fields = {"reference_images": 1, "reference_sha256": "", "size": 8, "channels": 1}
    made = [
        Protocol("paper", 5, 10, 1, "digits", "all", seed=seed, **fields, **EXTRACTOR)
        for seed in range(3)
    ]
    seeds = [protocol.seed_of(run) for protocol in made for run in range(5)]
    assert len(set(seeds)) == 15
    assert seeds[:5] == [0, 1, 2, 3, 4]
