"""fit and resume with a norm's options, on chosen layers, with another norm on the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUIET, TINY, same_bits, weights

from msngan.gan import GAN

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
        (["--model.norm_options.gian", "true"], "did you mean 'gain'"),
        (["--model.norm_options.gain", "2"], "option gain is of type bool, not 2"),
        (["--model.norm_options.gain", "[1]"], "--model.norm_options: "),
        (["--model.norm_options", "gain"], "nor null; one is written {name: value}"),
        (["--model.critic_width", "wide"], "--model.critic_width: 'wide' is neither int nor null"),
        (
            ["--model.norm", "spectral", "--model.norm_options.gain", "true"],
            "--model.norm_options: norm 'spectral' has no option 'gain'; it has none",
        ),
        (["--model.norm_layers", "[8]"], "--model.norm_layers: there is no layer 8"),
        (["--model.norm_layers", "[haed]"], "'haed' (did you mean 'head'?); the layers are body.0"),
        (["--model.norm_layers", "head"], "'head' is neither list[int | str] nor null; a list is"),
        (["--model.norm_layers", "[]"], "--model.norm_layers: layers []: give a list"),
        (["--model.other_norm", "batch"], "--model.other_norm batch has no layer"),
        (["--model.other_norm", "spectra"], "spectral"),
        (["--model.norm", "instance"], "--model.norm: norm 'instance' has one value per channel"),
        (["--model.norm_option", "{}"], "did you mean 'model.norm_options'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_named_before_anything_is_written(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run("fit", *TINY, *QUIET, *options) == 2
    shown = capfd.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("msngan: error: ")
    assert words in line
    assert not shown.out.strip()
    assert not list(tmp_path.iterdir())


def test_a_wrong_config_is_named_with_its_key(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    for text in ("norm_options: {gain: [1]}", "norm_layers: head", "norm_options: 7"):
        Path("bad.yaml").write_text(f"model: {{{text}}}")
        assert run("fit", "--config", "bad.yaml") == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert f"model.{text.partition(':')[0]}" in line


def test_help_explains_the_options(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--help") == 0
    shown = " ".join(capfd.readouterr().out.split())
    for name in NEW:
        assert f"--model.{name}" in shown
    assert "the critic's layers that get the norm" in shown


def test_checking_options_draws_nothing_from_the_global_stream() -> None:
    before = torch.random.get_rng_state()
    GAN(norm_layers=[0], width=1, latent_dim=2, size=8)
    assert torch.equal(torch.random.get_rng_state(), before)
