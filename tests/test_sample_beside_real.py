"""`msngan sample` with real images beside: nearest training images, and classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, Run
from PIL import Image
from torch import Tensor

from msngan import data
from msngan.networks import draw_samples, load_generator
from msngan.scores.embedded import EmbeddedExtractor, shipped

CONDITIONAL = ["--model.conditional", "true"]


def pictures(path: str, size: int = 8) -> Tensor:
    """The images of a grid (rows, columns, H, W), as they were before they were enlarged."""
    with Image.open(path) as picture:
        cells = np.asarray(picture)[:: 64 // size, :: 64 // size]
    rows, columns = ((side - 2) // (size + 2) for side in cells.shape)
    cells = cells[2:, 2:].reshape(rows, size + 2, columns, size + 2)[:, :size, :, :size]
    return torch.from_numpy(cells.transpose(0, 2, 1, 3).copy())


@pytest.fixture
def mine(run: Run) -> Run:
    """`run`, where there is the run `mine` of 64 training images."""
    assert run("fit", *TINY, *QUIET, "--run", "mine") == 0
    return run


@pytest.mark.quick
@pytest.mark.parametrize("by", ["pixels", "features"])
def test_each_sample_stands_beside_the_nearest_training_images(by, mine, capsys):
    capsys.readouterr()
    assert mine("sample", "mine", "--neighbours", "3", "--grid", "5", "--by", by) == 0
    line, written = capsys.readouterr().out.splitlines()
    assert written == f"samples/mine/sample-00000006-seed0-grid5-neighbours3-{by}.png"
    shown = pictures(written)
    assert shown.shape == (5, 4, 8, 8)
    real = data.load("digits", size=8).images[:64]
    samples = torch.cat(list(draw_samples(load_generator("mine"), 5, 0)))
    assert torch.equal(shown[:, 0], samples[:, 0])
    if by == "pixels":
        rows = [each.flatten(1).double() / 8 for each in (samples, real)]
    else:
        extractor = EmbeddedExtractor.load(shipped()["digits"])
        rows = [extractor.features(each).pool for each in (samples, real)]
    far = (rows[0][:, None] - rows[1]).square().sum(2).sqrt()
    distances, places = far.sort(1)
    assert torch.equal(shown[:, 1:], real[places[:, :3], 0])
    words = {
        "pixels": "distance (root mean square, in grey levels)",
        "features": "distance in embed",
    }
    assert words[by] in line
    median = float(re.search(r": ([\d.e+]+) of 5 samples$", line)[1])  # type: ignore[index]
    assert median == pytest.approx(float(distances[:, 0].median()), rel=1e-3)


def test_mirrored_copies_count_where_training_mirrors_and_unseen_images_stand_beside(
    run, tmp_path, capsys
):
    found = data.load("digits", size=8).images
    parts = {"train": found[:20], "test": found[20:27]}
    for split, images in parts.items():
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for index, image in enumerate(images[:, 0]):
            Image.fromarray(image.numpy()).save(tmp_path / f"pictures/{split}/{index:02d}.png")
    options = ["--data.dataset", "folder", "--data.root", "pictures", "--data.mirror", "true"]
    options += ["--data.split", "train", "--run", "mirrored"]
    assert run("fit", *TINY, *QUIET, *options) == 0
    Path("pictures").rename("moved")
    capsys.readouterr()
    given = ["--neighbours", "40", "--grid", "9", "--out", "x.png", "--data-root", "moved"]
    assert run("sample", "mirrored", *given) == 0
    shown = pictures("x.png")
    assert shown.shape[1] == 1 + 20  # no more neighbours than images
    samples = torch.cat(list(draw_samples(load_generator("mirrored"), 9, 0)))
    both = torch.cat([parts["train"], parts["train"].flip(3)]).double()
    far, unseen = (
        (each[:, None].double() - both).square().flatten(2).mean(2).sqrt()
        for each in (samples, parts["test"])
    )
    beside = shown[:, 1:].double()
    distances = (samples.double() - beside).square().flatten(2).mean(2).sqrt()
    assert torch.allclose(distances, far.sort(1).values[:, :20])
    assert len(beside[0].unique(dim=0)) == 20
    assert all((both[:, 0] == each).flatten(1).all(1).any() for each in beside[0])
    medians = [float(each.min(1).values.median()) for each in (far, unseen)]
    line = capsys.readouterr().out.splitlines()[0]
    words = ["{:.4g} of 9 samples", "{:.4g} of 7 images not trained on"]
    assert line.endswith(", ".join(words).format(*medians))


@pytest.fixture
def classes(run: Run) -> Run:
    """`run`, where there is a conditional run `mine`."""
    assert run("fit", *TINY, *QUIET, *CONDITIONAL, "--run", "mine") == 0
    return run


def test_each_class_shows_its_real_images_and_its_samples_in_a_row(classes, capsys):
    capsys.readouterr()
    assert classes("sample", "mine", "--beside-real", "4", "--seed", "1") == 0
    written = capsys.readouterr().out.strip()
    assert written == "samples/mine/sample-00000006-seed1-real4.png"
    shown = pictures(written)
    assert shown.shape == (10, 9, 8, 8)
    found = data.load("digits", size=8)
    images, labels = found.images[:64], found.labels[:64]
    asked = torch.arange(10).repeat_interleave(4)
    samples = torch.cat(list(draw_samples(load_generator("mine"), 40, 1, labels=asked)))
    for label in range(10):
        assert torch.equal(shown[label, :4], images[labels == label][:4, 0])
        assert (shown[label, 4] == 235).all()
        assert torch.equal(shown[label, 5:], samples[asked == label, 0])
    few = ["--beside-real", "20", "--classes", "3,1", "--out", "x.png"]
    assert classes("sample", "mine", *few) == 0
    three, one = pictures("x.png")
    count = int((labels == 3).sum())
    assert torch.equal(three[:count], images[labels == 3, 0])
    assert (three[count:21] == 235).all()  # fewer real images than were asked for
    assert torch.equal(one[0], images[labels == 1][0, 0])


def test_what_cannot_be_shown_is_one_line(mine, refused):
    assert "--beside-real needs a conditional generator" in refused(
        "sample", "mine", "--beside-real", "4"
    )
    assert "--n and --neighbours are two pictures" in refused(
        "sample", "mine", "--n", "4", "--neighbours", "2"
    )
