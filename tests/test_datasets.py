"""The table of data sets, and the loaders of the official files, on files written here."""

from __future__ import annotations

import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import COUNTS, idx, labels, write_cifar, write_mnist, write_svhn

from msngan.data import datasets
from msngan.data import images as convert
from msngan.data.datasets import DATASETS, Images, data_root, load
from msngan.data.image_files import DataError

OFFICIAL = ["cifar10", "fashion", "mnist", "svhn"]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict]:
    """Write the files of an official data set; only the sums that torchvision expects are ours."""
    return {
        "mnist": lambda: write_mnist(tmp_path / "data", "MNIST"),
        "fashion": lambda: write_mnist(tmp_path / "data", "FashionMNIST"),
        "cifar10": lambda: write_cifar(tmp_path / "data", monkeypatch),
        "svhn": lambda: write_svhn(tmp_path / "data", monkeypatch),
    }.__getitem__


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", refuse)


def refusal(name: str, root: Path | None, **options: object) -> str:
    """The message of the DataError, which must be one line."""
    with pytest.raises(DataError) as caught:
        load(name, root, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# The official files


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_colour_files_come_out_as_they_are(
    name: str, split: str, write: Callable, tmp_path: Path
) -> None:
    want = write(name)()[split]
    found = load(name, tmp_path / "data", split, download=False)
    assert found.images.dtype == torch.uint8
    assert found.images.is_contiguous()
    assert torch.equal(found.images, want)
    assert found.labels is not None
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == labels(split).tolist()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_28_pixels_become_32_by_a_black_border_alone(
    name: str, split: str, write: Callable, tmp_path: Path
) -> None:
    want = write(name)()[split]
    found = load(name, tmp_path / "data", split, download=False)
    assert found.images.dtype == torch.uint8
    assert found.images.shape == (COUNTS[split], 1, 32, 32)
    assert torch.equal(found.images[:, :, 2:30, 2:30], want)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert found.images[:, :, border].unique().tolist() == [0]
    assert found.labels is not None
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == labels(split).tolist()


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3)])
@pytest.mark.parametrize("name", OFFICIAL)
def test_another_size_and_other_channels_are_resized_and_converted(
    name: str, size: int, channels: int, write: Callable, tmp_path: Path
) -> None:
    raw = write(name)()["test"]
    found = load(name, tmp_path / "data", "test", size, channels, download=False)
    want = convert.with_channels(convert.resize(raw, size), channels)
    assert found.images.shape == (COUNTS["test"], channels, size, size)
    assert torch.equal(found.images, want)


# What is refused


@pytest.mark.parametrize("name", OFFICIAL)
def test_missing_files_without_a_download_are_refused_with_the_remedy(
    name: str, tmp_path: Path
) -> None:
    message = refusal(name, tmp_path / "data", download=False)
    assert message.startswith("no whole ")
    for word in (str(tmp_path / "data"), "--data.root", "MSNGAN_DATA", "download"):
        assert word in message
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution")),
        ConnectionResetError(104, "Connection reset by peer"),
        http.client.IncompleteRead(b""),
        TimeoutError("timed out"),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("name", OFFICIAL)
def test_a_failing_download_is_refused_with_the_remedy_and_its_cause(
    name: str,
    failure: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    message = refusal(name, tmp_path / "data")
    assert message.startswith("no whole ")
    assert str(failure) in message
    for word in (str(tmp_path / "data"), "cannot be downloaded", "--data.root", "MSNGAN_DATA"):
        assert word in message
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refusal("cifar10", tmp_path / "file" / "data")
    assert message.startswith("no whole CIFAR10 in ")
    assert "Not a directory" in message


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[::-1]]
)
def test_files_with_another_checksum_are_refused(
    name: str, damage: Callable[[bytes], bytes], write: Callable, tmp_path: Path
) -> None:
    write(name)()
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
def test_damaged_idx_files_are_refused(
    name: str, damage: Callable[[bytes], bytes], part: str, write: Callable, tmp_path: Path
) -> None:
    write(name)()
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
def test_labels_that_do_not_fit_the_images_are_refused(
    values: np.ndarray, word: str, write: Callable, tmp_path: Path
) -> None:
    write("mnist")()
    path = next((tmp_path / "data").rglob("train-labels*"))
    path.write_bytes(idx(values))
    message = refusal("mnist", tmp_path / "data")
    assert "are damaged" in message
    assert word in message


