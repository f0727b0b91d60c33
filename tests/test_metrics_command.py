"""`msngan extractor`: a file and a card from a command, and errors before minutes of training."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_architecture import loaded_after
from toy_extractor import network, photographs

from msngan.commands import extractor
from msngan.data import images as convert
from msngan.data import load
from msngan.runs.folder import UserError
from msngan.scores import fitting
from msngan.scores.card import save_with_card
from msngan.scores.disturbances import DISTURBANCES
from msngan.scores.extractors import choose
from msngan.scores.floors import summary
from msngan.scores.recipes import RECIPES
from msngan.scores.responses import Response, Row
from msngan.scores.shipped import EmbeddedExtractor, shipped

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


def tables(card: str) -> dict[str, list[dict[str, str]]]:
    """The first cell of a table's head -> its rows, each by column."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()
        )
        if head[0]:
            found[head[0]] = [dict(zip(head, row, strict=True)) for row in rows]
    return found


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
    assert "| 2000 | " in card
    levels = {name: [row[name] for row in rows] for name, rows in tables(card).items()}
    assert levels["classes"] == ["none", "1"]
    assert levels["collapse"] == ["none", "6"]
    assert levels["jpeg"] == ["none", "90", "70", "50", "30", "10"]
    assert "nan" not in card
    assert "Not as the file has it" not in card
    assert "`msngan extractor card folder.safetensors --root DIR`" in card
    out = capsys.readouterr().out
    assert "epoch 3/3: loss " in out
    assert "measuring: blur" in out
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


def test_the_smallest_folder_that_can_be_fitted_gets_a_card(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "folder", SMALL)
    for file in sorted(pictures.rglob("*.png")):
        if int(file.stem) >= 11:
            file.unlink()
    assert run(*FIT, str(pictures)) == 0
    card = Path("folder.md").read_text(encoding="utf-8")
    assert "on 2 images |" in card
    found = tables(card)
    assert [row["collapse"] for row in found["collapse"]] == ["none", "1"]
    assert "precision" not in found["blur"][0]  # of 2 images no third neighbour is known
    assert "nan" not in card


