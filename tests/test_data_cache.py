"""Decoded images are kept in a file: later starts open it, and nothing can make it lie."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, Run
from PIL import Image
from torch import Tensor

from msngan.data import DataError, ImageData, Images, LabelledData, cache, sources
from msngan.data.images import Chosen
from msngan.runs import progress_bar
from msngan.scores.reference import pixels_sha256

Patch = pytest.MonkeyPatch


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten images in two subfolders."""
    values = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    for index, each in enumerate(values):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def opened(root: Path, kept: Path | str, **options: object) -> tuple[Tensor, Tensor | None]:
    given = {"size": 16, "cache": str(kept), **options}
    found = ImageData("folder", str(root), **given).images("all")  # type: ignore[arg-type]
    return found.images, found.labels


def files(kept: Path) -> list[Path]:
    return sorted(kept.iterdir())


def no_decoding(monkeypatch: Patch) -> None:
    def refuse(data: bytes) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(sources, "picture", refuse)


def same(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> bool:
    assert one[1] is not None
    assert other[1] is not None
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.quick
def test_a_second_start_decodes_nothing_and_has_the_same_images_and_labels(
    pictures: Path, kept: Path, monkeypatch: Patch
) -> None:
    plain, first = opened(pictures, "none"), opened(pictures, kept)
    assert not hasattr(plain[0], "pixels_sha256")
    no_decoding(monkeypatch)
    second = opened(pictures, kept)
    assert same(plain, first)
    assert same(plain, second)
    assert pixels_sha256(second[0]) == pixels_sha256(plain[0])
    (file,) = files(kept)
    assert np.array_equal(np.load(file, mmap_mode="r"), plain[0])


def test_the_images_are_the_pages_of_the_file_and_a_change_of_them_does_not_reach_it(
    pictures: Path, kept: Path
) -> None:
    for images, _ in (opened(pictures, kept), opened(pictures, kept)):
        (file,) = files(kept)
        if os.path.exists("/proc/self/maps"):
            ranges = [
                line.split()[0]
                for line in Path("/proc/self/maps").read_text().splitlines()
                if line.endswith(str(file))
            ]
            ends = [[int(end, 16) for end in each.split("-")] for each in ranges]
            assert any(start <= images.data_ptr() < end for start, end in ends)
        before = images[0].clone()
        images[0] = 255 - images[0]
        assert torch.equal(opened(pictures, kept)[0][0], before)


def touched(root: Path) -> None:
    os.utime(root / "a" / "0.png", ns=(1, 1))


def added(root: Path) -> None:
    Image.new("RGB", (16, 16)).save(root / "a" / "new.png")


def removed(root: Path) -> None:
    (root / "b" / "9.png").unlink()


def renamed(root: Path) -> None:
    (root / "b" / "9.png").rename(root / "a" / "9.png")


def relabelled(root: Path) -> None:
    (root / "dataset.json").write_text('{"labels": null}')


@pytest.mark.parametrize("change", [touched, added, removed, renamed, relabelled])
def test_after_any_change_of_the_files_they_are_decoded_again(
    pictures: Path, kept: Path, change: Callable[[Path], None]
) -> None:
    opened(pictures, kept)
    (before,) = files(kept)
    change(pictures)
    images, labels = opened(pictures, kept)
    plain = opened(pictures, "none")
    assert torch.equal(images, plain[0])
    assert labels is plain[1] is None or torch.equal(labels, plain[1])
    (after,) = files(kept)  # what nobody can use any more does not fill the disk
    assert after != before


def test_other_sizes_channels_and_decoders_have_files_of_their_own(
    pictures: Path, kept: Path, monkeypatch: Patch
) -> None:
    opened(pictures, kept)
    assert opened(pictures, kept, size=8)[0].shape == (10, 3, 8, 8)
    assert opened(pictures, kept, channels=1)[0].shape == (10, 1, 16, 16)
    monkeypatch.setattr(cache, "VERSION", 2)
    opened(pictures, kept)
    assert len(files(kept)) == 4


def test_a_folder_that_was_copied_with_its_times_is_known(
    pictures: Path, kept: Path, monkeypatch: Patch
) -> None:
    first = opened(pictures, kept)
    pictures.rename(pictures.with_name("moved"))
    no_decoding(monkeypatch)
    assert same(first, opened(pictures.with_name("moved"), kept))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def hollow(data: bytes) -> bytes:
    return data[:200] + bytes(len(data) - 600) + data[-400:]


def grown(data: bytes) -> bytes:
    return data + b"more"


def shifted(data: bytes) -> bytes:
    return data[:300] + data[301:]


def other_shape(data: bytes) -> bytes:
    return data.replace(b"(10, 3, 16, 16)", b"(10, 3, 16, 15)")


def emptied(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, hollow, grown, shifted, other_shape, emptied])
def test_a_damaged_file_is_made_anew(
    pictures: Path, kept: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = opened(pictures, kept)
    (file,) = files(kept)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(whole))
    assert same(first, opened(pictures, kept))
    assert file.read_bytes() == whole


