"""Bad input gets one clear line, exit code 2, and nothing written or overwritten."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY
from PIL import Image

Run = Callable[..., int]
FIT = ["fit", *TINY, *QUIET]
FOLDER = [*FIT, "--data.dataset", "folder", "--data.root", "pictures", "--data.limit", "null"]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below, by content, and every folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink()
    }


@pytest.fixture
def refused(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused; returns its one line."""

    def call(*arguments: str) -> str:
        before = snapshot(tmp_path)
        capfd.readouterr()
        assert run(*arguments) == 2
        shown = capfd.readouterr()
        lines = shown.err.strip().splitlines()
        assert len(lines) == 1, shown.err
        assert lines[0].startswith("msngan")
        assert "error: " in lines[0]
        assert "Traceback" not in shown.out + shown.err
        assert not shown.out.strip()
        assert snapshot(tmp_path) == before
        return lines[0]

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fti"], "unknown command 'fti' (did you mean 'fit'"),
        (["fit", "--config", "cifar_mns"], "did you mean 'cifar_msn'"),
        (["fit", "--config", "no/such/file.yaml"], "no config 'no/such/file.yaml'"),
        ([*FIT, "--model.compile", "true", "--model.penalty", "r1"], "second derivative"),
        ([*FIT, "--data.batch_size", "65"], "the data set has 64"),
        ([*FIT, "--data.split", "validation"], "no split 'validation'"),
        ([*FIT, "--scores.protocol", "papr"], "paper"),
        ([*FIT, "--scores.enabled", "true", "--scores.extractor", "imagenet"], "imagenet"),
        (
            [*FIT, "--scores.enabled", "true", "--scores.extractor", "x.safetensors"],
            "x.safetensors",
        ),
        ([*FIT, "--trainer.devices", "2"], "torchrun"),
        ([*FIT, "--trainer.devices", "0"], "--trainer.devices 0 is less than 1"),
        ([*FIT, "--trainer.accelerator", "abacus"], "abacus"),
        ([*FIT, "--run", "../elsewhere"], "not a run name"),
        ([*FIT, "--ckpt_path", "missing.ckpt"], "no checkpoint missing.ckpt"),
        ([*FIT, "--root", "/proc/1/nowhere"], "--root"),
        (
            [
                "fit",
                "--data.dataset",
                "cifar10",
                "--data.root",
                "empty",
                "--data.download",
                "false",
            ],
            "CIFAR10",
        ),
        (["fit", "--data.dataset", "folder"], "--data.root"),
        ([*FOLDER], "pictures"),
        (["resume", "nothing"], "no run 'nothing'"),
        (["sample", "nothing"], "no run, folder or checkpoint 'nothing'"),
        (["evaluate", "nothing"], "no run, folder or checkpoint 'nothing'"),
        (["sample", "nothing", "--n", "0"], "--n 0"),
        (["leaderboard", "--fromat", "json"], "did you mean '--format'"),
        (["extractor", "fit", "--dataset", "cifar"], "cifar10"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named_with_its_remedy(
    refused: Callable[..., str], arguments: list[str], words: str
) -> None:
    assert words in refused(*arguments)


def test_a_taken_run_name_is_refused_and_the_run_left_alone(
    tiny: Callable[..., Path], refused: Callable[..., str]
) -> None:
    tiny("mine")
    assert "msngan resume mine" in refused(*FIT, "--run", "mine")


class TestCheckpoints:
    def test_cut(self, tiny: Callable[..., Path], refused: Callable[..., str]) -> None:
        folder = tiny("mine")
        whole = (folder / "last.ckpt").read_bytes()
        (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2])
        assert "cut or changed" in refused("resume", "mine")
        assert "cut, or another program wrote it" in refused("sample", "mine")

    def test_empty(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "x.ckpt").touch()
        assert "cut, or another program wrote it" in refused(*FIT, "--ckpt_path", "x.ckpt")

    def test_of_another_program(self, refused: Callable[..., str], tmp_path: Path) -> None:
        torch.save({"model": torch.zeros(3)}, tmp_path / "x.ckpt")
        assert "not a msngan checkpoint" in refused(*FIT, "--ckpt_path", "x.ckpt")
        assert "not a msngan checkpoint" in refused("sample", "x.ckpt")
        assert "not a msngan checkpoint" in refused("evaluate", "x.ckpt")

    def test_that_is_a_program(self, refused: Callable[..., str], tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, ("executed",)

        with open(tmp_path / "x.ckpt", "wb") as file:
            pickle.dump({"msngan": {"format": 1}, "x": Payload()}, file)
        assert "x.ckpt" in refused("sample", "x.ckpt")
        torch.save({"msngan": {"format": 1}, "x": Payload()}, tmp_path / "y.ckpt")
        assert "y.ckpt" in refused("sample", "y.ckpt")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--model.width", "3", "width"),
            ("--model.norm", "spectral", "norm"),
            ("--model.critic", "cnn_wide", "critic"),
            ("--model.latent_dim", "5", "latent_dim"),
            ("--model.conv_bias", "true", "conv_bias"),
            ("--model.ema_decay", "0", "ema_decay"),
            ("--data.size", "16", "size"),
            ("--data.channels", "3", "channels"),
        ],
    )
    def test_of_another_architecture(
        self,
        tiny: Callable[..., Path],
        refused: Callable[..., str],
        option: str,
        value: str,
        words: str,
    ) -> None:
        folder = tiny("mine")
        line = refused(*FIT, "--ckpt_path", str(folder / "last.ckpt"), option, value)
        assert words in line
        assert "last.ckpt" in line

    def test_of_a_run_that_is_done(
        self, tiny: Callable[..., Path], refused: Callable[..., str]
    ) -> None:
        tiny("mine")
        assert "has done 6 steps" in refused("resume", "mine")

    def test_without_a_moving_average(
        self, tiny: Callable[..., Path], refused: Callable[..., str]
    ) -> None:
        tiny("mine", "--model.ema_decay", "0")
        assert "--raw" in refused("sample", "mine")


class TestFolders:
    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path: Path) -> Path:
        (tmp_path / "pictures").mkdir()
        return tmp_path / "pictures"

    def save(self, folder: Path, name: str, size: tuple[int, int], mode: str = "RGB") -> None:
        Image.new(mode, size).save(folder / name)

    def test_empty(self, refused: Callable[..., str]) -> None:
        assert "pictures" in refused(*FOLDER)

    def test_with_a_corrupt_image(self, refused: Callable[..., str], pictures: Path) -> None:
        self.save(pictures, "good.png", (8, 8))
        (pictures / "bad.png").write_bytes((pictures / "good.png").read_bytes()[:40])
        assert "bad.png" in refused(*FOLDER)

    def test_of_mixed_sizes_without_a_size(
        self, refused: Callable[..., str], pictures: Path
    ) -> None:
        self.save(pictures, "a.png", (8, 8))
        self.save(pictures, "b.png", (16, 16))
        assert "--data.size" in refused(*FOLDER, "--data.size", "null")

    def test_of_mixed_modes_without_channels(
        self, refused: Callable[..., str], pictures: Path
    ) -> None:
        self.save(pictures, "a.png", (8, 8))
        self.save(pictures, "b.png", (8, 8), "L")
        assert "--data.channels" in refused(*FOLDER)

    def test_of_a_size_that_the_networks_cannot_have(
        self, refused: Callable[..., str], pictures: Path
    ) -> None:
        self.save(pictures, "a.png", (12, 12))
        assert "--data.size" in refused(*FOLDER, "--data.size", "null")
