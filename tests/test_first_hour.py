"""What a person types in the first hour: each gives one line that helps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import QUIET, TINY

Run = Callable[..., int]


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
            "--trainer.devices 0,x is no list of GPU numbers; write it as 0,1",
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
