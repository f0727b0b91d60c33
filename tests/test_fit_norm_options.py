"""fit and resume with a norm's options, on chosen layers, with another norm on the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import same_bits, weights

from msngan.gan import GAN
from msngan.runs.folder import UserError

Run = Callable[..., int]
Tiny = Callable[..., Path]
RELEASED = ["--model.norm_options.gain", "true", "--model.norm_layers", "[3, 5, body.12]"]
RELEASED += ["--model.other_norm", "spectral"]
NEW = ("norm_options", "norm_layers", "other_norm")


def test_the_released_form_trains_and_is_recorded(tiny: Tiny) -> None:
    folder = tiny("mine", *RELEASED)
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    gains = {name for name in state if name.endswith("output_norm.weight")}
    assert gains == {f"critic.body.{index}.output_norm.weight" for index in (6, 10, 12)}
    assert len([name for name in state if name.endswith("weight_norm.u")]) == 8
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert model["norm_options"] == {"gain": True}
    assert model["norm_layers"] == [3, 5, "body.12"]
    assert model["other_norm"] == "spectral"


def test_a_config_says_the_same_as_the_command_line(tiny: Tiny) -> None:
    Path("released.yaml").write_text(
        "model:\n  norm_options: {gain: true}\n  norm_layers: [3, 5, body.12]\n"
        "  other_norm: spectral\n"
    )
    by_file = weights(tiny("file", "--config", "released.yaml"))
    assert same_bits(by_file, weights(tiny("line", *RELEASED)))
    assert not same_bits(by_file, weights(tiny("without")))


def test_a_resumed_run_goes_on_exactly(tiny: Tiny, run: Run) -> None:
    whole = weights(tiny("whole", *RELEASED))
    part = tiny("part", *RELEASED, "--steps", "4")
    assert run("resume", "part", "--steps", "6") == 0
    assert same_bits(weights(part), whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.norm_options.gain", "false"], "norm_options {'gain': True}"),
        (["--model.norm_options", "null"], "norm_options {'gain': True}"),
        (["--model.norm_layers", "[3, 5]"], "norm_layers [3, 5, 'body.12']"),
        (["--model.other_norm", "none"], "other_norm spectral"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_network_is_no_way_to_resume(
    tiny: Tiny, run: Run, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    folder = tiny("mine", *RELEASED)
    before = (folder / "config.yaml").read_bytes()
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", *options) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert f"holds a network with {words}, the config says" in line
    assert (folder / "config.yaml").read_bytes() == before


def test_a_checkpoint_from_before_these_options_has_their_defaults(
    tiny: Tiny, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tiny("mine")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for name in NEW:
        del checkpoint["hyper_parameters"][name], config["model"][name]
    torch.save(checkpoint, folder / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", "--model.norm_options.gain", "true") == 2
    assert "norm_options None, the config says {'gain': True}" in capfd.readouterr().err
    assert run("resume", "mine", "--steps", "8") == 0
    changes = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    assert changes == ["steps: 6 -> 8"]
    assert same_bits(weights(folder), weights(tiny("whole", "--steps", "8")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm_options": {"gian": True}}, "--model.norm_options: norm .*did you mean 'gain'"),
        ({"norm_options": {"gain": 2}}, "option gain is of type bool, not 2"),
        ({"norm": "spectral", "norm_options": {"gain": True}}, "'gain'; it has none"),
        ({"norm_layers": [8]}, "--model.critic cnn: there is no layer 8"),
        ({"norm_layers": ["haed"]}, "'haed' .did you mean 'head'.*; the layers are body.0"),
        ({"norm_layers": []}, "layers \\[\\]: give a list"),
        ({"other_norm": "batch"}, "other_norm 'batch' has no layer: norm_layers leaves none"),
        ({"norm": "instance", "size": 8}, "an instance norm has one value per channel"),
    ],
    ids=str,
)
def test_norms_that_the_critic_cannot_have_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        GAN(**{"width": 1, "latent_dim": 2} | options)


def test_checking_options_draws_nothing_from_the_global_stream() -> None:
    before = torch.random.get_rng_state()
    GAN(norm_layers=[0], width=1, latent_dim=2, size=8)
    assert torch.equal(torch.random.get_rng_state(), before)
