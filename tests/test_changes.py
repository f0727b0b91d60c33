"""What a run may go on with another value of, by option and by a hand in config.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from msngan.runs.checkpoint_files import read_checkpoint

Tiny = Callable[..., Path]
Run = Callable[..., int]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.critic_betas", [0.0, 0.9], "critic_betas: [0.5, 0.999] -> [0.0, 0.9]"),
        ("data.batch_size", 4, "data.batch_size: 8 -> 4"),
        ("data.limit", 32, "limit: 64 -> 32"),
        ("trainer.precision", "64-true", "trainer.precision: 32-true -> 64-true"),
        ("samples.count", 4, ""),
    ],
)
@pytest.mark.parametrize("edited", [False, True], ids=["by option", "by a hand in config.yaml"])
def test_a_harmless_change_is_taken_and_said(
    tiny: Tiny,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    key: str,
    value: object,
    said: str,
    edited: bool,
) -> None:
    folder = tiny("mine")
    group, _, name = key.partition(".")
    words = [f"--{key}", str(value)]
    if edited:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config[group][name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        words = []
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", *words) == 0
    changes = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    assert set(changes) - {"steps: 6 -> 8"} == ({said} if said else set())
    groups = read_checkpoint(folder / "last.ckpt")["optimizer_states"][1]["param_groups"]
    if name == "critic_betas":
        assert list(groups[0]["betas"]) == value


def test_a_structural_change_in_a_config_is_refused_with_its_key(
    tiny: Tiny, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny("mine")
    text = (folder / "config.yaml").read_text()
    for line, other, word in (
        (
            "  norm: mean_spectral",
            "  norm: spectral",
            "norm mean_spectral, the config says spectral",
        ),
        ("  width: 2", "  width: 3", "width 2, the config says 3"),
        ("  size: 8", "  size: 16", "size 8, the config says 16"),
        ("  penalty: none", "  penalty: spectral", "penalty"),
        ("  ema_decay: 0.99", "  ema_decay: 0", "ema_decay"),
        ("task: gan", "task: classifier", "unknown option 'model.loss'"),
    ):
        assert line in text
        (folder / "config.yaml").write_text(text.replace(line, other, 1))
        capfd.readouterr()
        assert run("resume", "mine", "--steps", "8") == 2
        assert word in capfd.readouterr().err
