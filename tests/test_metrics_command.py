"""`msngan extractor`: a file and a card from a command, and errors before minutes of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_extractor import network, photographs

from msngan import images as convert
from msngan.commands import extractor
from msngan.metrics import fitting
from msngan.metrics.card import save_with_card
from msngan.metrics.extractors import choose
from msngan.metrics.recipes import RECIPES
from msngan.metrics.shipped import EmbeddedExtractor, shipped
from msngan.runs import UserError

SMALL = fitting.Recipe(widths=(4, 4, 8, 8), shift=2)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MSNGAN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A labelled folder: 60 reddish and 60 bluish squares of 20 x 20."""
    draw = torch.Generator().manual_seed(0)
    for label, channel in (("blue", 2), ("red", 0)):
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True)
        for index in range(60):
            pixels = torch.randint(0, 100, (20, 20, 3), generator=draw)
            pixels[..., channel] += 120
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def run(*arguments: str) -> int:
    return extractor.main(list(arguments))


FIT = ("fit", "--dataset", "folder", "--epochs", "3", "--batch-size", "16", "--root")


def test_fit_makes_an_extractor_of_a_labelled_folder_with_its_card(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "folder", SMALL)
    before = torch.get_rng_state()
    assert run(*FIT, str(pictures)) == 0
    assert torch.equal(torch.get_rng_state(), before)
    made = EmbeddedExtractor.load("folder.safetensors")
    facts = made.metadata
    assert (made.classes, made.channels, facts["train_images"]) == (2, 3, "108")
    assert json.loads(facts["recipe"])["epochs"] == 3
    assert float(facts["test_accuracy"]) > 0.7
    card = Path("folder.md").read_text(encoding="utf-8")
    assert made.name in card
    assert f"| test accuracy | {facts['test_accuracy']}, on 12 images |" in card
    assert "| 12 | " in card  # real against real, with all that are held out
    out = capsys.readouterr().out
    assert "epoch 3/3: loss " in out
    assert "folder.safetensors" in out
    found, _ = choose("folder.safetensors", "folder", 3)
    assert found.name == made.name


def test_the_same_seed_makes_the_same_file_and_another_another(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "folder", SMALL)
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(*FIT, str(pictures), "--out", f"{name}.safetensors", "--seed", seed) == 0
    a, b, c = (Path(f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_accuracy_is_of_test_images_and_of_the_weights_that_the_file_has(tmp_path: Path) -> None:
    net = network()
    full = net.head.weight.clone()
    images = photographs(40)
    with torch.no_grad():
        guessed = net(convert.to_float(images)).argmax(1)
    train, test = (images, guessed), (images, (guessed + 1) % 5)
    save_with_card(net, tmp_path / "x.safetensors", "toy", SMALL, train, test, 0.5)
    assert EmbeddedExtractor.load(tmp_path / "x.safetensors").metadata["test_accuracy"] == "0.0000"
    assert not torch.equal(net.head.weight, full)
    assert torch.equal(net.head.weight, full.half().float())


@pytest.fixture
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it trained before it checked")

    monkeypatch.setattr(fitting, "fit_extractor", refuse)


REFUSED = {
    "an unknown data set": (("--dataset", "cifar"), "unknown data set 'cifar' (did you mean"),
    "no folder": (("--dataset", "folder"), "needs --root"),
    "missing files": (("--dataset", "mnist", "--root", "none", "--no-download"), "--root or MSN"),
    "another ending": (("--dataset", "digits", "--out", "x.pt"), "must end in .safetensors"),
    "a missing folder": (("--dataset", "digits", "--out", "no/x.safetensors"), "no folder no"),
    "a file that exists": (("--dataset", "digits", "--out", "old.safetensors"), "exists; give"),
    "a card that exists": (("--dataset", "digits", "--out", "card.safetensors"), "card.md exists"),
    "a batch too large": (("--dataset", "digits", "--batch-size", "2000"), "--batch-size"),
}


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("case", REFUSED)
def test_fit_refuses(case: str) -> None:
    Path("old.safetensors").touch()
    Path("card.md").touch()
    arguments, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        run("fit", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "--data." not in str(error.value)
    assert Path("old.safetensors").read_bytes() == b""


@pytest.mark.usefixtures("_no_training")
def test_fit_refuses_images_without_labels(pictures: Path) -> None:
    for folder in (pictures / "red", pictures):  # no subfolders; then only one
        with pytest.raises(UserError, match="no labels, or one class only, .*shipped extractor"):
            run(*FIT, str(folder))
        for file in (pictures / "red").iterdir():
            file.unlink()


@pytest.mark.parametrize("option", [("--epochs", "0"), ("--batch-size", "-1"), ("--epoch", "3")])
def test_wrong_options_are_one_line_and_exit_2(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run("fit", "--dataset", "digits", *option)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("style", ["table", "json", "csv", "md"])
def test_list_shows_every_shipped_extractor(
    style: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run("list", "--format", style) == 0
    out = capsys.readouterr().out
    for dataset, path in shipped().items():
        assert dataset in out
        assert EmbeddedExtractor.load(path).name in out
    if style == "json":
        assert [row["data set"] for row in json.loads(out)] == sorted(shipped())
