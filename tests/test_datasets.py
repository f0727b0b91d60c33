"""The table of data sets, and the loaders of the official files, on files written here."""

from __future__ import annotations

import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import (
    CELEBA,
    COUNTS,
    idx,
    labels,
    write_celeba,
    write_cifar,
    write_cifar100,
    write_mnist,
    write_stl10,
    write_svhn,
)
from PIL import Image

from msngan.data import datasets
from msngan.data import images as convert
from msngan.data.datasets import DATASETS, data_root, load
from msngan.data.images import Images
from msngan.data.pictures import DataError

SETS = sorted(DATASETS.items())
OFFICIAL = ["cifar10", "cifar100", "fashion", "mnist", "stl10", "svhn"]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Write the files of an official data set; only the sums that torchvision expects are ours."""
    root = tmp_path / "data"
    made = {
        "cifar10": partial(write_cifar, root, monkeypatch),
        "fashion": partial(write_mnist, root, "FashionMNIST"),
        "mnist": partial(write_mnist, root, "MNIST"),
        "svhn": partial(write_svhn, root, monkeypatch),
        "cifar100": partial(write_cifar100, root, monkeypatch),
        "stl10": partial(write_stl10, root, monkeypatch),
        "celeba": partial(write_celeba, root, monkeypatch),
    }
    return lambda name: made[name]()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", refuse)


def refusal(name: str, root: Path | None, **options: object) -> str:
    """The message of the DataError, which must be one line."""
    with pytest.raises(DataError, match=r"\A.*\Z") as caught:
        load(name, root, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_files_come_out_as_they_are_28_pixels_get_a_border_and_the_rest_is_converted(
    name, split, write, tmp_path
):
    raw = write(name)[split]
    own = torch.nn.functional.pad(raw, (2,) * 4) if raw.shape[-1] == 28 else raw
    own = convert.resize(raw, 48) if name == "stl10" else own
    for size, channels, want in (
        (None, None, own),
        (16, 1, convert.with_channels(convert.resize(raw, 16), 1)),
        (28, 3, convert.with_channels(convert.resize(raw, 28), 3)),
    ):
        found = load(name, tmp_path / "data", split, size, channels, download=False)
        assert found.images.dtype == torch.uint8
        assert found.images.is_contiguous()
        assert torch.equal(found.images, want)
        assert found.labels.dtype == torch.int64
        assert found.labels.tolist() == (labels(split) * (11 if name == "cifar100" else 1)).tolist()


@pytest.mark.parametrize("split", ["unlabeled", "train+unlabeled"])
def test_unlabelled_images_have_no_labels(split, write, tmp_path):
    raw = write("stl10")[split]
    found = load("stl10", tmp_path / "data", split, 96, download=False)
    assert torch.equal(found.images, raw)
    assert found.labels is None


def test_faces_are_the_148_pixels_at_the_centre_and_a_damaged_one_is_named(write, tmp_path):
    faces = write("celeba")
    for split, count in CELEBA.items():
        found = load("celeba", tmp_path / "data", split, download=False)
        assert found.images.shape == (count, 3, 64, 64)
        assert found.labels is None
        for image, face in zip(found.images, faces[split], strict=True):
            want = face.crop((15, 35, 163, 183)).resize((64, 64), Image.Resampling.LANCZOS)
            assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(want)))
    assert len(load("celeba", tmp_path / "data", "all", 32, 1, download=False).images) == 7
    path = tmp_path / "data" / "celeba" / "img_align_celeba" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:300])
    assert f"{path} cannot be read: " in refusal("celeba", tmp_path / "data")
    path.unlink()
    assert f"{path} cannot be read: " in refusal("celeba", tmp_path / "data")


FAILURES = [
    urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution")),
    ConnectionResetError(104, "Connection reset by peer"),
    http.client.IncompleteRead(b""),
    TimeoutError("timed out"),
    None,  # no download is asked for
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("name", [*OFFICIAL, "celeba"])
def test_missing_files_are_refused_with_the_remedy_and_the_failure(
    name, failure, tmp_path, monkeypatch, capsys
):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", fail)
    message = refusal(name, tmp_path / "data", download=failure is not None)
    assert message.startswith("no whole ")
    for word in (str(tmp_path / "data"), "download", "--data.root", "MSNGAN_DATA"):
        assert word in message
    if failure is None:
        assert not (tmp_path / "data").exists()
    else:
        assert "cannot be downloaded" in message
        assert str(failure) in message
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"\Ano whole CIFAR10 in .*Not a directory"):
        load("cifar10", tmp_path / "file" / "data")


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[::-1]]
)
def test_files_with_another_checksum_are_refused(name, damage, write, tmp_path):
    write(name)
    path = next((tmp_path / "data").rglob({"cifar10": "data_batch_3", "svhn": "train*"}[name]))
    path.write_bytes(damage(path.read_bytes()))
    for download in (False, True):
        assert refusal(name, tmp_path / "data", download=download).startswith("no whole ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data + b"12345",
        lambda data: data[:3],
        lambda data: b"",
        lambda data: b"\x1f\x8b" + data[2:],
        lambda data: data[:2] + b"\x0a" + data[3:],
        lambda data: data[:2] + b"\x0b" + data[3:],
        lambda data: data[:3] + b"\x02" + data[4:],
        lambda data: data[:4] + b"\0\0\0\0" + data[8:],
    ],
    ids=["cut", "too long", "header cut", "empty", "zipped", "no type", "wide", "axes", "none"],
)
@pytest.mark.parametrize(("name", "part"), [("mnist", "images-idx3"), ("fashion", "labels-idx1")])
def test_damaged_idx_files_are_refused(name, damage, part, write, tmp_path):
    write(name)
    path = next((tmp_path / "data").rglob(f"train-{part}-ubyte"))
    path.write_bytes(damage(path.read_bytes()))
    for download in (False, True):
        message = refusal(name, tmp_path / "data", download=download)
        assert "are damaged" in message
        assert str(tmp_path / "data") in message
        assert "remove them" in message
    assert len(load(name, tmp_path / "data", "test").images) == COUNTS["test"]


@pytest.mark.parametrize(
    ("values", "word"), [(labels("train")[:-1], "10 images, 9 labels"), (labels("train") + 1, "10")]
)
def test_labels_that_do_not_fit_the_images_are_refused(values, word, write, tmp_path):
    write("mnist")
    path = next((tmp_path / "data").rglob("train-labels*"))
    path.write_bytes(idx(values))
    message = refusal("mnist", tmp_path / "data")
    assert "are damaged" in message
    assert word in message


@pytest.mark.parametrize(
    ("name", "options", "words", "choices"),
    [
        *(
            (name, {"split": "validation"}, f"{name} has no split", each.splits)
            for name, each in SETS
            if each.splits
        ),
        *((name, {"size": 0}, "--data.size 0", ()) for name in ("digits", "folder")),
        *((name, {"channels": 2}, "--data.channels 2", ()) for name in ("digits", "folder")),
        ("cifar", {}, "unknown data set 'cifar'; ", DATASETS),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(name, options, words, choices, tmp_path):
    message = refusal(name, tmp_path, **options)
    assert message.startswith(words)
    assert all(each in message for each in choices)


def test_the_folder_set_hands_on_what_was_asked_for(monkeypatch, tmp_path):
    asked = []

    def read(*arguments: object, **options: object) -> Images:
        asked.append((*arguments, options))
        return Images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))

    monkeypatch.setattr(datasets, "load_folder", read)
    load("folder", tmp_path)
    load("folder", tmp_path, "test", size=16, channels=1, skip_bad=True, test_share=0.5)
    assert asked == [
        (tmp_path, None, None, False, "all", {}),
        (tmp_path, 16, 1, True, "test", {"test_share": 0.5}),
    ]


def test_the_root_is_the_argument_then_the_variable_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MSNGAN_DATA", "/variable")
    assert data_root("/argument") == Path("/argument")
    assert data_root("~/mine") == tmp_path / "mine"
    assert data_root(None) == Path("/variable")
    for unset in (
        lambda: monkeypatch.setenv("MSNGAN_DATA", ""),
        lambda: monkeypatch.delenv("MSNGAN_DATA"),
    ):
        unset()
        assert data_root(None) == tmp_path / ".cache" / "msngan" / "data"


def digits(split: str, **options: int) -> Images:
    return load("digits", None, split, **options)


def test_there_are_1797_digits_and_the_splits_share_none():
    whole, train, test = (digits(split) for split in ("all", "train", "test"))
    assert [len(each.images) for each in (whole, train, test)] == [1797, 1438, 359]
    assert DATASETS["digits"].splits[0] == "all"
    held_out = torch.arange(1797) % 5 == 4
    for part, places in ((test, held_out), (train, ~held_out)):
        assert torch.equal(whole.images[places], part.images)
        assert torch.equal(whole.labels[places], part.labels)
    assert whole.labels.dtype == torch.int64
    assert whole.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    counts = whole.labels.bincount().tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's page


def test_the_digits_are_sixteen_levels_of_white_on_black():
    from sklearn.datasets import load_digits

    found = digits("all", size=8).images
    assert found.dtype == torch.uint8
    assert found.shape == (1797, 1, 8, 8)
    want = np.floor(load_digits().images * 15.9375 + 0.5)  # 255 / 16
    np.testing.assert_array_equal(found[:, 0].numpy(), want)
    assert digits("all").images.shape == (1797, 1, 32, 32)
    assert digits("test", size=16, channels=3).images.shape == (359, 3, 16, 16)


# The real files


# Of CIFAR-10 each class has as many images; of MNIST as its page says.
COUNTS_OF = {
    ("cifar10", "train"): [5000] * 10,
    ("cifar10", "test"): [1000] * 10,
    ("mnist", "train"): [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    ("mnist", "test"): [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


@pytest.mark.data
@pytest.mark.skipif("MSNGAN_DATA" not in os.environ, reason="MSNGAN_DATA is not set")
@pytest.mark.parametrize(("name", "split"), COUNTS_OF)
def test_the_real_files_are_whole(name, split):
    counts = COUNTS_OF[name, split]
    found = load(name, os.environ["MSNGAN_DATA"], split, download=False)
    assert found.images.shape == (sum(counts), 3 if name == "cifar10" else 1, 32, 32)
    assert found.images.dtype == torch.uint8
    assert found.labels.bincount().tolist() == counts
    inner = found.images[:, :, 2:30, 2:30] if name == "mnist" else found.images
    assert inner.sum() == found.images.sum() > 0  # the border is black
    if split == "train":
        first = [5, 0, 4, 1] if name == "mnist" else [6, 9, 9, 4]  # a frog, two trucks, a deer
        assert found.labels[:4].tolist() == first
        means = inner.sum((0, 2, 3)) / (inner[:, 0].numel() * 255)
        published = [0.1307] if name == "mnist" else [0.4914, 0.4822, 0.4465]
        assert (means - torch.tensor(published)).abs().max() < 1e-4
