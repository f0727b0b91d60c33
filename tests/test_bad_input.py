"""Bad input gets one clear line, exit code 2, and nothing written or overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY
from PIL import Image

from msngan.runs.options import options_of
from msngan.scores.protocol import METRICS

FIT = ["fit", *TINY, *QUIET]
FOLDER = [*FIT, "--data.dataset", "folder", "--data.root", "pictures", "--data.limit", "null"]

GPU = [*FIT, "--trainer.accelerator", "gpu"]
WITHOUT_A_GPU = [] if torch.cuda.is_available() else [(GPU, "no GPU is available here; use cpu")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fti"], "unknown command 'fti' (did you mean 'fit'"),
        (["fit"], "nothing to train; give a config, as `msngan fit --config digits_msn`"),
        (["fit", "digits_msn.yaml"], "a config is given as --config digits_msn.yaml"),
        (["fit", "--config"], "--config needs a name, as --config digits_msn"),
        (["fit", "--config", "cifar_mns"], "did you mean 'cifar_msn'"),
        (["fit", "--config", "no/such/file.yaml"], "no config 'no/such/file.yaml'"),
        ([*FIT, "--model.compile", "true", "--model.penalty", "r1"], "second derivative"),
        ([*FIT, "--data.batch_size", "65"], "the data set has 64"),
        ([*FIT, "--data.split", "validation"], "no split 'validation'"),
        ([*FIT, "--scores.protocol", "papr"], "did you mean 'paper'?"),
        ([*FIT, "--scores.protocol", "mine.yaml"], "mine.yaml"),
        ([*FIT, "--scores.best=kid", "--scores.metrics=fid,is"], "kid needs kid in --scores.metr"),
        ([*FIT, "--scores.best=recall", "--scores.metrics=fid"], "recall needs prc in"),
        ([*FIT, "--scores.metrics=is"], "--scores.best fid needs fid in --scores.metrics"),
        ([*FIT, "--scores.metrics", "fid,kidd"], f"choose from {', '.join(METRICS)}"),
        ([*FIT, "--scores.metrics", "[]"], "--scores.metrics is empty; choose from fid"),
        ([*FIT, "--model.penalty", "none,r1"], "--model.penalty none,r1: none goes with no other"),
        ([*FIT, "--model.penalty", "[r1, none]"], "r1,none: none goes with no other penalty"),
        ([*FIT, "--detect-anomaly", "--model.compile", "true"], "--model.compile false"),
        ([*FIT, "--scores.enabled", "true", "--scores.extractor", "imagenet"], "imagenet"),
        ([*FIT, "--scores.enabled=true", "--scores.extractor", "x.safetensors"], "x.safetensors"),
        ([*FIT, "--trainer.devices", "2"], "torchrun"),
        ([*FIT, "--trainer.devices", "0"], "--trainer.devices 0 is less than 1"),
        (
            [*FIT, "--trainer.devices", "9999", "--trainer.accelerator", "cpu"],
            "--trainer.devices 9999 would be more than 4 processes for each CPU core",
        ),
        ([*FIT, "--trainer.devices", "0,x"], "0,x is not a list of GPU numbers; write it as 0,1"),
        ([*FIT, "--trainer.devices=0,1,", "--trainer.accelerator=cpu"], "give a number of proc"),
        *(
            []
            if torch.cuda.is_available()
            else [([*FIT, "--trainer.accelerator", "gpu"], "no GPU is")]
        ),
        (["study", "x", "--address", "auto"], "--address without --on ray changes nothing"),
        (["study", "x", "--gpus-per-run", "1"], "--gpus-per-run without --on ray"),
        (["study", "x", "--on", "ray", "--cpus-per-run", "-1"], "--cpus-per-run -1.0 is not"),
        ([*FIT, "--threads", "5000"], "--threads 5000 is more than 1024"),
        (["study", "x", "--threads", "5000"], "--threads 5000 is more than 1024"),
        (["evaluate", "x", "--threads", "5000"], "--threads 5000 is more than 1024"),
        (
            ["study", "study_digits", "--jobs", "9999"],
            "--jobs 9999 would be more than 4 processes for",
        ),
        (["study", "x", "--on", "ray", "--jobs", "2"], "--jobs with --on ray: the cluster's"),
        ([*FIT, "--trainer.num_nodes", "0"], "--trainer.num_nodes"),
        ([*FIT, "--dynamics.every", "-1"], "--dynamics.every -1"),
        (
            [*FIT, "--dynamics.smoothness", "true", "--dynamics.every", "0"],
            "--dynamics.smoothness true with --dynamics.every 0 measures nothing",
        ),
        ([*FIT, "--trainer.accelerator", "abacus"], "abacus"),
        ([*FIT, "--run", "../elsewhere"], "not a run name"),
        ([*FIT, "--ckpt_path", "missing.ckpt"], "no checkpoint missing.ckpt"),
        ([*FIT, "--root", "/proc/1/nowhere"], "--root"),
        (["fit", "--data.root", "empty", "--data.download", "false"], "CIFAR10"),
        ([*FIT, "--model.width", "1000000"], "do not fit into memory: they take"),
        (["fit", "--data.dataset", "folder"], "--data.root"),
        ([*FOLDER], "pictures"),
        (["resume", "nothing"], "no run 'nothing'"),
        (["sample", "nothing"], "no run, folder or checkpoint 'nothing'"),
        (["evaluate", "nothing"], "no run, folder or checkpoint 'nothing'"),
        (["sample", "nothing", "--n", "0"], "--n 0"),
        (["sample", "nothing", "--n", "99999999999"], "--n 99999999999 is more than 16777216"),
        (["sample", "nothing", "--out", "folder"], "--out folder must end in one of .png, .webp"),
        (["leaderboard", "--fromat", "json"], "did you mean '--format'"),
        (["extractor", "fit", "--dataset", "cifar"], "cifar10"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named_with_its_remedy(refused, arguments, words):
    assert words in refused(*arguments)


OF_PENALTY = [name for name in options_of("gan") if name.startswith("model.penalty_")]


@pytest.mark.parametrize("option", OF_PENALTY)
def test_an_option_of_a_penalty_is_refused_where_there_is_none(tiny, run, refused, option):
    value = {"model.penalty_statistics": "batch"}.get(option, "3")
    asked = [f"--{option}", value]
    for penalty in ([], ["--model.penalty", "none"]):
        line = refused(*FIT, *penalty, *asked)
        assert f"--{option} {value}" in line
        assert "without a penalty changes nothing; leave it out" in line
    Path("base.yaml").write_text(f"model: {{penalty: r1, {option.partition('.')[2]}: {value}}}")
    assert run(*FIT, "--config", "base.yaml", "--model.penalty", "none", "--print_config") == 0
    folder = tiny("mine", "--config", "base.yaml")
    Path("base.yaml").write_text(f"model: {{{option.partition('.')[2]}: {value}}}")
    assert run(*FIT, "--config", "base.yaml", "--print_config") == 0
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("penalty: r1", "penalty: none"))
    assert "changes nothing" in refused("resume", "mine", "--steps", "7", *asked)


def test_older_runs_that_have_a_penalty_of_none_beside_others_go_on(tiny, run, refused):
    folder = tiny("mine", "--model.penalty", "r1", "--model.penalty_weight", "0.1")
    text = (folder / "config.yaml").read_text()
    text = text.replace("penalty: r1", "penalty: [none, r1]")
    text = text.replace("penalty_weight: 0.1", "penalty_weight: [0.0, 0.1]")
    (folder / "config.yaml").write_text(text)
    assert run("resume", "mine", "--steps", "7") == 0
    again = ["resume", "mine", "--steps", "8", "--model.penalty", "none,r1"]
    assert "none goes with no other" in refused(*again)


OTHER = [
    *("model.width=3", "model.norm=spectral", "model.critic=cnn_wide", "model.latent_dim=5"),
    *("model.conv_bias=true", "model.ema_decay=0", "data.size=16", "data.channels=3"),
]


def test_a_run_is_not_overwritten_nor_continued_as_another_network(mine, refused):
    assert "msngan resume mine" in refused(*FIT, "--run", "mine")
    line = refused("resume", "mine")
    assert "has done 6 steps, and --steps is 6; give a larger --steps to go on" in line
    line = refused("evaluate", "mine", "--device", "meta")
    assert "--device meta cannot score; use cpu" in line
    for option in OTHER:
        line = refused(*FIT, "--ckpt_path", str(mine / "last.ckpt"), f"--{option}")
        assert option.partition("=")[0].partition(".")[2] in line
        assert "last.ckpt" in line


def test_a_checkpoint_that_is_cut_or_foreign_is_refused(mine, refused, tmp_path):
    whole = (mine / "last.ckpt").read_bytes()
    for path in (mine / "last.ckpt", mine / "previous.ckpt"):
        path.write_bytes(whole[: len(whole) // 2])
    assert "cut or changed" in refused("resume", "mine")
    line = refused("sample", "mine")
    assert "cut, or another program wrote it; beside it is " in line
    assert (mine / line.rpartition(" ")[2]).is_file()
    (tmp_path / "empty.ckpt").touch()
    assert "cut, or another program wrote it" in refused(*FIT, "--ckpt_path", "empty.ckpt")
    torch.save({"model": torch.zeros(3)}, tmp_path / "x.ckpt")
    for words in ([*FIT, "--ckpt_path", "x.ckpt"], ["sample", "x.ckpt"], ["evaluate", "x.ckpt"]):
        assert "not a msngan checkpoint" in refused(*words)


def test_samples_of_a_moving_average_that_was_not_kept_are_refused(tiny, refused):
    tiny("mine", "--model.ema_decay", "0", "--steps", "1")
    assert "--raw" in refused("sample", "mine")


@pytest.mark.filterwarnings("error::UserWarning")  # it would be a second line
@pytest.mark.parametrize(
    ("pictures", "options", "words"),
    [
        ({}, [], "pictures"),
        ({"a": (8, "RGB"), "b": (16, "RGB")}, ["--data.size", "null"], "--data.size"),
        ({"a": (12, "RGB")}, ["--data.size", "null", "--data.cache", "none"], "--data.size"),
        ({"a": (8, "RGB"), "b": (4, "L"), "bad": None}, [], "bad.png"),
    ],
    ids=["empty", "mixed sizes", "an impossible size", "a corrupt file"],
)
def test_a_folder_that_cannot_be_trained_on(refused, tmp_path, pictures, options, words):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, kind in pictures.items():
        if kind is None:
            (folder / f"{name}.png").write_bytes((folder / "a.png").read_bytes()[:40])
        else:
            Image.new(kind[1], (kind[0], kind[0])).save(folder / f"{name}.png")
    assert words in refused(*FOLDER, *options)


@pytest.mark.parametrize("command", ["fit --help", "configs"])
def test_a_reader_that_has_seen_enough_is_no_error(command):
    words = [sys.executable, "-m", "msngan", *command.split()]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # before anything is written
    assert process.wait() == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["sample", "report"])
def test_a_name_that_is_no_run_gets_the_first_runs_not_a_page_of_them(command, refused, tmp_path):
    for i in range(20):
        (tmp_path / "checkpoints" / f"run-{i:02d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"run-{i:02d}" / "config.yaml").write_text("task: gan\n")
    line = refused(command, "nothing", "--root", str(tmp_path))
    assert line.rstrip().endswith("run-06, run-07 and 12 more")


def test_a_config_of_ones_own_is_suggested_with_its_ending(refused, tmp_path):
    (tmp_path / "small.yaml").write_text("steps: 2\n")
    assert "no config 'small' (did you mean 'small.yaml'?)" in refused("fit", "--config", "small")
