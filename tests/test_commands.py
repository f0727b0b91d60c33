"""The commands as a person uses them, on a tiny run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import QUIET, TINY, same_bits, snapshot, weights
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msngan import __main__ as command_line
from msngan.commands.sample import USED_BY
from msngan.data.images import tile
from msngan.gan import GAN
from msngan.networks import draw_samples, load_generator
from msngan.runs.configs import is_study, known_configs, parse, summary, top_level
from msngan.training.callbacks import progress

FAMILIES = ["coverage", "cs", "density", "fd", "kd", "precision", "recall"]


@pytest.mark.quick
def test_a_run_keeps_config_environment_records_checkpoints_and_pictures(mine):
    names = {path.name for path in mine.iterdir()}
    assert names >= {"config.yaml", "environment.json", "last.ckpt", "previous.ckpt", "best.ckpt"}
    assert names >= {"metrics.jsonl", "scores.jsonl", "tensorboard"}
    assert [name for name in names if name.startswith(".")] == [".lock"]
    grids = {path.name for path in Path("samples/mine").iterdir()}
    steps = {f"step-{step:08d}.png" for step in (0, 2, 4, 6)}
    assert grids == steps | {"real.png", "training.webp"}
    with Image.open("samples/mine/training.webp") as film:
        assert film.n_frames == 4
    config = yaml.safe_load((mine / "config.yaml").read_text())
    assert config["model"]["norm"] == "mean_spectral"
    assert config["model"]["penalty_weight"] is None
    environment = json.loads((mine / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])
    (line,) = map(json.loads, (mine / "scores.jsonl").read_text().splitlines())
    assert sorted(key.split("/")[0] for key in line["scores"]) == FAMILIES  # and never an FID
    assert all("/embed-digits-" in key for key in line["scores"])


def test_tensorboard_has_scalars_scores_and_grids(mine):
    events = EventAccumulator(str(mine / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"critic_loss", "generator_loss", "real_logit", "fake_logit"} <= set(tags["scalars"])
    assert any(tag.startswith("fd/embed-digits-") for tag in tags["scalars"])
    assert [event.step for event in events.Scalars("critic_loss")] == [2, 4, 6]
    assert [event.step for event in events.Images("samples")] == [0, 2, 4, 6]
    assert "real" in tags["images"]


def test_grids_and_python_show_the_samples_of_the_average_in_eval_mode(mine):
    generator = load_generator(mine / "last.ckpt")
    picture = tile(torch.cat(list(draw_samples(generator, 64, seed=0)))).numpy()[0]
    with Image.open("samples/mine/step-00000006.png") as saved:
        size = picture.shape[1], picture.shape[0]
        assert (np.asarray(saved.resize(size, Image.Resampling.NEAREST)) == picture).all()
    gan = GAN.load_from_checkpoint(mine / "last.ckpt", weights_only=True)
    assert gan.options.norm == "mean_spectral"
    assert torch.equal(gan.sample(3, seed=2), next(draw_samples(generator, 3, seed=2)))


def test_a_run_says_where_it_is_how_long_it_takes_and_what_comes_next(run, capfd, monkeypatch):
    for name in ("HEARTBEAT_SECONDS", "LEAST_SECONDS", "LONG"):
        monkeypatch.setattr(progress, name, 0)
    monkeypatch.setattr(progress.time, "process_time", lambda: 0.0)  # threads that get no time
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert run("fit", *TINY, *QUIET) == 0
    shown = capfd.readouterr().err
    lines = [x for x in shown.splitlines() if x.startswith("step ")]
    assert [line.split()[1] for line in lines] == [f"{step}/6" for step in range(1, 7)]
    assert all("critic" in line and "generator" in line and "left" in line for line in lines)
    (about,) = [x for x in shown.splitlines() if "to go at" in x]
    assert "fewer --steps or a smaller --model.width take less" in about
    assert "2 threads get the time of 0.0 CPUs" in shown
    name = "digits_msn-width=2-latent_dim=4-batch_size=8-limit=64-size=8-s0-0"
    assert f"msngan resume {name} --steps N" in shown
    assert f"msngan sample {name}" in shown
    assert [progress.clock(seconds) for seconds in (5, 65.4, 3661)] == ["0:05", "1:05", "1:01:01"]


def test_a_saved_config_gives_the_same_run_again_and_a_resume_says_what_changes(mine, run, capfd):
    assert run("fit", "--config", str(mine / "config.yaml"), "--run", "again", *QUIET) == 0
    assert same_bits(weights(mine), weights(Path("checkpoints/again")))
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "7", "--model.critic_lr", "1e-3") == 0
    changes = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    assert sorted(changes) == ["critic_lr: 0.0002 -> 0.001", "steps: 6 -> 7"]


def held(path: Path) -> dict[str, bytes | None]:
    """What a file or a folder holds."""
    return snapshot(path) if path.is_dir() else {"": path.read_bytes()}


class TestSample:
    def test_grids_and_rows(self, mine, run, capsys):
        assert run("sample", "mine", "--grid", "9") == 0
        written = Path(capsys.readouterr().out.strip())
        assert written == Path("samples/mine/sample-00000006-seed0-grid9.png")
        with Image.open(written) as image:
            assert image.size == ((3 * 10 + 2) * 8,) * 2  # 3 x 3 of 8 pixels with gaps, enlarged
        assert run("sample", "mine", "--interpolate", "3", "--columns", "5", "--out", "x.png") == 0
        with Image.open("x.png") as image:
            assert image.size == ((5 * 10 + 2) * 8, (3 * 10 + 2) * 8)

    @pytest.mark.parametrize("name", USED_BY)
    def test_an_option_that_its_picture_does_not_use_is_refused(self, mine, refused, name):
        option = f"--{name.replace('_', '-')}"
        value = {"columns": "5", "format": "npz", "by": "features", "data_root": "."}[name]
        for other in ([], ["--grid", "4"]):
            said = refused("sample", "mine", option, value, *other)
            assert f"{option} without --" in said
            assert "changes nothing" in said

    @pytest.mark.parametrize("other", ["--n", "--interpolate", "--beside-real"])
    def test_a_grid_has_its_size_and_other_pictures_have_theirs(self, mine, refused, other):
        assert f"--grid and {other}" in refused("sample", "mine", "--grid", "9", other, "4")

    def test_no_picture_replaces_one_of_something_else(self, tiny, run, capsys):
        given, files = ["--model.init", "orthogonal"], []  # images that are not all grey
        first, other = (tiny(f"r{seed}", "--seed", str(seed), *given) for seed in (0, 1))
        for folder, name, source in (
            ("a", "one", first),
            ("b", "one", other),  # of the same name
            ("b", "two", other),
        ):
            Path(folder).mkdir(exist_ok=True)
            files.append(f"{folder}/{name}.ckpt")
            shutil.copy(source / "last.ckpt", files[-1])
        ways = ["", "--seed 3", "--raw", "--grid 9", "--interpolate 2", "--interpolate 3"]
        ways += ["--interpolate 2 --columns 3", "--truncation 0.5", "--standing 2"]
        near = "--grid 4 --neighbours"
        ways += [f"{near} 2", f"{near} 3", f"{near} 2 --by features"]
        ways += ["--n 3", "--n 4", "--n 3 --raw", "--n 3 --format npz", "--n 4 --format npz"]
        drawn: dict[str, dict[str, bytes | None]] = {}
        for target in [*files, "r0"]:
            for way in ways:
                capsys.readouterr()
                assert run("sample", target, *way.split()) == 0
                (*_, written) = capsys.readouterr().out.splitlines()
                assert written not in drawn
                drawn[written] = held(Path(written))
        assert Path("sample-one-00000006-seed0.png").exists()
        assert Path("sample-one-00000006-seed0-2.png").exists()
        assert Path("sample-two-00000006-seed0-raw-n3").is_dir()
        assert {name: held(Path(name)) for name in drawn} == drawn
        for way in ("", "--n 3", "--n 3 --format npz"):  # again: the same picture, at its place
            assert run("sample", files[1], *way.split()) == 0
            assert capsys.readouterr().out.strip() in drawn

    def test_npz_holds_the_same_images_as_single_files(self, mine, run):
        assert run("sample", str(mine), "--n", "12", "--format", "npz", "--out", "x.npz") == 0
        assert run("sample", str(mine / "last.ckpt"), "--n", "12", "--out", "x") == 0
        images = np.load("x.npz")["arr_0"]
        assert images.shape == (12, 8, 8, 1)
        assert images.dtype == np.uint8
        files = sorted(Path("x").iterdir())
        assert [path.name for path in files] == [f"{index:02d}.png" for index in range(12)]
        with Image.open(files[3]) as single:
            assert (np.asarray(single) == images[3, :, :, 0]).all()

    def test_seed_and_weights_choose_the_images(self, mine, run):
        files = []
        for name, options in {"a": [], "b": [], "c": ["--seed", "1"], "d": ["--raw"]}.items():
            assert run("sample", "mine", "--out", f"{name}.png", *options) == 0
            files.append(Path(f"{name}.png").read_bytes())
        assert files[0] == files[1] != files[2]
        assert files[0] != files[3]


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_evaluate_gives_the_numbers_of_training_and_the_leaderboard_shows_them(
    precision, tiny, run, capsys
):
    sizes = ["--scores.samples", "30", "--scores.runs", "2", "--trainer.precision", precision]
    folder = tiny("mine", "--scores.enabled", "true", *sizes)
    capsys.readouterr()
    assert run("evaluate", "mine", "--images", "30", "--runs", "2", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    fit, again = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    assert again == row
    assert again["source"] == "evaluate"
    assert fit["protocol_id"] == again["protocol_id"]
    for key, score in fit["scores"].items():  # torchmetrics there, our arithmetic here
        values = again["scores"][key]["values"]
        assert score["values"] == pytest.approx(values, rel=1e-6, abs=1e-6)
    assert run("leaderboard", "--format", "md") == 0
    shown = capsys.readouterr().out
    assert "mine" in shown
    assert "embed-digits-" in shown
    assert "29.8" not in shown  # a published number, of another data set


@pytest.mark.quick
def test_a_file_that_says_its_command_in_its_first_line_is_one(monkeypatch, tmp_path, capsys):
    folder = Path(command_line.__file__).with_name("commands")
    files = {path.stem for path in folder.glob("*.py") if "def main(argv" in path.read_text()}
    assert files == set(command_line.commands())
    shutil.copytree(folder, tmp_path / "commands")
    (tmp_path / "commands/paint.py").write_text('"""msngan paint: make a picture: slowly."""\n')
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "__main__.py"))
    assert command_line.main(["--help"]) == 0
    assert "  paint        make a picture: slowly\n" in capsys.readouterr().out


@pytest.mark.quick
def test_every_packaged_config_is_valid_and_says_what_it_is(run, capsys):
    for name, path in known_configs().items():
        assert len(summary(path)) > 20, name
        if is_study(top_level(path)):
            continue
        config = parse(["--config", f"{name}.yaml"])
        if config.task == "classifier":
            assert config.epochs >= 10
            assert config.data.validation > 0
        else:
            assert config.steps >= 1000
    kinds = {"none": "none", "bn": "batch", "sn": "spectral", "msn": "mean_spectral"}
    for stem in ("mnist_cnn3", "fashion_cnn3", "svhn_vgg7", "cifar_vgg7", "cifar_densenet"):
        found = [yaml.safe_load(known_configs()[f"{stem}_{short}"].read_text()) for short in kinds]
        assert [config["model"].pop("norm") for config in found] == list(kinds.values())
        assert all(each == found[0] for each in found), f"{stem}: they differ in the norm alone"
    assert run("configs") == 0
    groups = capsys.readouterr().out.split("\n\n")
    gans, classifiers, studies = (
        {line.split()[0] for line in group.splitlines()[1:]} for group in groups
    )
    assert gans >= {"digits_msn", "cifar_msn", "cifar_sn", "cifar_wgangp", "folder_msn"}
    assert classifiers >= {"digits_cnn3_msn", "mnist_cnn3_none", "cifar_densenet_bn"}
    assert studies >= {"table1_mnist", "table2"}


def test_configs_fold_for_a_terminal_and_list_one_that_cannot_be_read(run, capsys, monkeypatch):
    Path("configs/a_folder.yaml").mkdir(parents=True)
    Path("configs/a_binary.yaml").write_bytes(b"\xff\xfe")
    assert run("configs") == 0
    piped = capsys.readouterr().out
    assert "a_folder" not in piped
    (line,) = [line for line in piped.splitlines() if "a_binary" in line]
    assert "cannot be read" in line
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run("configs") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 70 < max(map(len, piped.splitlines()))
    assert shown.split() == piped.split()


@pytest.mark.quick
def test_a_config_in_configs_here_hides_the_packaged_one(run, capsys):
    Path("configs").mkdir()
    Path("configs/cifar_msn.yaml").write_text("# mine\nsteps: 1234\n")
    assert run("fit", "--config", "cifar_msn", "--print_config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == 1234
