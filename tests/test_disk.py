"""A disk that is full, read-only or gone: one line, nothing lost, training stops or is warned."""

from __future__ import annotations

import csv
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import QUIET, TINY, Shown, same_bits, weights

from msngan.gan import GAN
from msngan.runs import atomic
from msngan.runs.atomic import append_line
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.jsonl import read_lines
from msngan.training import loggers
from msngan.training.starting import room_wanted

EACH = ["--checkpoint.every", "1", "--records.every", "1", "--samples.every", "1"]
EACH += ["--dynamics.every", "1", "--samples.count", "4"]


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place))
    yield place
    while not subprocess.run(["umount", "-l", str(place)], capture_output=True).returncode:
        pass  # what is mounted upon it, too


@contextmanager
def fill(place: Path, leave: int) -> Iterator[None]:
    """Nothing but so many bytes is free inside."""
    ballast = place / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(place).free - leave))
    yield
    ballast.unlink()


def on(disk: Path, *options: str) -> list[str]:
    """The options of a run that writes after each step to this disk."""
    return [*TINY, *QUIET, *EACH, "--run", "mine", "--root", str(disk), *options]


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "last.ckpt", weights_only=True)["global_step"])


def left(place: Path) -> list[str]:
    names = [path.name for path in place.rglob("*")]
    return [name for name in names if name.endswith(".tmp") or name == ".next.ckpt"]


def last_line(shown: Shown) -> str:
    text = shown.readouterr().err
    assert "Traceback" not in text
    assert "Exception" not in text
    return text.splitlines()[-1]


def test_a_full_disk_stops_the_run_and_its_last_checkpoint_goes_on_exactly(small, run, tiny, capfd):
    whole = weights(tiny("whole", *EACH))
    folder = small / "checkpoints/mine"
    with fill(small, 400_000):
        assert run("fit", *on(small)) == 1
        line = last_line(capfd)
        assert line.startswith(f"msngan: error: cannot write to {folder}: No space left on device")
        assert f"`msngan resume mine --root {small}`" in line
        assert not left(small)
        assert 1 <= saved_step(folder) < 6
    assert run("resume", "mine", "--root", str(small)) == 0
    assert same_bits(whole, weights(folder))
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing_save(problem: Exception) -> Iterator[None]:
    with mock.patch("torch.save", side_effect=problem):
        yield


