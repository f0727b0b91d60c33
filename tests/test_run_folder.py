"""Who may train a run, what it goes on from, and how much it keeps."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, same_bits, weights

from msngan.runs.folder import lock
from msngan.training.callbacks.checkpoints import AtomicIO
from msngan.training.callbacks.scores import Sign
from msngan.training.dynamics import read


def test_a_run_that_another_process_trains_is_refused_and_left_alone(tiny, run, refused):
    folder = tiny("mine", "--steps", "4")
    (folder / ".last.ckpt.abc.tmp").touch()  # theirs
    held = lock(folder / ".lock")
    assert held is not None
    try:
        line = refused("resume", "mine", "--steps", "6")
    finally:
        os.close(held)
    assert line.startswith("msngan: error: run 'mine' is being trained by another process")
    assert run("resume", "mine", "--steps", "6") == 0


def test_a_grid_that_a_crash_has_cut_is_left_out_of_the_animation(tiny, run):
    tiny("mine", "--steps", "2", "--samples.every", "1")
    Path("samples/mine/training.webp").unlink()
    Path("samples/mine/step-00000001.png").write_bytes(b"\x89PNG")
    assert run("resume", "mine", "--steps", "3") == 0
    assert Path("samples/mine/training.webp").is_file()


def test_a_run_holds_its_lock_while_it_trains_and_gives_it_back(tiny, run, at_step):
    seen: list[object] = []
    for step in (1, 2):
        at_step(step, lambda: seen.append(lock(Path("checkpoints/mine/.lock"))))
    tiny("mine", "--steps", "2")
    assert run("resume", "mine", "--steps", "3") == 0
    assert seen == [None, None]
    free = lock(Path("checkpoints/mine/.lock"))
    assert free is not None
    os.close(free)


def test_what_a_killed_training_left_is_removed_and_what_others_write_is_not(tiny, run):
    folder, samples = tiny("mine", "--steps", "2"), Path("samples/mine")
    stale = [folder / ".last.ckpt.a_b1.tmp", folder / "..next.ckpt.xyz.tmp", folder / ".next.ckpt"]
    stale += [folder / ".metrics.jsonl.xyz.tmp", folder / ".config.yaml.xyz.tmp"]
    stale += [samples / ".step-00000002.png.xyz.tmp", samples / ".training.webp.xyz.tmp"]
    others = [folder / ".report.html.xyz.tmp", samples / ".mine-n8.npz.xyz.tmp"]
    for path in stale + others:
        path.touch()
    assert run("resume", "mine", "--steps", "3") == 0
    assert [path for path in stale if path.exists()] == []
    assert all(path.exists() for path in others)


@pytest.mark.parametrize(
    "left", [(), (".lock",), (".lock", "environment.json", ".config.yaml.a.tmp")]
)
def test_a_run_killed_before_it_had_a_config_is_begun_again_by_fit(tiny, left):
    folder = Path("checkpoints/mine")
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).touch()
    tiny("mine", "--steps", "1")
    assert not list(folder.glob("*.tmp"))


def test_a_folder_that_holds_anything_else_is_taken(refused):
    folder = Path("checkpoints/mine")
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    Path("checkpoints/file").touch()
    for name in ("mine", "file"):
        assert f"run '{name}' is taken" in refused("fit", *TINY, *QUIET, "--run", name)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def blank(path: Path) -> None:
    """A block of it reads as zeros, which is what some file systems leave after a power cut."""
    content = bytearray(path.read_bytes())
    middle = content.rindex(b"generator.stem.weight") // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


def no_link(*arguments: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(("damage", "links"), [(cut, True), (blank, False)])
def test_a_damaged_last_checkpoint_is_set_aside_for_the_one_before(
    tiny, run, capfd, monkeypatch, damage, links
):
    if not links:  # the file system has none
        monkeypatch.setattr(os, "link", no_link)
    whole = weights(tiny("whole", "--steps", "8"))
    folder = tiny("mine", "--steps", "7", "--checkpoint.every", "4")
    damage(folder / "last.ckpt")
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "8") == 0
    shown = capfd.readouterr().err
    said = [line for line in shown.splitlines() if "damaged" in line]
    assert len(said) == 1
    assert "last.ckpt is damaged (now damaged.ckpt); resuming from" in said[0]
    assert same_bits(whole, weights(folder))
    steps = [
        torch.load(folder / name, weights_only=True)["global_step"]
        for name in ("previous.ckpt", "last.ckpt")
    ]
    assert steps == [4, 8]


def test_a_run_without_a_whole_checkpoint_is_one_line_and_stays_as_it_is(tiny, refused):
    folder = tiny("mine", "--checkpoint.every", "4")
    for name in ("last.ckpt", "previous.ckpt"):
        cut(folder / name)
    line = refused("resume", "mine", "--steps", "9")
    assert "last.ckpt and checkpoints/mine/previous.ckpt cannot be read" in line


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tiny, run):
    whole = tiny("whole")
    parts = tiny("parts", "--steps", "2")
    (parts / "last.ckpt").unlink()
    assert run("resume", "parts", "--steps", "6") == 0
    assert same_bits(weights(whole), weights(parts))


def test_at_every_moment_of_a_save_one_last_checkpoint_is_intact_and_there_are_at_most_four(
    tiny, monkeypatch
):
    folder = Path("checkpoints/mine")
    counts: list[int] = []
    steps: list[int] = []

    def look() -> None:
        found = [*folder.glob("*.ckpt"), *folder.glob(".*.ckpt*")]
        counts.append(len({path.stat().st_ino for path in found}))
        if steps or (folder / "last.ckpt").exists():
            last = torch.load(folder / "last.ckpt", weights_only=True)
            steps.append(last["msngan"]["step"])

    for place, name in (
        *((os, n) for n in ("replace", "link", "unlink", "fsync")),
        (torch, "save"),
    ):
        real = getattr(place, name)

        def watched(*arguments: object, real: Callable[..., object] = real) -> object:
            look()
            result = real(*arguments)
            look()
            return result

        monkeypatch.setattr(place, name, watched)
    options = ["--scores.enabled", "true", "--scores.every", "1", "--scores.samples", "20"]
    options += ["--scores.runs", "1", "--scores.metrics", "fid", "--steps", "4"]
    tiny("mine", *options, "--checkpoint.every", "1", "--model.generator_lr", "0.05")
    assert max(counts) == 4
    assert len(steps) > 10
    assert steps == sorted(steps)


def test_a_kill_between_the_two_names_of_one_checkpoint_leaves_no_third(tiny, run):
    folder = tiny("mine", "--steps", "4", "--checkpoint.every", "2")
    (folder / "previous.ckpt").unlink()
    os.link(folder / "last.ckpt", folder / "previous.ckpt")
    assert run("resume", "mine", "--steps", "6") == 0
    assert {path.name for path in folder.glob(".*")} == {".lock"}


def test_every_record_is_on_disk_before_the_checkpoint_that_stands_for_it(tiny, monkeypatch):
    folder = Path("checkpoints/mine")
    synced: dict[int, int] = {}  # bytes by inode
    checked: list[bool] = []
    measured: list[int] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        about = os.fstat(descriptor)
        synced[about.st_ino] = about.st_size

    def watched_replace(source: Path, target: Path) -> None:
        if Path(target).name == "last.ckpt":
            records = [*folder.glob("*.jsonl"), *folder.glob("*.npz")]
            records += [*Path("samples/mine").iterdir(), folder / ".next.ckpt"]
            found = [path.stat() for path in records]
            checked.append(all(synced.get(each.st_ino) == each.st_size for each in found))
            measured.append(int(read(folder / "dynamics.npz").step[-1]))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    options = ["--scores.enabled", "true", "--scores.every", "2", "--scores.samples", "20"]
    options += ["--samples.every", "2", "--records.every", "1", "--dynamics.every", "2"]
    tiny("mine", *options, "--checkpoint.every", "2")
    assert checked == [True, True, True]
    assert measured == [2, 4, 6]


def test_a_save_without_room_is_told_to_who_asks_so_that_no_other_process_waits(
    tmp_path, monkeypatch
):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    io = AtomicIO()
    io.save_checkpoint({}, tmp_path / "a.ckpt")
    with pytest.raises(OSError, match="No space"):
        io.take_problem()
    io.take_problem()
    assert not list(tmp_path.iterdir())


def test_a_collapse_whose_result_a_kill_has_prevented_still_ends_the_run(
    tiny, run, monkeypatch, capfd
):
    def sign(lines: list[dict[str, int]], *_: object) -> list[Sign]:
        return [Sign("fd is far off", True)] if lines[-1]["step"] == 3 else []

    monkeypatch.setattr("msngan.training.callbacks.scores.signs", sign)
    options = ["--scores.enabled", "true", "--scores.every", "1", "--scores.samples", "20"]
    folder = tiny("mine", *options, "--scores.stop_on_collapse", "true")
    result = folder / "result.json"
    assert json.loads(result.read_text())["status"] == "collapsed"
    result.unlink()
    before = weights(folder)
    capfd.readouterr()
    assert run("resume", "mine") == 0
    assert capfd.readouterr().err == "run mine had stopped at step 3: fd is far off\n"
    assert json.loads(result.read_text())["status"] == "collapsed"
    assert same_bits(before, weights(folder))
    assert run("resume", "mine") == 0  # asked for once more, it goes on
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6
