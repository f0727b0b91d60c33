"""A disk that is full, read-only or gone: one line, nothing lost, training stops or is warned."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, same_bits, weights

from msngan import gan
from msngan.runs.atomic import add, append_line
from msngan.runs.jsonl import read_lines

Run = Callable[..., int]
Tiny = Callable[..., Path]
Shown = pytest.CaptureFixture[str]
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


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """`at_step(n, do)`: before the step that follows n, once."""
    original = gan.GAN.training_step
    todo: dict[int, Callable[[], object]] = {}

    def stepped(self: gan.GAN, *batch: object) -> object:
        todo.pop(self.trainer.global_step, lambda: None)()
        return original(self, *batch)

    monkeypatch.setattr(gan.GAN, "training_step", stepped)
    return todo.__setitem__


def on(disk: Path, *options: str) -> list[str]:
    """The options of a run that writes after each step to this disk."""
    return [*TINY, *QUIET, *EACH, "--run", "mine", "--root", str(disk), *options]


def left(place: Path) -> list[str]:
    names = [path.name for path in place.rglob("*")]
    return [name for name in names if name.endswith(".tmp") or name == ".next.ckpt"]


def last_line(shown: Shown) -> str:
    text = shown.readouterr().err
    assert "Traceback" not in text
    assert "Exception" not in text
    return text.splitlines()[-1]


def test_a_full_disk_stops_the_run_and_its_last_checkpoint_goes_on_exactly(
    small: Path, run: Run, tiny: Tiny, capfd: Shown
) -> None:
    whole = weights(tiny("whole", *EACH))
    folder = small / "checkpoints/mine"
    with fill(small, 400_000):
        assert run("fit", *on(small)) == 1
        line = last_line(capfd)
        assert line.startswith(f"msngan: error: cannot write to {folder}: No space left on device")
        assert f"`msngan resume mine --root {small}`" in line
        assert not left(small)
        assert 1 <= torch.load(folder / "last.ckpt", weights_only=True)["global_step"] < 6
    assert run("resume", "mine", "--root", str(small)) == 0
    assert same_bits(whole, weights(folder))
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_limit_on_the_size_of_files_stops_the_run_too(
    run: Run, tiny: Tiny, capfd: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("mine", "--steps", "2")
    whole = weights(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = run("resume", "mine", "--steps", "3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert last_line(capfd).startswith(f"msngan: error: cannot write to {folder}: ")
    assert not left(folder)
    assert same_bits(whole, weights(folder))


def test_a_run_that_may_continue_warns_once_an_episode_and_ends_in_the_same_bits(
    small: Path,
    run: Run,
    tiny: Tiny,
    at_step: Callable[[int, Callable[[], object]], None],
    capfd: Shown,
) -> None:
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
    tiny: Tiny,
    at_step: Callable[[int, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Shown,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    full: list[bool] = []

    def limited(path: Path, data: bytes) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(path, data)

    monkeypatch.setattr("msngan.runs.atomic.add", limited)
    for name in ("write", "append"):
        plain = getattr(LocalFileSystem, name)

        def limited_too(*given: object, plain: Any = plain) -> None:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            plain(*given)

        monkeypatch.setattr(LocalFileSystem, name, limited_too)
    at_step(2, lambda: full.append(True))
    at_step(4, full.clear)
    at_step(6, lambda: full.append(True))
    at_step(7, full.clear)
    folder = tiny("mine", *EACH, "--steps", "9", "--on-save-error", "continue")
    shown = capfd.readouterr().err
    for what in ("metrics.jsonl", "tensorboard"):
        for first, again in ((3, 5), (7, 8)):
            assert shown.count(f"step {first}: {what} cannot be written: No space") == 1
            assert shown.count(f"step {again}: {what} can be written again") == 1
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl")]
    assert steps == [1, 2, 5, 6, 8, 9]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("critic_loss")] == steps


def test_a_run_that_may_continue_fails_when_its_last_checkpoint_is_missing(
    small: Path,
    run: Run,
    at_step: Callable[[int, Callable[[], object]], None],
    capfd: Shown,
) -> None:
    disk = fill(small, 60_000)  # for records, not for a checkpoint
    at_step(3, lambda: disk.__enter__())
    assert run("fit", *on(small, "--checkpoint.on_save_error", "continue")) == 1
    assert "No space left on device" in last_line(capfd)
    folder = small / "checkpoints/mine"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("how", ["moved", "removed", "unmounted"])
def test_a_folder_that_vanishes_stops_the_run_and_is_not_made_anew(
    small: Path,
    run: Run,
    at_step: Callable[[int, Callable[[], object]], None],
    capfd: Shown,
    tmp_path: Path,
    how: str,
) -> None:
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
        assert torch.load(small / "moved/last.ckpt", weights_only=True)["global_step"] == 3
        assert not left(small)


def test_a_disk_that_becomes_read_only_stops_the_run_and_refuses_a_resume_until_it_is_not(
    small: Path,
    run: Run,
    tiny: Tiny,
    at_step: Callable[[int, Callable[[], object]], None],
    capfd: Shown,
) -> None:
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
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    subprocess.run(["umount", "-l", str(small)], check=True)
    assert run("resume", "mine", "--root", str(small)) == 0
    assert same_bits(whole, weights(folder))


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            append_line(path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_little_room_is_said_before_training(
    run: Run, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: Shown
) -> None:
    def usage(free: int) -> Callable[[object], object]:
        return lambda place: shutil._ntuple_diskusage(10**12, 10**12 - free, free)

    folder = tiny("a")
    size = (folder / "last.ckpt").stat().st_size
    capfd.readouterr()
    for name, free, warned in (("b", 2 * size, True), ("c", 10 * size, False)):
        monkeypatch.setattr(shutil, "disk_usage", usage(free))
        tiny(name)
        shown = capfd.readouterr().err
        said = f"warning: checkpoints/{name} has room for" in shown
        assert said == warned
    from msngan.runs.checkpoint_files import read_checkpoint
    from msngan.training.starting import room_wanted

    saved = read_checkpoint(folder / "last.ckpt")["hyper_parameters"]
    wanted = room_wanted(gan.GAN(**saved))
    assert 0.2 * 4 * size < wanted < 4 * size  # tensors; a file this small is mostly names