# The table


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_split_that_there_is_not_is_refused(name: str, tmp_path: Path) -> None:
    message = refusal(name, tmp_path, split="validation")
    assert message.startswith(f"{name} has no split 'validation'; choose one of ")
    assert all(split in message for split in DATASETS[name].splits)


@pytest.mark.parametrize("name", ["digits", "folder"])
@pytest.mark.parametrize("options", [{"size": 0}, {"channels": 2}])
def test_sizes_and_channels_that_there_are_not_are_refused(
    name: str, options: dict[str, int], tmp_path: Path
) -> None:
    (key,) = options
    assert refusal(name, tmp_path, **options).startswith(f"--data.{key} {options[key]}")


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal("cifar", tmp_path)
    assert message.startswith("unknown data set 'cifar'; ")
    assert all(name in message for name in DATASETS)


def test_the_folder_set_hands_on_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def read(*arguments: object) -> tuple[torch.Tensor, None]:
        asked.append(arguments)
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None

    monkeypatch.setattr(datasets, "load_folder", read)
    load("folder", tmp_path)
    load("folder", tmp_path, size=16, channels=1, skip_bad=True)
    assert asked == [(tmp_path, None, None, False), (tmp_path, 16, 1, True)]


def test_the_root_is_the_argument_then_the_variable_then_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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


# The digits


def digits(split: str, **options: int) -> Images:
    return load("digits", None, split, **options)


def test_there_are_1797_digits_and_the_splits_share_none() -> None:
    whole, train, test = (digits(split).images for split in ("all", "train", "test"))
    assert (len(whole), len(train), len(test)) == (1797, 1438, 359)
    assert DATASETS["digits"].splits[0] == "all"
    held_out = torch.arange(1797) % 5 == 4
    assert torch.equal(whole[held_out], test)
    assert torch.equal(whole[~held_out], train)


def test_the_labels_of_the_digits_go_with_their_images() -> None:
    whole = digits("all").labels
    held_out = torch.arange(1797) % 5 == 4
    assert digits("train").labels.equal(whole[~held_out])
    assert digits("test").labels.equal(whole[held_out])
    assert whole.dtype == torch.int64
    assert whole[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    counts = whole.bincount().tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's page


def test_the_digits_are_sixteen_levels_of_white_on_black() -> None:
    from sklearn.datasets import load_digits

    found = digits("all", size=8).images
    assert found.dtype == torch.uint8
    assert found.shape == (1797, 1, 8, 8)
    want = np.floor(load_digits().images * 15.9375 + 0.5)  # 255 / 16
    np.testing.assert_array_equal(found[:, 0].numpy(), want)
    assert digits("all").images.shape == (1797, 1, 32, 32)
    assert digits("test", size=16, channels=3).images.shape == (359, 3, 16, 16)


# The real files


def real(name: str, split: str) -> Images:
    return load(name, os.environ["MSNGAN_DATA"], split, download=False)


needs_data = pytest.mark.skipif("MSNGAN_DATA" not in os.environ, reason="MSNGAN_DATA is not set")


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("split", "count"), [("train", 50_000), ("test", 10_000)])
def test_the_real_cifar10_is_whole(split: str, count: int) -> None:
    found = real("cifar10", split)
    assert found.images.shape == (count, 3, 32, 32)
    assert found.images.dtype == torch.uint8
    assert found.labels is not None
    assert found.labels.bincount().tolist() == [count // 10] * 10
    if split == "train":
        assert found.images[0, :, 0, 0].tolist() == [59, 62, 63]
        assert found.labels[0] == 6  # a frog
        means = found.images.sum((0, 2, 3)) / (count * 32 * 32 * 255)
        published = torch.tensor([0.4914, 0.4822, 0.4465])
        assert (means - published).abs().max() < 1e-4


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_the_real_mnist_is_whole(split: str, counts: list[int]) -> None:
    found = real("mnist", split)
    assert found.images.shape == (sum(counts), 1, 32, 32)
    assert found.images.dtype == torch.uint8
    assert found.labels is not None
    assert found.labels.bincount().tolist() == counts
    inner = found.images[:, :, 2:30, 2:30]
    assert inner.sum() == found.images.sum() > 0  # the border is black
    if split == "train":
        assert found.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert abs(inner.sum().item() / (inner.numel() * 255) - 0.1307) < 1e-4