def test_of_two_programs_at_once_one_decodes_and_the_other_waits(
    pictures: Path, kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made, found = [], []
    began = threading.Event()

    def make() -> Images:
        made.append(1)
        began.set()
        time.sleep(0.3)
        return Images(cache.empty(2, 1, 8, 8).fill_(7))

    def program() -> None:
        found.append(cache.cached(kept, pictures, {}, make).images)

    first, second = threading.Thread(target=program), threading.Thread(target=program)
    first.start()
    began.wait()
    second.start()
    first.join()
    second.join()
    assert len(made) == 1
    assert all(torch.equal(each, torch.full((2, 1, 8, 8), 7)) for each in found)
    assert "waiting for another process, which is decoding" in capfd.readouterr().err
    assert [each.suffix for each in files(kept)] == [".npy"]


def test_what_a_killed_program_left_is_removed(pictures: Path, kept: Path) -> None:
    opened(pictures, kept)
    (file,) = files(kept)
    file.rename(kept / f".{file.name}.abc.tmp")
    (kept / file.with_suffix(".lock").name).touch()
    opened(pictures, kept)
    assert files(kept) == [file]


def test_without_a_writable_folder_or_room_images_are_decoded_at_every_start(
    pictures: Path, tmp_path: Path, kept: Path, monkeypatch: Patch
) -> None:
    plain = opened(pictures, "none")
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="not kept in .*/file/kept .*; set --data.cache to"):
        assert same(opened(pictures, tmp_path / "file" / "kept"), plain)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert same(opened(pictures, kept), plain)
    assert not kept.exists()


def test_bad_images_are_left_out_again_and_said_again(pictures: Path, kept: Path) -> None:
    (pictures / "a" / "2.png").write_bytes(b"no image")
    (pictures / "b" / "1.png").write_bytes(b"")
    found = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 of 10 images in .*pictures cannot be read and are"):
            found.append(opened(pictures, kept, on_bad_image="skip"))
    with pytest.warns(UserWarning, match="2 of 10 images"):
        plain = opened(pictures, "none", on_bad_image="skip")
    assert len(plain[0]) == 8
    assert same(found[0], plain)
    assert same(found[1], plain)
    with pytest.raises(DataError, match="2 of 10 images in"):
        opened(pictures, kept)
    assert len(files(kept)) == 1


def test_a_grey_image_first_and_colour_later_are_kept_in_colour(pictures: Path, kept: Path) -> None:
    Image.new("L", (16, 16)).save(pictures / "a" / "0.png")
    for _ in range(2):
        with pytest.warns(UserWarning, match="mix grey and colour"):
            images, _ = opened(pictures, kept)
        with pytest.warns(UserWarning, match="mix grey and colour"):
            assert torch.equal(images, opened(pictures, "none")[0])
        assert images.shape == (10, 3, 16, 16)
    assert len(files(kept)) == 1


def test_what_any_loader_returns_can_be_kept(pictures: Path, kept: Path) -> None:
    images = torch.arange(2 * 3 * 64).view(2, 3, 8, 8).to(torch.uint8)
    calls = []

    def make() -> Images:
        calls.append(cache.empty(5, 3, 8, 8))  # and not used
        return Images(images.flip(3), None, ("a", "b"))

    for _ in range(2):
        found = cache.cached(kept, pictures, {"of": "this test"}, make)
        assert torch.equal(found.images, images.flip(3))
        assert found.labels is None
        assert found.classes == ("a", "b")
    assert len(calls) == 1


def test_a_bar_says_how_far_decoding_is(
    pictures: Path, kept: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_bar, "HEARTBEAT_SECONDS", 0)
    opened(pictures, kept)
    assert "pictures: 10/10 images" in capfd.readouterr().err


def test_a_classifier_s_parts_are_the_same_and_are_not_copied(pictures: Path, kept: Path) -> None:
    options: dict[str, Any] = {"size": 16, "batch_size": 2, "validation": 2, "test_share": 0.2}
    plain, mapped = (
        LabelledData("folder", str(pictures), cache=where, **options)
        for where in ("none", str(kept))
    )
    for each in (plain, mapped):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        given = {"global_rank": 0, "world_size": 1, "strategy": strategy}
        each.trainer = SimpleNamespace(global_step=1, **given)  # type: ignore
    assert plain.shape == mapped.shape
    assert len(plain.real) == len(mapped.real)
    assert all(map(torch.equal, plain.scale, mapped.scale))
    batches = [next(iter(each.train_dataloader())) for each in (plain, mapped)]
    assert all(map(torch.equal, *batches))
    held = [each.images_of("validation") for each in (plain, mapped)]
    assert torch.equal(held[0].images, torch.cat([*held[1].images.split(1)]))
    assert isinstance(mapped.real, Chosen)
    assert mapped.real.images.data_ptr() == mapped.images("train").images.data_ptr()
    levels = plain.real.double() / 255
    assert torch.equal(plain.scale[0].flatten(), levels.mean((0, 2, 3)).float())
    assert torch.equal(plain.scale[1].flatten(), levels.transpose(0, 1).flatten(1).std(1).float())


def test_fit_keeps_decoded_images_where_it_is_told_and_resume_may_keep_them_elsewhere(
    pictures: Path, run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))
    options = ["--data.dataset", "folder", "--data.root", str(pictures), "--data.channels", "1"]
    assert run("fit", *TINY, *QUIET, *options, "--run", "mine", "--data.cache", "none") == 0
    assert not (tmp_path / "cache" / "images").exists()
    assert run("resume", "mine", "--steps", "7", "--data.cache", "here") == 0
    assert [each.suffix for each in files(tmp_path / "here")] == [".npy"]
    assert run("resume", "mine", "--steps", "8", "--data.cache", "null") == 0
    assert [each.suffix for each in files(tmp_path / "cache" / "images")] == [".npy"]
