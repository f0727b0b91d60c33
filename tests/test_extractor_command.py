"""`msngan extractor`: a file and a model card from a command, and errors before any training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_extractor import network, photographs

from msngan.commands import extractor
from msngan.data import images as convert
from msngan.scores import embedded
from msngan.scores.embedded import RECIPES, EmbeddedExtractor, shipped
from msngan.scores.model_card import save_with_model_card
from msngan.scores.scorer import choose

SMALL = embedded.Recipe(widths=(4, 4, 8, 8), shift=2)
FIT = ("fit", "--dataset", "folder", "--epochs", "3", "--batch-size", "16", "--root")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MSNGAN_DATA", raising=False)
    monkeypatch.setitem(RECIPES, "folder", SMALL)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A labelled folder: 60 reddish and 60 bluish images of 24 x 20."""
    draw = torch.Generator().manual_seed(0)
    for label, channel in (("blue", 2), ("red", 0)):
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True)
        for index in range(60):
            pixels = torch.randint(0, 100, (20, 24, 3), generator=draw)
            pixels[..., channel] += 120
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def run(*arguments: str) -> int:
    return extractor.main(list(arguments))


@pytest.mark.quick
def test_fit_makes_an_extractor_of_a_labelled_folder_with_its_model_card(pictures, capsys):
    before = torch.get_rng_state()
    assert run(*FIT, str(pictures)) == 0
    assert torch.equal(torch.get_rng_state(), before)
    made = EmbeddedExtractor.load("folder.safetensors")
    facts = made.metadata
    assert (made.classes, made.channels, facts["train_images"]) == (2, 3, "108")
    assert json.loads(facts["recipe"])["epochs"] == 3
    assert float(facts["test_accuracy"]) > 0.7
    text = Path("folder.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {made.name}\n")
    assert f"| test accuracy | {facts['test_accuracy']}, on 12 images |" in text
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE)
    assert [int(size) for size, _ in rows] == [12, 500, 2000, 10_000]  # 12: all that are held out
    assert ["estimate" in fd for _, fd in rows] == [False, True, True, True]
    assert "nan" not in text
    out = capsys.readouterr().out
    assert "epoch 3/3: loss " in out
    assert text in out
    assert choose("folder.safetensors", "folder", 3)[0].name == made.name


def test_seed_size_and_channels_make_other_files_and_the_same_ones_the_same(pictures):
    options = {"a": [], "b": [], "c": ["--seed", "1"], "d": ["--size", "16"]}
    options["e"] = ["--channels", "1"]
    for name, given in options.items():
        assert run(*FIT, str(pictures), "--out", f"{name}.safetensors", *given) == 0
    files = {name: Path(f"{name}.safetensors").read_bytes() for name in options}
    assert files["a"] == files["b"]
    assert len(set(files.values())) == 4
    assert EmbeddedExtractor.load("e.safetensors").channels == 1


def test_accuracy_is_of_test_images_and_of_the_weights_that_the_file_has(tmp_path):
    net = network()
    full = net.head.weight.clone()
    images = photographs(40)
    with torch.no_grad():
        guessed = net(convert.to_float(images)).argmax(1)
    train, path = (images, guessed), tmp_path / "x.safetensors"
    for count in (2, 40):  # the fewest that a model card can be of
        test = (images[:count], (guessed[:count] + 1) % 5)
        text = save_with_model_card(net, path, "toy", SMALL, train, test, 0.5)
        assert f"on {count} images |" in text
        assert "nan" not in text
    assert EmbeddedExtractor.load(path).metadata["test_accuracy"] == "0.0000"
    assert "test accuracy of 0.0000 is near chance" in text
    assert not torch.equal(net.head.weight, full)
    assert torch.equal(net.head.weight, full.half().float())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--dataset cifar", "unknown data set 'cifar' (did you mean"),
        ("--dataset folder", "needs --root"),
        ("--dataset mnist --root none --no-download", "--root or MSN"),
        ("--dataset digits --out x.pt", "must end in .safetensors"),
        ("--dataset digits --out /proc/1/x.safetensors", "--out /proc/1/x.safetensors cannot be"),
        ("--dataset digits --out old.safetensors", "exists; give"),
        ("--dataset digits --out card.safetensors", "card.md exists"),
        ("--dataset digits --batch-size 2000", "--batch-size"),
        ("--dataset digits --epochs 0", "--epochs 0 is less than 1"),
        ("--dataset digits --size 0", "--size 0 is less than 1"),
        ("--dataset folder --root pictures/red", "shipped"),  # no labels
        ("--dataset folder --root one", "Inception"),  # one class
        ("--dataset folder --root few", "too few to test with"),
        ("--dataset folder --root bad", "cannot be read"),
    ],
)
def test_fit_refuses_before_it_trains(arguments, words, pictures, refused, monkeypatch):
    monkeypatch.setattr(embedded, "fit_extractor", None)
    Path("old.safetensors").touch()
    Path("card.md").touch()
    picture = next((pictures / "red").iterdir()).read_bytes()
    for name in ("one/a/1", "one/a/2", "few/a/1", "few/b/2", "bad/a/1", "bad/b/2"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.png").write_bytes(b"not an image" if "bad" in name else picture)
    line = refused("extractor", "fit", *arguments.split())
    assert words in line
    assert "--data." not in line


def test_fit_with_another_network_makes_a_file_with_its_name_and_says_how(pictures, capsys):
    options = ("--network", "vgg7", "--seed", "1")
    assert run(*FIT, str(pictures), *options) == 0
    made = EmbeddedExtractor.load("folder-vgg7.safetensors")
    assert made.name.startswith("embed-vgg7-folder-")
    assert json.loads(made.metadata["recipe"])["network"] == "vgg7"
    text = Path("folder-vgg7.md").read_text(encoding="utf-8")
    assert "VGG-7 with batch norm, six convolutions without shortcuts" in text
    command = "msngan extractor fit --dataset folder --root ROOT --network vgg7 --epochs 3"
    assert f"`{command} --batch-size 16 --seed 1`" in text


@pytest.mark.parametrize("style", ["table", "json"])
def test_list_shows_every_shipped_extractor(style, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert run("list", "--format", style) == 0
    out = capsys.readouterr().out
    files = {r: shipped(network) for r, network in embedded.REQUESTS.items()}
    for dataset, path in (each for of in files.values() for each in of.items()):
        assert dataset in out
        assert EmbeddedExtractor.load(path).name in out
    if style == "json":
        found = [(row["asked for by"], row["data set"]) for row in json.loads(out)]
        assert found == [(request, dataset) for request, of in files.items() for dataset in of]
        assert (*embedded.NETWORKS,) == extractor.NETWORKS