@pytest.fixture
def fitted(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An extractor of `pictures` with its card, beside it the folder."""
    monkeypatch.setitem(RECIPES, "folder", SMALL)
    assert run(*FIT, str(pictures)) == 0
    return Path("folder.safetensors")


def test_card_measures_without_training_what_fit_measured(
    fitted: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fitting, "fit_extractor", None)
    weights, text = fitted.read_bytes(), fitted.with_suffix(".md").read_text(encoding="utf-8")
    fitted.with_suffix(".md").write_text("an old card")
    capsys.readouterr()
    assert run("card", str(fitted), "--root", str(pictures)) == 0
    assert fitted.read_bytes() == weights
    assert fitted.with_suffix(".md").read_text(encoding="utf-8") == text
    out = capsys.readouterr().out
    assert text in out
    assert "note:" not in out
    assert run("card", str(fitted), "--dataset", "folder", "--root", str(pictures)) == 0


def test_card_says_where_the_file_is_not_borne_out(
    fitted: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue = (sorted((pictures / name).iterdir()) for name in ("red", "blue"))
    for one, other in zip(red[10:], blue[10:], strict=True):  # most labels are wrong now
        pixels = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(pixels)
    assert run("card", str(fitted), "--root", str(pictures)) == 0
    out = capsys.readouterr().out
    card = fitted.with_suffix(".md").read_text(encoding="utf-8")
    said = EmbeddedExtractor.load(fitted).metadata["test_accuracy"]
    found = float(next(line for line in card.splitlines() if "| test acc" in line).split()[4][:-1])
    assert found < 0.5 < float(said)
    for where in (out.replace("\n", " "), " ".join(card.split())):
        assert f"the file says a test accuracy of {said}; measured now: {found:.4f}" in where
        assert "the file says that it was trained on" not in where
    for path in blue[:20]:
        path.unlink()
    assert run("card", str(fitted), "--root", str(pictures)) == 0
    assert "note: the file says that it was trained on 108 images; these are 90," in (
        capsys.readouterr().out
    )


def test_card_of_the_digits_is_quick_and_changes_nothing_in_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "digits.safetensors"
    copy.write_bytes(shipped()["digits"].read_bytes())
    start = time.process_time()
    assert run("card", str(copy)) == 0
    assert time.process_time() - start < 8  # two, unless the processor is shared
    assert copy.read_bytes() == shipped()["digits"].read_bytes()
    card = copy.with_suffix(".md").read_text(encoding="utf-8")
    assert "359 test images of 8 x 8 pixels" in card
    mine = tables(card)
    theirs = tables(shipped()["digits"].with_suffix(".md").read_text(encoding="utf-8"))
    assert mine.keys() == theirs.keys()
    for name, rows in theirs.items():
        for row, again in zip(rows, mine[name], strict=True):
            assert again[name] == row[name]
            fd, said = (float(each["FD"].split()[0].rstrip(",")) for each in (again, row))
            assert fd == pytest.approx(said, rel=0.02)  # another machine rounds otherwise


def test_a_card_that_cannot_be_measured_leaves_the_old_one(
    fitted: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = fitted.with_suffix(".md")
    card.write_text("an old card")

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("msngan.scores.card.responses", fail)
    with pytest.raises(RuntimeError):
        run("card", str(fitted), "--root", str(pictures))
    assert card.read_text() == "an old card"
    assert sorted(Path().glob(".folder*")) == []


BAD_CARDS = {
    "a missing file": (("none.safetensors",), "no extractor file none.safetensors; make one with"),
    "another ending": (("old.pt",), "old.pt does not end in .safetensors"),
    "no extractor": (("empty.safetensors",), "empty.safetensors is not a whole extractor file"),
    "another data set": (
        ("folder.safetensors", "--dataset", "digits"),
        "folder.safetensors was trained on folder; a card measured on digits would mislead",
    ),
    "no folder": (("folder.safetensors",), "data set 'folder' needs --root"),
    "a missing folder": (("folder.safetensors", "--root", "none"), "none does not exist; --root"),
    "no labels": (
        ("folder.safetensors", "--root", "pictures/red"),
        "no labels, or one class only, and an extractor learns from labels",
    ),
    "three classes": (
        ("folder.safetensors", "--root", "three"),
        "the images have 3 classes, and folder.safetensors was trained on 2",
    ),
    "few images": (("folder.safetensors", "--root", "few"), "needs at least 2 test images, not 0"),
}


@pytest.mark.parametrize("case", BAD_CARDS)
def test_card_refuses(case: str, fitted: Path, pictures: Path) -> None:
    Path("old.pt").touch()
    Path("empty.safetensors").touch()
    picture = next((pictures / "red").iterdir()).read_bytes()
    for folder, classes, count in (("three", "abc", 10), ("few", "ab", 2)):
        for label in classes:
            (Path(folder) / label).mkdir(parents=True)
            for index in range(count):
                (Path(folder) / label / f"{index}.png").write_bytes(picture)
    fitted.with_suffix(".md").write_text("an old card")
    arguments, message = BAD_CARDS[case]
    with pytest.raises(UserError) as error:
        run("card", *arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "--data." not in str(error.value)
    assert fitted.with_suffix(".md").read_text() == "an old card"
    assert not list(Path().glob("e*.md"))


def test_card_refuses_a_folder_that_it_cannot_write(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written; copy folder.safetensors"):
        run("card", str(fitted))


def test_a_wrong_file_for_a_card_is_said_before_torch_is_loaded() -> None:
    assert "torch" not in loaded_after("extractor", "card", "none.safetensors")


def test_digits_are_trained_on_enlarged_and_disturbed_in_their_own_size() -> None:
    train, test = extractor._labelled("digits", None, False)
    assert torch.equal(train[0], load("digits", split="train", size=32).images)
    assert test[0].shape[1:] == (1, 8, 8)
    large = load("digits", split="test", size=32)
    assert torch.equal(convert.resize(test[0], 32), large.images)
    assert large.labels is not None
    assert torch.equal(test[1], large.labels)


def test_a_card_says_where_the_distance_does_not_rise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def response(name: str, *distances: float) -> Response:
        scores = [{"frechet": summary([each])} for each in distances]
        levels = [None, *DISTURBANCES[name].levels(40, 5)]
        return Response(name, [Row(*pair) for pair in zip(levels, scores, strict=False)])

    found = [response("blur", 0.5, 1, 2), response("noise", 0.5, 0.5, 2, 1.75)]
    monkeypatch.setattr("msngan.scores.card.responses", lambda *_: found)
    images, labels = photographs(40), torch.arange(40) % 5
    path = tmp_path / "x.safetensors"
    card = save_with_card(network(), path, "toy", SMALL, (images, labels), (images, labels), 0.5)
    text = " ".join(card.text.split())
    assert "FD rises with every level of blur. FD does not rise with every level of noise." in text
    assert "sigma in pixels). FD rises with every level." in text
    said = "FD does not rise from none to 4 (0.5 to 0.5) and from 8 to 16 (2 to 1.75)."
    assert f"sd in grey levels). {said} | noise | FD |" in text
    assert f"- noise: {said}" in text.split("## Known limits")[1]
    assert "- blur" not in text
    (doubt,) = card.notes
    assert doubt.startswith("a test accuracy of 0.2250 is near chance, 0.2000: its scores mean")
    assert "- A test accuracy of 0.2250 is near chance" in text.split("## Known limits")[1]
    assert "enlarged" not in text  # the images are as large as the network's


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
        with pytest.raises(UserError, match="no labels, or one class only, .*shipped.*Inception"):
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
