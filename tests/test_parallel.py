"""Many images are decoded in processes, few in threads: with the same result."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msngan.data import DataError, cache, parallel, sources
from msngan.data.image_files import load_folder
from msngan.runs.folder import Failure

Patch = pytest.MonkeyPatch
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A hundred images: the 40th is grey, the 70th is none."""
    values = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for index, each in enumerate(values):
        image = Image.fromarray(each).convert("L" if index == 40 else "RGB")
        image.save(tmp_path / "pictures" / f"{index:02}.png")
    (tmp_path / "pictures" / "70.png").write_bytes(b"no image")
    return tmp_path / "pictures"


@pytest.fixture
def processes(monkeypatch: Patch) -> None:
    monkeypatch.setattr(parallel, "MANY", 1)
    monkeypatch.setattr(parallel, "cores", lambda: 2)


def process(chunk: range) -> tuple[int, int]:
    return os.getpid(), chunk.start


@pytest.mark.quick
@pytest.mark.usefixtures("processes")
def test_processes_do_the_parts_and_answer_in_order() -> None:
    begun = cache.empty(1)
    found = parallel.in_chunks(process, 100, lambda: begun.fill_(1) and None)
    assert [start for _, start in found] == [0, 32, 64, 96]
    assert os.getpid() not in {each for each, _ in found}
    assert int(begun) == 1


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_and_what_is_said_of_them_are_those_that_threads_find(
    pictures: Path, kind: str, monkeypatch: Patch
) -> None:
    root = pictures
    if kind == "zip":
        root = Path(shutil.make_archive(str(pictures), "zip", pictures))
    found, said = [], []
    for many in (10**9, 1):
        monkeypatch.setattr(parallel, "MANY", many)
        monkeypatch.setattr(parallel, "cores", lambda: 3)
        with pytest.warns(UserWarning, match="images in") as caught:
            found.append(load_folder(root, 40, None, skip_bad=True).images)
        said.append([str(each.message) for each in caught])
    assert torch.equal(*found)
    assert said[0] == said[1]
    counts = {text.partition(" images in")[0] for text in said[0]}
    assert {"99 of 100", "1 of 100"} < counts


@pytest.mark.usefixtures("processes")
def test_an_error_in_a_process_is_that_of_the_command(pictures: Path) -> None:
    Image.new("RGB", (9, 9)).save(pictures / "50.png")
    with pytest.raises(DataError, match=r"differ in size \(32x32 00.png, 9x9 50.png\)"):
        load_folder(pictures, None, 3, skip_bad=True)


@pytest.mark.usefixtures("processes")
def test_a_process_that_is_killed_ends_the_command_in_one_line() -> None:
    def work(chunk: range) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Failure, match="a process that decodes images was ended"):
        parallel.in_chunks(work, 100, lambda: None)


def test_a_process_reads_a_zip_file_from_a_place_of_its_own(pictures: Path) -> None:
    path = shutil.make_archive(str(pictures), "zip", pictures)
    with sources.opened(Path(path)) as source:
        source.read("00.png")
        opened = Path("/proc/self/fd").iterdir()
        (first,) = [each for each in opened if os.path.realpath(each) == os.path.realpath(path)]
        shared = os.dup(int(first.name))  # as in the process that opened it
        before = os.lseek(shared, 0, os.SEEK_CUR)
        source.begin()
        assert source.read("90.png") == (pictures / "90.png").read_bytes()
        assert os.lseek(shared, 0, os.SEEK_CUR) == before
        os.close(shared)
