"""What a run may go on with another value of, and a norm's options through fit and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import same_bits, weights

from msngan.gan import GAN
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.folder import UserError

Tiny = Callable[..., Path]
Run = Callable[..., int]
Captured = pytest.CaptureFixture[str]
RELEASED = ["--model.norm_options.gain", "true", "--model.norm_layers", "[3, 5, body.12]"]
RELEASED += ["--model.other_norm", "spectral"]
NEW = ("norm_options", "norm_layers", "other_norm")
TAKEN: dict[str, tuple[Any, str]] = {
    "model.critic_betas": ([0.0, 0.9], "critic_betas: [0.5, 0.999] -> [0.0, 0.9]"),
    "data.batch_size": (4, "data.batch_size: 8 -> 4"),
    "data.limit": (32, "limit: 64 -> 32"),
    "trainer.precision": ("64-true", "trainer.precision: 32-true -> 64-true"),
    "samples.count": (4, ""),  # what only records is taken without a word
}


def edit(folder: Path, **options: Any) -> None:
    """Change a run's config.yaml by hand."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for name, value in options.items():
        group, _, own = name.rpartition("__")
        (config[group] if group else config)[own] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def changes(capfd: Captured) -> set[str]:
    return {line for line in capfd.readouterr().err.splitlines() if " -> " in line}


@pytest.mark.parametrize("edited", [False, True], ids=["by option", "by a hand in config.yaml"])
def test_a_harmless_change_is_taken_and_said(
    mine: Path, run: Run, capfd: Captured, edited: bool
) -> None:
    words = [f"--{name}={value}" for name, (value, _) in TAKEN.items()]
    if edited:
        edit(mine, **{name.replace(".", "__"): value for name, (value, _) in TAKEN.items()})
        words = []
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", *words) == 0
    assert changes(capfd) == {said for _, said in TAKEN.values() if said} | {"steps: 6 -> 8"}
    groups = read_checkpoint(mine / "last.ckpt")["optimizer_states"][1]["param_groups"]
    assert list(groups[0]["betas"]) == [0.0, 0.9]


def test_a_structural_change_in_a_config_is_refused_with_its_key(
    mine: Path, run: Run, capfd: Captured
) -> None:
    text = (mine / "config.yaml").read_text()
    for name, value, word in (
        ("model__norm", "spectral", "norm mean_spectral, the config says spectral"),
        ("model__width", 3, "width 2, the config says 3"),
        ("data__size", 16, "size 8, the config says 16"),
        ("model__penalty", "spectral", "--model.penalty: unknown value 'spectral' (did you mean"),
        ("model__penalty", "spectral_penalty", "one of them keeps estimates"),
        ("model__ema_decay", 0, "ema_decay"),
        ("task", "classifier", "unknown option '"),
    ):
        edit(mine, **{name: value})
        assert run("resume", "mine", "--steps", "8") == 2
        assert word in capfd.readouterr().err
        (mine / "config.yaml").write_text(text)


def test_a_norm_s_options_are_trained_recorded_resumed_exactly_and_not_changed(
    tiny: Tiny, run: Run, capfd: Captured
) -> None:
    whole = weights(tiny("whole", *RELEASED))
    gains = {name for name in whole if name.endswith("output_norm.weight")}
    assert gains == {f"critic.body.{index}.output_norm.weight" for index in (6, 10, 12)}
    assert len([name for name in whole if name.endswith("weight_norm.u")]) == 8
    model = yaml.safe_load(Path("checkpoints/whole/config.yaml").read_text())["model"]
    assert [model[name] for name in NEW] == [{"gain": True}, [3, 5, "body.12"], "spectral"]
    Path("part.yaml").write_text(yaml.safe_dump({"model": {name: model[name] for name in NEW}}))
    part = tiny("part", "--config", "part.yaml", "--steps", "4")  # as the command line says it
    for options, words in (
        (["--model.norm_options.gain", "false"], "norm_options {'gain': True}"),
        (["--model.norm_options", "null"], "norm_options {'gain': True}"),
        (["--model.norm_layers", "[3, 5]"], "norm_layers [3, 5, 'body.12']"),
        (["--model.other_norm", "none"], "other_norm spectral"),
    ):
        before = (part / "config.yaml").read_bytes()
        capfd.readouterr()
        assert run("resume", "part", "--steps", "8", *options) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert f"holds a network with {words}, the config says" in line
        assert (part / "config.yaml").read_bytes() == before
    assert run("resume", "part", "--steps", "6") == 0
    assert same_bits(weights(part), whole)


def test_a_checkpoint_from_before_some_options_has_their_defaults_and_former_names(
    tiny: Tiny, run: Run, capfd: Captured
) -> None:
    whole = weights(tiny("whole", "--steps", "8"))
    folder = tiny("mine", "--steps", "6")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for values in (checkpoint["hyper_parameters"], config["model"]):
        for name in NEW:
            del values[name]
        values["passes"] = values.pop("critic_batch")
    torch.save(checkpoint, folder / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", "--model.norm_options.gain", "true") == 2
    assert "norm_options None, the config says {'gain': True}" in capfd.readouterr().err
    assert run("resume", "mine", "--steps", "8") == 0
    assert changes(capfd) == {"steps: 6 -> 8"}
    assert same_bits(weights(folder), whole)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm_options": {"gian": True}}, "--model.norm_options: norm .*did you mean 'gain'"),
        ({"norm_options": {"gain": 2}}, "option gain is of type bool, not 2"),
        ({"norm": "spectral", "norm_options": {"gain": True}}, "'gain'; it has none"),
        ({"norm_layers": [8]}, "--model.critic cnn: there is no layer 8"),
        ({"norm_layers": ["haed"]}, "'haed' .did you mean 'head'.*; the layers are body.0"),
        ({"norm_layers": []}, r"layers \[\]: give a list"),
        ({"other_norm": "batch"}, "other_norm 'batch' has no layer: norm_layers leaves none"),
        ({"norm": "instance", "size": 8}, "an instance norm has one value per channel"),
        ({"width": 0}, "--model.width 0 is less than 1"),
        ({"compile": True, "penalty": "r1"}, "torch.compile has no second derivative"),
        ({"norm": "batch", "generator_statistics": "last"}, "last with .*batch norm keeps no"),
        ({"norm": "batch_no_gain", "generator_statistics": "last"}, "batch norm keeps no"),
    ],
    ids=str,
)
def test_what_a_gan_cannot_have_is_named_in_python_too(options: dict[str, Any], words: str) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=words):
        GAN(**{"width": 1, "latent_dim": 2} | options)
    GAN(norm_layers=[0], width=1, latent_dim=2, size=8)
    assert torch.equal(torch.random.get_rng_state(), before)  # checks draw nothing