@pytest.mark.parametrize(
    "failing",
    [
        no_file_above(100_000),
        failing_save(OSError(errno.ENOSPC, "No space left on device")),
        failing_save(RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 7")),
    ],
    ids=["a limit", "an OSError", "torch's own error"],
)
def test_a_save_that_fails_is_one_line_that_says_how_to_go_on(run, tiny, capfd, failing):
    folder = tiny("mine", "--steps", "2")
    whole = weights(folder)
    with failing:
        assert run("resume", "mine", "--steps", "3") == 1
    line = last_line(capfd)
    assert line.startswith(f"msngan: error: cannot write to {folder}: ")
    assert "`msngan resume mine`" in line
    assert not left(folder)
    assert same_bits(whole, weights(folder))
    assert run("resume", "mine", "--steps", "3") == 0


def test_a_run_that_may_continue_warns_once_an_episode_and_ends_in_the_same_bits(
    small, run, tiny, at_step, capfd
):
    whole = weights(tiny("whole", *EACH, "--steps", "9"))
    capfd.readouterr()
    disk = fill(small, 0)
    at_step(2, lambda: disk.__enter__())
    at_step(6, lambda: disk.__exit__(None, None, None))
    assert run("fit", *on(small, "--steps", "9", "--on-save-error", "continue")) == 0
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    for what in ("last.ckpt", "dynamics.npz", "a grid"):
        warning = f"step 3: {what} cannot be written: No space left on device"
        assert shown.count(f"{what} cannot be written") == shown.count(warning) == 1, what
        assert shown.count(f"{what} can be written again") == 1, what
    folder = small / "checkpoints/mine"
    assert same_bits(whole, weights(folder))
    assert not left(small)


def test_records_that_find_no_room_are_said_once_an_episode_and_the_others_are_whole(
    tiny, at_step, monkeypatch, capfd
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    full: list[bool] = []

    def limited(plain: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any) -> Any:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*given)

        return write

    for owner, name in (
        *((atomic, "add"), (loggers, "add")),
        *((LocalFileSystem, "write"), (LocalFileSystem, "append")),
    ):
        monkeypatch.setattr(owner, name, limited(getattr(owner, name)))
    at_step(2, lambda: full.append(True))
    at_step(4, full.clear)
    at_step(6, lambda: full.append(True))
    at_step(7, full.clear)
    options = ["--logger", "tensorboard,csv", "--on-save-error", "continue"]
    folder = tiny("mine", *EACH, *options, "--steps", "9")
    shown = capfd.readouterr().err
    for what in ("metrics.jsonl", "metrics.csv", "tensorboard"):
        for first, again in ((3, 5), (7, 8)):
            assert shown.count(f"step {first}: {what} cannot be written: No space") == 1
            assert shown.count(f"step {again}: {what} can be written again") == 1
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl")]
    assert steps == [1, 2, 5, 6, 8, 9]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert sorted(event.step for event in events.Scalars("critic_loss")) == steps
    with open(folder / "metrics.csv", newline="") as table:
        assert [int(row["step"]) for row in csv.DictReader(table) if row["critic_loss"]] == steps


def test_a_run_that_may_continue_fails_when_its_last_checkpoint_is_missing(
    small, run, at_step, capfd
):
    disk = fill(small, 60_000)  # for records, not for a checkpoint
    at_step(3, lambda: disk.__enter__())
    assert run("fit", *on(small, "--checkpoint.on_save_error", "continue")) == 1
    assert "No space left on device" in last_line(capfd)
    folder = small / "checkpoints/mine"
    assert saved_step(folder) == 3
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("how", ["moved", "removed", "unmounted"])
def test_a_folder_that_vanishes_stops_the_run_and_is_not_made_anew(small, run, at_step, capfd, how):
    folder = small / "checkpoints/mine"

    def vanish() -> None:
        if how == "moved":
            folder.rename(small / "moved")
        elif how == "removed":
            shutil.rmtree(folder)
        else:
            subprocess.run(["umount", "-l", str(small)], check=True)

    at_step(3, vanish)
    rare = ["--records.every", "100", "--dynamics.every", "0", "--samples.every", "0"]
    assert run("fit", *on(small, *rare)) == 1
    assert last_line(capfd).startswith(f"msngan: error: cannot write to {folder}: ")
    assert not folder.exists()
    if how == "moved":
        assert saved_step(small / "moved") == 3
        assert not left(small)


def test_a_disk_that_becomes_read_only_stops_the_run_and_refuses_a_resume_until_it_is_not(
    small, run, tiny, at_step, capfd
):
    whole = weights(tiny("whole", *EACH))
    folder = small / "checkpoints/mine"

    def freeze() -> None:
        mount("--bind", str(small), str(small))
        mount("-o", "remount,bind,ro", str(small))

    at_step(3, freeze)
    message = f"msngan: error: cannot write to {folder}: {os.strerror(errno.EROFS)}"
    for command in (("fit", *on(small)), ("resume", "mine", "--root", str(small))):
        assert run(*command) == 1
        assert last_line(capfd).startswith(message)
        assert saved_step(folder) == 3
    subprocess.run(["umount", "-l", str(small)], check=True)
    assert run("resume", "mine", "--root", str(small)) == 0
    assert same_bits(whole, weights(folder))


def test_a_line_that_does_not_fit_leaves_the_file_and_one_after_a_cut_line_is_its_own(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, {"step": 1})
    with no_file_above(path.stat().st_size + 5), pytest.raises(OSError, match="too large"):
        append_line(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(path.read_bytes() + b'{"step": 2, "sco')
    append_line(path, {"step": 3})
    assert [line["step"] for line in read_lines(path)] == [1, 3]


def test_little_room_is_said_before_training(tiny, monkeypatch, capfd):
    folder = tiny("a")
    size = (folder / "last.ckpt").stat().st_size
    capfd.readouterr()
    for name, free, warned in (("b", 2 * size, True), ("c", 10 * size, False)):
        usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda place, usage=usage: usage)
        tiny(name, "--steps", "1")
        said = f"warning: checkpoints/{name} has room for" in capfd.readouterr().err
        assert said == warned
    saved = read_checkpoint(folder / "last.ckpt")["hyper_parameters"]
    wanted = room_wanted(GAN(**saved))
    assert 0.2 * 4 * size < wanted < 4 * size  # tensors; a file this small is mostly names
