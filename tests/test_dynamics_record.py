"""dynamics.npz: whole, readable by numpy alone, and refused in one line where it is damaged."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msngan.training.dynamics import PER_LAYER, Dynamics, appended, read, until, write

LAYERS = ("critic.body.0", "critic.head")


def example(*steps: int, layers: tuple[str, ...] = LAYERS) -> Dynamics:
    """Measurements at these steps, every number another one."""
    draw = np.random.default_rng(len(steps))
    count, edges = len(steps), np.array([0.1, 1.0, 10.0])

    def some(*shape: int) -> Any:
        return draw.normal(size=(count, *shape)).astype(np.float32)

    return Dynamics(
        layers=layers,
        shapes=((4, 3, 3, 3), (1, 64)),
        networks=("critic",),
        threshold=0.01,
        edges=edges,
        step=np.array(steps, np.int64),
        **{name: some(len(LAYERS)) for name in PER_LAYER},
        histogram=draw.integers(0, 2**32, (count, len(LAYERS), 2, 3), np.uint32),
        spectral_complexity=draw.normal(size=(count, 1)) * 1e60,
        seconds=draw.random(count),
        singular=(some(4), some(1)),
        channel_mean=(some(4), some(1) * np.nan),
        channel_sd=(some(4), some(1) * np.nan),
    )


def same(a: Dynamics, b: Dynamics, *but: str) -> bool:
    """Whether two are equal to the last bit, NaN too."""
    for field in fields(Dynamics):
        pair = [getattr(each, field.name) for each in (a, b)]
        if field.name not in but and pickle.dumps(_plain(pair[0])) != pickle.dumps(_plain(pair[1])):
            return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.quick
def test_what_is_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    path, known = tmp_path / "dynamics.npz", example(0, 1, 500)
    write(path, known)
    assert same(read(path), known)
    assert same(read(str(path)), known)
    write(path, until(known, -1))
    assert len(read(path)) == 0


def test_numpy_alone_reads_the_file(tmp_path: Path) -> None:
    path, known = tmp_path / "dynamics.npz", example(0, 7)
    write(path, known)
    with np.load(path, allow_pickle=False) as archive:
        names = set(archive.files)
        assert archive["layers"].tolist() == list(LAYERS)
        assert str(archive["shapes"]) == "[[4, 3, 3, 3], [1, 64]]"
        assert archive["format"] == 1
        assert archive["format"].shape == ()
        assert archive["singular/0"].shape == (2, 4)
    lists = ("singular", "channel_mean", "channel_sd")
    own = {field.name for field in fields(Dynamics)} - set(lists)
    assert names == own | {"format"} | {f"{name}/{i}" for name in lists for i in (0, 1)}


def test_reading_needs_no_torch() -> None:
    code = "import sys, msngan.training.dynamics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_measurements_follow_each_other_and_are_dropped_from_a_step_on() -> None:
    whole = example(0, 1, 500, 1000)
    parts = None
    for step in (0, 1, 500, 1000):
        before = until(whole, step)
        index = len(before) - 1
        parts = appended(parts, one(whole, index))
        assert same(parts, before)
    for step, count in ((-1, 0), (0, 1), (499, 2), (500, 3), (2000, 4)):
        assert len(until(whole, step)) == count
    assert same(appended(until(whole, -1), one(whole, 2)), one(whole, 2))


def one(dynamics: Dynamics, index: int) -> Dynamics:
    """One of the measurements."""
    changed: dict[str, Any] = {}
    for name in ("step", *PER_LAYER, "histogram", "spectral_complexity", "seconds"):
        changed[name] = getattr(dynamics, name)[index : index + 1]
    for name in ("singular", "channel_mean", "channel_sd"):
        changed[name] = tuple(array[index : index + 1] for array in getattr(dynamics, name))
    return replace(dynamics, **changed)


def test_a_measurement_of_other_layers_or_of_the_past_is_refused() -> None:
    known = example(0, 500)
    with pytest.raises(ValueError, match="other layers"):
        appended(known, example(501, layers=("critic.body.0", "critic.other")))
    with pytest.raises(ValueError, match="other layers"):
        appended(known, replace(example(501), edges=np.array([0.1, 1.0, 11.0])))
    for step in (499, 500):
        with pytest.raises(ValueError, match="after step 500"):
            appended(known, example(step))


def refused(path: Path, *words: str) -> None:
    """One line that names the file, the cause and the remedy."""
    with pytest.raises(ValueError, match=r"remove it, and train with --dynamics\.every") as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert all(word in message for word in words)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.npz"
    write(path, example(0, 1))
    whole = path.read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path)


def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    path, known = tmp_path / "dynamics.npz", example(0, 1)
    write(path, known)
    whole, draw, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(read(path), known)
        except ValueError:
            refused(path)
            noticed += 1
    assert noticed > 20


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.npz"
    refused(path, "no such file")
    path.mkdir()
    refused(path)
    path.rmdir()
    path.write_text("step,loss\n1,2\n")
    refused(path)
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    refused(path)
    np.savez(path, weights=np.ones(3))
    refused(path, "no format number")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_file_is_not_opened(tmp_path: Path) -> None:
    path, made = tmp_path / "dynamics.npz", tmp_path / "made"
    np.savez(path, format=np.array(1), step=np.array([Trap(made)], dtype=object))
    refused(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("format", np.array(2), "format is 2"),
        ("drift", None, "drift is missing"),
        ("drift", np.zeros((2, 3), np.float32), "drift"),
        ("drift", np.zeros((2, 2), np.int64), "drift"),
        ("histogram", np.zeros((2, 2, 2, 4), np.uint32), "histogram"),
        ("singular/1", None, "singular/1"),
        ("channel_mean/0", np.zeros((3, 4), np.float32), "channel_mean/0"),
        ("channel_mean/0", np.zeros(2, np.float32), "channel_mean/0"),
        ("shapes", np.array("[[1, 2]]"), "do not belong together"),
        ("shapes", np.array("[[1, 2"), "cannot be read"),
        ("step", np.array([5, 5]), "do not belong together"),
        ("step", np.array(5), "cannot be read"),
        ("threshold", np.array([0.1, 0.2]), "cannot be read"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, value: Any, word: str
) -> None:
    path = tmp_path / "dynamics.npz"
    write(path, example(0, 1))
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    np.savez(path, **arrays)
    refused(path, word)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dynamics.npz"
    write(path, example(0, 1))
    monkeypatch.setattr("msngan.training.dynamics.dynamics_file.LARGEST", 1000)
    refused(path, "larger than")


def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, known = tmp_path / "dynamics.npz", example(0, 1)
    write(path, known)
    left, plain = [5], np.lib.format.write_array

    def full(*arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError("no space left on device")
        plain(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space left"):
        write(path, example(0, 1, 2))
    assert same(read(path), known)
    assert [each.name for each in tmp_path.iterdir()] == ["dynamics.npz"]
