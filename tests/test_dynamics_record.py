"""dynamics.npz: what a run measures and when, that training does not notice, damaged files."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import resumed_from_previous, same_bits, under, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msngan.training.callbacks.dynamics import is_planned
from msngan.training.dynamics import (
    ADDED,
    LOSS,
    PER_LAYER,
    PER_NETWORK,
    Dynamics,
    appended,
    read,
    until,
    write,
)

LAYERS = ("critic.body.0", "critic.head")
EVERY_2, OFF = ["--dynamics.every", "2"], ["--dynamics.every", "0"]
SMOOTHNESS = ["--dynamics.smoothness", "true"]


def example(*steps: int) -> Dynamics:
    """Measurements at these steps, every number another one."""
    draw = np.random.default_rng(len(steps))
    count, edges = len(steps), np.array([0.1, 1.0, 10.0])

    def some(*shape: int) -> Any:
        return draw.normal(size=(count, *shape)).astype(np.float32)

    return Dynamics(
        layers=LAYERS,
        shapes=((4, 3, 3, 3), (1, 64)),
        networks=("critic",),
        threshold=0.01,
        edges=edges,
        step=np.array(steps, np.int64),
        **{name: some(len(LAYERS)) for name in PER_LAYER},
        histogram=draw.integers(0, 2**32, (count, len(LAYERS), 2, 3), np.uint32),
        **{name: draw.normal(size=(count, 1)) * 1e60 for name in PER_NETWORK},
        seconds=draw.random(count),
        singular=(some(4), some(1)),
        channel_mean=(some(4), some(1) * np.nan),
        channel_sd=(some(4), some(1) * np.nan),
        first_left=(np.eye(2, 4, dtype=np.float32), np.ones((1, 1), np.float32)),
        first_right=(np.eye(2, 27, dtype=np.float32), np.eye(1, 64, dtype=np.float32)),
    )


def same(a: Dynamics, b: Dynamics, *but: str) -> bool:
    """Whether two are equal to the last bit, NaN too."""
    names = [field.name for field in fields(Dynamics) if field.name not in but]
    return all(_plain(getattr(a, name)) == _plain(getattr(b, name)) for name in names)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.quick
def test_a_long_run_is_measured_seldom_and_its_beginning_often():
    planned = [step for step in range(1, 30_001) if is_planned(step, "auto")]
    assert planned == [1, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000]
    # A measurement takes as long as a hundred steps of a fast GPU: 2 % of the default's 100,000.
    assert 100 * sum(is_planned(step, "auto") for step in range(1, 100_001)) < 0.02 * 100_000
    assert [step for step in range(1, 8) if is_planned(step, 3)] == [1, 3, 6]
    assert not any(is_planned(step, 0) for step in range(1, 8))


@pytest.mark.quick
def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    path, known = tmp_path / "dynamics.npz", example(0, 1, 500)
    write(path, known)
    assert same(read(path), known)
    assert same(read(str(path)), known)
    write(path, until(known, -1))
    assert len(read(path)) == 0


def test_numpy_alone_reads_the_file(tmp_path):
    path, known = tmp_path / "dynamics.npz", example(0, 7)
    write(path, known)
    with np.load(path, allow_pickle=False) as archive:
        names = set(archive.files)
        assert archive["layers"].tolist() == list(LAYERS)
        assert str(archive["shapes"]) == "[[4, 3, 3, 3], [1, 64]]"
        assert archive["format"] == 1
        assert archive["format"].shape == ()
        assert archive["singular/0"].shape == (2, 4)
    lists = ("singular", "channel_mean", "channel_sd", "first_left", "first_right")
    own = {field.name for field in fields(Dynamics)} - set(lists)
    assert names == own | {"format"} | {f"{name}/{i}" for name in lists for i in (0, 1)}


def test_reading_needs_no_torch():
    code = "import sys, msngan.training.dynamics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_measurements_follow_each_other_are_dropped_from_a_step_on_and_fit_or_are_refused():
    whole = example(0, 1, 500, 1000)
    for step, count in ((-1, 0), (0, 1), (499, 2), (500, 3), (2000, 4)):
        assert len(until(whole, step)) == count
    last = changed(whole, lambda array: array[-1:])
    assert same(appended(until(whole, 999), last), whole)
    assert same(appended(until(whole, -1), last), last)
    for other in (
        replace(last, layers=("critic.body.0", "critic.other")),
        replace(last, edges=np.array([0.1, 1.0, 11.0])),
    ):
        with pytest.raises(ValueError, match="other layers"):
            appended(until(whole, 500), other)
    with pytest.raises(ValueError, match="after step 1000"):
        appended(whole, last)


def changed(dynamics: Dynamics, change: Callable[[Any], Any]) -> Dynamics:
    """With each of the arrays that have a row a measurement changed."""
    names = ("step", *PER_LAYER, "histogram", *PER_NETWORK, "seconds")
    arrays = {name: change(getattr(dynamics, name)) for name in names}
    for name in ("singular", "channel_mean", "channel_sd"):
        arrays[name] = tuple(map(change, getattr(dynamics, name)))
    return replace(dynamics, **arrays)


def refused(path: Path, *words: str) -> None:
    """One line that names the file, the cause and the remedy."""
    with pytest.raises(ValueError, match=r"remove it, and train with --dynamics\.every") as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert all(word in message for word in words)


def test_a_file_cut_anywhere_or_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "dynamics.npz"
    refused(path, "no such file")
    path.mkdir()
    refused(path)
    path.rmdir()
    write(path, example(0, 1))
    whole = path.read_bytes()
    for content in (*(whole[:size] for size in (0, 1, len(whole) // 2, -1)), b"step,loss\n1,2\n"):
        path.write_bytes(content)
        refused(path)
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    refused(path)
    np.savez(path, weights=np.ones(3))
    refused(path, "no format number")


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
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


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_file_is_not_opened(tmp_path):
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
def test_columns_that_do_not_fit_are_refused(tmp_path, name, value, word):
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


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "dynamics.npz"
    write(path, example(0, 1))
    monkeypatch.setattr("msngan.training.dynamics.LARGEST", 1000)
    refused(path, "larger than")


def dynamics(folder: Path) -> Dynamics:
    return read(folder / "dynamics.npz")


def test_a_gan_is_measured_before_and_after_its_first_step_then_by_cadence_and_last(tiny):
    found = dynamics(tiny("a", "--dynamics.every", "3", "--steps", "8"))
    assert found.step.tolist() == [0, 1, 3, 6, 8]
    assert found.networks == ("critic", "generator")
    critic = [f"critic.body.{2 * i}" for i in range(7)]
    generator = ["generator.stem", *(f"generator.body.{i}" for i in (2, 5, 8, 11))]
    assert found.layers == (*critic, "critic.head", *generator)
    assert found.shapes[0] == (2, 1, 3, 3)
    assert np.isnan(found.gradient_rms[0]).all()
    assert np.isfinite(found.gradient_rms[1:]).all()
    counts = found.histogram.sum((2, 3), dtype=np.int64)
    sizes = [int(np.prod(shape)) for shape in found.shapes]
    assert counts.tolist() == [[0] * len(sizes)] + [sizes] * 4
    assert (found.drift[0, :7] == 0).all()
    assert (found.drift[1:, :7] > 0).all()
    assert (found.seconds > 0).all()
    assert (found.spectral_complexity > 0).all()
    assert np.isfinite(found.operator_norm).all()


def test_a_classifier_is_measured_on_its_one_network(classifier):
    found = dynamics(classifier("a", *EVERY_2, "--steps", "6"))
    assert found.step.tolist() == [0, 1, 2, 4, 6]
    assert found.networks == ("network",)
    assert found.layers == ("network.body.0", "network.body.2", "network.body.4", "network.head")
    assert np.isfinite(found.gradient_rms[1:]).all()
    assert np.isfinite(found.drift[:, :3]).all()
    assert np.isnan(found.drift[:, 3]).all()
    # Under a spectral norm the matrix of each weight has norm 1, nearly: sigma is an estimate.
    np.testing.assert_allclose(found.matrix_norm, 1, rtol=0.1)
    assert (found.operator_norm[:, :3] > 1.05).any()


JOINT = ["--model.critic_batch", "joint", "--model.generator_statistics", "last"]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("tiny", under("batch")),
        ("tiny", [*under("optional_spectral"), "--trainer.precision", "bf16-mixed"]),
        ("tiny", ["--model.power_iteration", "pass", "--model.penalty", "gradient", *JOINT]),
        ("tiny", ["--trainer.precision", "64-true"]),
        ("classifier", ["--steps", "6", "--model.dropout", "0.2"]),
    ],
)
def test_weights_are_the_same_bits_with_dynamics_and_without(request, task, options):
    fit = request.getfixturevalue(task)
    without = fit("without", *options, *OFF)
    assert not (without / "dynamics.npz").exists()
    measured = fit("measured", *options, "--dynamics.every", "1", *SMOOTHNESS)
    assert same_bits(weights(without), weights(measured))
    found = dynamics(measured)
    assert np.isfinite(found.operator_norm).all()
    for name in LOSS:
        assert (getattr(found, name)[:, 0] >= 0).all()
        assert np.isnan(getattr(found, name)[:, 1:]).all()


@pytest.mark.parametrize("task", ["tiny", "classifier"])
def test_the_file_and_the_events_of_a_resumed_run_are_those_of_the_whole_one(request, run, task):
    options = [*EVERY_2, *SMOOTHNESS, "--steps", "9", "--checkpoint.every", "5"]
    folder = request.getfixturevalue(task)("whole", *options)
    whole = dynamics(folder)
    resumed_from_previous(folder, run)
    found = dynamics(folder)
    assert same(found, whole, "seconds")
    assert not same(found, whole)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    network = found.networks[0]
    scalars = events.Scalars(f"dynamics/{network}/operator_norm")
    assert [each.step for each in scalars] == found.step.tolist()
    own = [name.startswith(f"{network}.") for name in found.layers]
    np.testing.assert_allclose([e.value for e in scalars], found.operator_norm[:, own].max(1))


def test_a_damaged_file_is_told_in_one_line_before_it_is_lost(tiny, run, capsys):
    folder = tiny("a", *EVERY_2)
    (folder / "dynamics.npz").write_bytes(b"damaged")
    capsys.readouterr()
    assert run("resume", "a", "--steps", "8") == 2
    error = capsys.readouterr().err
    assert "dynamics.npz cannot be read as training dynamics" in error
    assert "Traceback" not in error
    assert (folder / "dynamics.npz").read_bytes() == b"damaged"
    (folder / "dynamics.npz").unlink()
    assert run("resume", "a", "--steps", "8") == 0
    assert dynamics(folder).step.tolist() == [6, 8]


def without_added(path: Path) -> None:
    """Leave what a file of this format had before subspaces and losses were measured."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    added = {name for name in arrays if name in ADDED or name.startswith("first_")}
    assert added >= {*ADDED, "first_left/0"}
    np.savez(path, **{name: array for name, array in arrays.items() if name not in added})


def test_an_older_file_is_read_and_its_run_goes_on(tiny, run, tmp_path):
    folder = tiny("a", *EVERY_2)
    before = dynamics(folder)
    without_added(folder / "dynamics.npz")
    older = dynamics(folder)
    assert all(np.isnan(getattr(older, name)).all() for name in ADDED)
    assert same(older, before, *ADDED, "first_left", "first_right")
    assert run("resume", "a", "--steps", "8", *SMOOTHNESS) == 0
    found = dynamics(folder)
    assert found.step.tolist() == [0, 1, 2, 4, 6, 8]
    assert np.isnan(found.subspace_left).all()  # of first weights that the file does not have
    assert np.isfinite(found.subspace_link[-1]).any()
    assert np.isfinite(found.loss_range[-1, 0])
    np.testing.assert_array_equal(found.drift[:5], before.drift)


def test_a_run_from_another_run_s_checkpoint_begins_where_it_begins(tiny):
    first = tiny("first", *EVERY_2)
    found = dynamics(tiny("second", *EVERY_2, "--steps", "9", "--ckpt_path", f"{first}/last.ckpt"))
    assert found.step.tolist() == [6, 8, 9]
    assert np.isnan(found.gradient_rms[0]).all()
