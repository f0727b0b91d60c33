"""The commands as a person uses them, on tiny runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import same_bits, weights
from PIL import Image

from msngan.leaderboard.experiments import setup_of
from msngan.networks import load_generator
from msngan.runs.atomic import append_line
from msngan.runs.configs import is_study, known_configs, summary, top_level
from msngan.runs.jsonl import read_lines

FAMILIES = ["coverage", "cs", "density", "fd", "kd", "precision", "recall"]
Run = Callable[..., int]
Tiny = Callable[..., Path]


def test_a_run_keeps_config_environment_records_and_checkpoints(
    tiny: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--samples.every", "2", "--checkpoint.every", "2", "--records.every", "3"]
    options += ["--model.generator_lr", "0.05"]  # no two grids of so short a run would differ
    folder = tiny("mine", *options, "--scores.enabled", "true", "--scores.samples", "20")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
        "metrics.jsonl",
        "scores.jsonl",
        "tensorboard",
    }
    assert [name for name in names if name.startswith(".")] == [".lock"]
    grids = {path.name for path in Path("samples/mine").iterdir()}
    steps = {f"step-{step:08d}.png" for step in (0, 2, 4, 6)}
    assert grids == steps | {"real.png", "training.webp"}
    with Image.open("samples/mine/training.webp") as film:
        assert film.n_frames == 4
    shown = capfd.readouterr().err
    assert "msngan resume mine --steps N" in shown
    assert "msngan sample mine" in shown
    assert "extractor: embed-digits-" in shown
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["norm"] == "mean_spectral"
    assert config["model"]["penalty_weight"] is None
    environment = json.loads((folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])


def test_a_run_without_a_name_gets_one_from_config_and_seed(run: Run) -> None:
    from conftest import QUIET, TINY

    for counter in range(2):
        assert run("fit", *TINY, *QUIET, "--seed", "3") == 0
        changed = "-width=2-latent_dim=4-batch_size=8-limit=64-size=8"
        assert Path(f"checkpoints/digits_msn{changed}-s3-{counter}/last.ckpt").is_file()


def test_a_saved_config_gives_the_same_run_again(tiny: Tiny) -> None:
    from conftest import same_bits, weights

    first = tiny("first", "--model.loss", "wasserstein", "--model.norm", "batch")
    again = tiny("again", "--config", str(first / "config.yaml"), "--run", "again")
    assert same_bits(weights(first), weights(again))


def test_a_resumed_run_says_what_changed_and_nothing_else(
    tiny: Tiny, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny("mine")
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "7", "--model.critic_lr", "1e-3") == 0
    changes = [line for line in capfd.readouterr().err.splitlines() if " -> " in line]
    assert sorted(changes) == ["critic_lr: 0.0002 -> 0.001", "steps: 6 -> 7"]


def test_grids_show_the_same_latents_from_the_average_in_eval_mode(tiny: Tiny) -> None:
    options = ["--samples.every", "6", "--samples.count", "4", "--model.generator_lr", "0.05"]
    folder = tiny("mine", *options)
    generator, _ = load_generator(folder / "last.ckpt")
    from msngan.data.images import tile
    from msngan.networks import draw_samples

    picture = tile(torch.cat(list(draw_samples(generator, 4, seed=0)))).numpy()[0]
    with Image.open("samples/mine/step-00000006.png") as saved:
        shown = np.asarray(
            saved.resize((picture.shape[1], picture.shape[0]), Image.Resampling.NEAREST)
        )
    assert (shown == picture).all()


def test_tensorboard_has_scalars_scores_and_grids(tiny: Tiny) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--scores.enabled", "true", "--scores.samples", "20", "--samples.every", "3"]
    folder = tiny("mine", *options, "--records.every", "2")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"critic_loss", "generator_loss", "real_logit", "fake_logit"} <= set(tags["scalars"])
    assert any(tag.startswith("fd/embed-digits-") for tag in tags["scalars"])
    assert [event.step for event in events.Scalars("critic_loss")] == [2, 4, 6]
    assert [event.step for event in events.Images("samples")] == [0, 3, 6]
    assert "real" in tags["images"]


def test_away_from_a_terminal_a_line_now_and_then_says_how_far_it_is(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.training.callbacks import progress

    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0)
    tiny("mine")
    lines = [x for x in capfd.readouterr().err.splitlines() if "steps/s" in x]
    assert [line.split()[1] for line in lines] == [f"{step}/6" for step in range(1, 7)]
    assert all("critic" in line and "generator" in line and "left" in line for line in lines)
    assert [progress.clock(seconds) for seconds in (5, 65.4, 3661)] == ["0:05", "1:05", "1:01:01"]


def test_a_checkpoint_gives_the_gan_back_in_python(tiny: Tiny) -> None:
    from msngan.gan import GAN

    path = tiny("mine", "--model.norm", "batch") / "last.ckpt"
    gan = GAN.load_from_checkpoint(path, weights_only=True)
    assert gan.options.norm == "batch"
    generator, _ = load_generator(path)
    from msngan.networks import draw_samples

    assert torch.equal(gan.sample(3, seed=2), next(draw_samples(generator, 3, seed=2)))


class TestSample:
    def test_grid(self, tiny: Tiny, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        tiny("mine")
        assert run("sample", "mine", "--grid", "9") == 0
        written = Path(capsys.readouterr().out.strip())
        assert written == Path("samples/mine/sample-00000006-seed0.png")
        with Image.open(written) as image:
            assert image.size == ((3 * 10 + 2) * 8,) * 2  # 3 x 3 of 8 pixels with gaps, enlarged

    def test_single_images(self, tiny: Tiny, run: Run) -> None:
        tiny("mine")
        assert run("sample", "mine", "--n", "12", "--out", "many") == 0
        files = sorted(Path("many").iterdir())
        assert [path.name for path in files] == [f"{index:02d}.png" for index in range(12)]
        with Image.open(files[0]) as image:
            assert image.size == (8, 8)

    def test_npz_holds_the_same_images_in_the_layout_of_other_tools(
        self, tiny: Tiny, run: Run
    ) -> None:
        folder = tiny("mine")
        assert run("sample", str(folder), "--n", "5", "--format", "npz", "--out", "x.npz") == 0
        assert run("sample", str(folder / "last.ckpt"), "--n", "5", "--out", "x") == 0
        images = np.load("x.npz")["arr_0"]
        assert images.shape == (5, 8, 8, 1)
        assert images.dtype == np.uint8
        with Image.open("x/3.png") as single:
            assert (np.asarray(single) == images[3, :, :, 0]).all()

    def test_seed_and_weights_choose_the_images(self, tiny: Tiny, run: Run) -> None:
        tiny("mine", "--model.generator_lr", "0.05")
        files = []
        for name, options in {"a": [], "b": [], "c": ["--seed", "1"], "d": ["--raw"]}.items():
            assert run("sample", "mine", "--out", f"{name}.png", *options) == 0
            files.append(Path(f"{name}.png").read_bytes())
        assert files[0] == files[1] != files[2]
        assert files[0] != files[3]

    def test_interpolation_rows_run_from_one_image_to_another(self, tiny: Tiny, run: Run) -> None:
        tiny("mine")
        assert run("sample", "mine", "--interpolate", "3", "--columns", "5", "--out", "x.png") == 0
        with Image.open("x.png") as image:
            assert image.size == ((5 * 10 + 2) * 8, (3 * 10 + 2) * 8)


def test_a_line_after_one_that_a_kill_has_cut_is_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    append_line(path, {"step": 1})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 2, "sco')
    append_line(path, {"step": 3})
    append_line(path, {"step": 4})
    assert path.read_text().splitlines() == [
        '{"step": 1}',
        '{"step": 2, "sco',
        '{"step": 3}',
        '{"step": 4}',
    ]
    assert [line["step"] for line in read_lines(path)] == [1, 3, 4]


@pytest.mark.parametrize("content", [{"msngan": 3}, {"msngan": {}}, [1], {}])
def test_a_checkpoint_of_another_program_is_refused_in_one_line(
    content: object, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert run("sample", str(tmp_path / "other.ckpt")) == 2
    assert "other.ckpt is not a msngan checkpoint" in capsys.readouterr().err


def test_a_run_that_began_at_another_s_checkpoint_keeps_that_in_its_config(
    tiny: Tiny, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tiny("first")
    second = tiny("second", "--ckpt_path", str(first / "last.ckpt"), "--steps", "9")
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert config["ckpt_path"] == str((first / "last.ckpt").resolve())
    fresh = yaml.safe_load((first / "config.yaml").read_text())
    assert setup_of({**fresh, "steps": 9}).config_id != setup_of(config).config_id
    end = weights(second)
    for checkpoint in second.glob("*.ckpt"):
        checkpoint.unlink()  # as if it had been killed before the first of its own
    assert run("resume", "second") == 0
    assert same_bits(weights(second), end)
    assert torch.load(second / "last.ckpt", weights_only=True)["msngan"]["step"] == 9


class TestEvaluate:
    @pytest.mark.parametrize("precision", ["32-true", "64-true"])
    def test_gives_the_numbers_of_training_and_adds_a_line(
        self, precision: str, tiny: Tiny, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sizes = ["--scores.samples", "30", "--scores.runs", "2"]
        kind = ["--trainer.precision", precision]
        folder = tiny("mine", "--scores.enabled", "true", *sizes, *kind)
        capsys.readouterr()
        assert run("evaluate", "mine", "--images", "30", "--runs", "2", "--format", "json") == 0
        (row,) = json.loads(capsys.readouterr().out)
        fit, again = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
        assert again == row
        assert again["source"] == "evaluate"
        assert fit["protocol_id"] == again["protocol_id"]
        for key, score in fit["scores"].items():  # torchmetrics there, our arithmetic here
            assert score["values"] == pytest.approx(
                again["scores"][key]["values"], rel=1e-6, abs=1e-6
            )

    def test_the_embedded_extractor_never_gives_an_fid(self, tiny: Tiny, run: Run) -> None:
        folder = tiny("mine", "--scores.enabled", "true", "--scores.samples", "20")
        (line,) = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
        assert sorted(key.split("/")[0] for key in line["scores"]) == FAMILIES
        assert all("/embed-digits-" in key for key in line["scores"])

    def test_the_leaderboard_shows_it(
        self, tiny: Tiny, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny("mine", "--scores.enabled", "true", "--scores.samples", "20")
        capsys.readouterr()
        assert run("leaderboard", "--format", "md") == 0
        shown = capsys.readouterr().out
        assert "mine" in shown
        assert "embed-digits-" in shown
        assert "29.8" not in shown  # a published number, of another data set


RUN_CONFIGS = {name for name, path in known_configs().items() if not is_study(top_level(path))}


@pytest.mark.parametrize("name", sorted(known_configs()))
def test_every_packaged_config_says_what_it_is(name: str) -> None:
    assert len(summary(known_configs()[name])) > 20


@pytest.mark.parametrize("name", sorted(RUN_CONFIGS))
def test_every_packaged_config_is_valid(
    name: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--config", f"{name}.yaml", "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    if config["task"] == "classifier":
        assert config["epochs"] >= 10
        assert config["data"]["validation"] > 0
    else:
        assert config["steps"] >= 1000


def test_the_configs_of_a_network_differ_in_the_norm_alone(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"none": "none", "bn": "batch", "sn": "spectral", "msn": "mean_spectral"}
    for stem in ("mnist_cnn3", "fashion_cnn3", "svhn_vgg7", "cifar_vgg7", "cifar_densenet"):
        found = []
        for short, norm in kinds.items():
            config = yaml.safe_load(known_configs()[f"{stem}_{short}"].read_text())
            assert config["model"].pop("norm") == norm
            found.append(config)
        assert all(each == found[0] for each in found), stem


def test_configs_lists_them_by_what_they_train(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("configs") == 0
    groups = capsys.readouterr().out.split("\n\n")
    gans, classifiers, studies = (
        {line.split()[0] for line in group.splitlines()[1:]} for group in groups
    )
    assert gans >= {
        *("digits_msn", "cifar_msn", "cifar_sn", "cifar_wgangp", "cifar_none"),
        *("mnist_msn", "fashion_msn", "svhn_msn", "folder_msn"),
    }
    assert classifiers >= {"digits_cnn3_msn", "mnist_cnn3_none", "cifar_densenet_bn"}
    assert studies >= {"table1_mnist", "table2"}


def test_configs_fold_for_a_terminal_and_list_one_that_cannot_be_read(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_fit_sends_a_study_to_its_own_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", "table1_mnist.yaml") == 2
    shown = capsys.readouterr().err
    assert "is a study of many runs" in shown
    assert "`msngan study table1_mnist`" in shown
    assert shown.count("\n") == 1


def test_a_config_in_configs_here_hides_the_packaged_one(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar_msn.yaml").write_text("# mine\nsteps: 1234\n")
    assert run("fit", "--config", "cifar_msn", "--print_config") == 0
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == 1234


def test_flags_win_over_the_config_and_later_configs_over_earlier(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("steps: 5\nseed: 1\nmodel: {width: 3}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    options = ["--config", "a.yaml", "--config", "b.yaml", "--model.width", "4", "--print_config"]
    assert run("fit", *options) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["steps"], config["seed"], config["model"]["width"]) == (5, 2, 4)
