"""What may change between fit and resume: options, formats of checkpoints, names of options."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
import yaml
from conftest import Shown, same_bits, weights
from PIL import Image

from msngan.gan import GAN
from msngan.networks import read_generator
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.folder import UserError

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


def changes(capfd: Shown) -> set[str]:
    return {line for line in capfd.readouterr().err.splitlines() if " -> " in line}


@pytest.mark.parametrize("edited", [False, True], ids=["by option", "by a hand in config.yaml"])
def test_a_harmless_change_is_taken_and_said(mine, run, capfd, edited):
    words = [f"--{name}={value}" for name, (value, _) in TAKEN.items()]
    if edited:
        edit(mine, **{name.replace(".", "__"): value for name, (value, _) in TAKEN.items()})
        words = []
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8", *words) == 0
    assert changes(capfd) == {said for _, said in TAKEN.values() if said} | {"steps: 6 -> 8"}
    groups = read_checkpoint(mine / "last.ckpt")["optimizer_states"][1]["param_groups"]
    assert list(groups[0]["betas"]) == [0.0, 0.9]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model__norm", "spectral", "norm mean_spectral, the config says spectral"),
        ("model__width", 3, "width 2, the config says 3"),
        ("data__size", 16, "size 8, the config says 16"),
        ("model__penalty", "spectral", "--model.penalty: unknown value 'spectral' (did you mean"),
        ("model__penalty", "spectral_penalty", "one of them keeps estimates"),
        ("model__ema_decay", 0, "ema_decay"),
        ("task", "classifier", "unknown option '"),
    ],
)
def test_a_structural_change_in_a_config_is_refused_with_its_key(mine, refused, name, value, words):
    edit(mine, **{name: value})
    assert words in refused("resume", "mine", "--steps", "8")


def test_other_images_are_said_with_their_hash_and_a_moved_folder_is_not(tiny, run, capfd):
    draw, root = np.random.default_rng(0), Path("pictures")
    root.mkdir()
    for index in range(16):
        pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    tiny("mine", "--data.dataset", "folder", "--data.root", "pictures", "--data.limit", "12")
    before = read_checkpoint(Path("checkpoints/mine/last.ckpt"))["msngan"]["images_sha256"]

    def said(steps: int, *options: str) -> set[str]:
        capfd.readouterr()
        assert run("resume", "mine", "--steps", str(steps), *options) == 0
        return changes(capfd) - {f"steps: {steps - 1} -> {steps}"}

    copy = shutil.copytree(root, "copy", copy_function=shutil.copyfile)  # with new times
    assert said(7, "--data.root", "copy") == {f"root: {root} -> {copy}"}
    Image.new("L", (8, 8), 3).save("copy/14.png")
    (changed,) = said(8)
    now = read_checkpoint(Path("checkpoints/mine/last.ckpt"))["msngan"]["images_sha256"]
    change = f"({before[:12]} -> {now[:12]})"
    assert changed == f"data: the images have changed since the run began {change}"
    assert said(9) == set()
    path = Path("checkpoints/mine/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["msngan"]["images_sha256"]  # as older versions wrote it
    torch.save(checkpoint, path)
    Image.new("L", (8, 8), 4).save("copy/14.png")
    assert said(10) == set()


def test_a_norm_s_options_are_trained_recorded_resumed_exactly_and_not_changed(tiny, run, refused):
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
        line = refused("resume", "part", "--steps", "8", *options)
        assert f"holds a network with {words}, the config says" in line
    assert run("resume", "part", "--steps", "6") == 0
    assert same_bits(weights(part), whole)


def test_a_checkpoint_from_before_some_options_has_their_defaults_and_former_names(
    tiny, run, capfd
):
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
def test_what_a_gan_cannot_have_is_named_in_python_too(options, words):
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=words):
        GAN(**{"width": 1, "latent_dim": 2} | options)
    GAN(norm_layers=[0], width=1, latent_dim=2, size=8)
    assert torch.equal(torch.random.get_rng_state(), before)  # checks draw nothing


# Of the images that the version which wrote the fixture drew: seed 0, four of 8x8.
IMAGES = "5a5f307aa9ce504d9235634f15cf382e8914c49fbd8dd4d4c47136c917886f7b"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A run of format 1, in its folder."""
    folder = tmp_path / "checkpoints" / "format1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(hostile.FIXTURE.with_name("format-1.yaml").read_bytes())
    (folder / "last.ckpt").write_bytes(hostile.sound())
    return folder / "last.ckpt"


def test_a_checkpoint_of_format_1_draws_the_same_images(run, first):
    for target in ("format1", str(first)):
        assert run("sample", target, "--n", "4", "--format", "npz", "--out", "x.npz") == 0
        assert hashlib.sha256(np.load("x.npz")["arr_0"].tobytes()).hexdigest() == IMAGES


def test_a_run_of_format_1_goes_on(run, first, capfd):
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


def test_lightning_reads_the_former_names_of_options_too(first):
    """Lightning drops a name that GAN does not take, and would give its default."""
    saved = torch.load(first, weights_only=True)
    saved["hyper_parameters"].pop("critic_batch", None)
    saved["hyper_parameters"]["passes"] = "joint"
    torch.save(saved, first)
    assert GAN.load_from_checkpoint(first).joint
    assert GAN.load_from_checkpoint(str(first), width=saved["hyper_parameters"]["width"]).joint
    assert not GAN.load_from_checkpoint(first, critic_batch="separate").joint


def test_a_younger_checkpoint_is_refused_by_its_format(first):
    first.write_bytes(hostile.saved(hostile.put(3, "msngan", "format")))
    with pytest.raises(UserError, match=r"is of format 3, this msngan reads up to 1; upgrade"):
        read_checkpoint(first)


@pytest.mark.parametrize("raw", [False, True])
def test_an_exported_generator_draws_the_checkpoints_images(run, first, raw, capfd):
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
