"""dynamics.npz of a run: when it is measured, that training does not notice, how it resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import resumed_from_previous, same_bits, under, weights
from test_dynamics_record import same

from msngan.training.dynamics import Dynamics, read

Tiny = Callable[..., Path]
Run = Callable[..., int]

CLASSIFIER = ["--config", "digits_cnn3_msn", "--data.batch_size", "8", "--data.limit", "90"]
CLASSIFIER += ["--data.validation", "10", "--data.test_limit", "16", "--model.width", "2"]
CLASSIFIER += ["--threads", "1", "--checkpoint.every", "0"]
EVERY_2, OFF = ["--dynamics.every", "2"], ["--dynamics.every", "0"]


@pytest.fixture
def classifier(run: Run) -> Tiny:
    """`classifier("name", options...)`: fit a tiny classifier; returns the run's folder."""

    def fit(name: str, *options: str) -> Path:
        assert run("fit", *CLASSIFIER, "--steps", "6", "--run", name, *options) == 0
        return Path("checkpoints") / name

    return fit


def dynamics(folder: Path) -> Dynamics:
    return read(folder / "dynamics.npz")


def test_a_gan_is_measured_before_and_after_its_first_step_then_by_cadence_and_last(
    tiny: Tiny,
) -> None:
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


def test_a_classifier_is_measured_on_its_one_network(classifier: Tiny) -> None:
    found = dynamics(classifier("a", *EVERY_2))
    assert found.step.tolist() == [0, 1, 2, 4, 6]
    assert found.networks == ("network",)
    assert found.layers == (
        "network.body.0",
        "network.body.2",
        "network.body.4",
        "network.head",
    )
    assert np.isfinite(found.gradient_rms[1:]).all()
    assert np.isfinite(found.drift[:, :3]).all()
    assert np.isnan(found.drift[:, 3]).all()
    # Under a spectral norm the matrix of each weight has norm 1, nearly: sigma is an estimate.
    np.testing.assert_allclose(found.matrix_norm, 1, rtol=0.1)
    assert (found.operator_norm[:, :3] > 1.05).any()


def test_none_are_made_where_none_are_wanted(tiny: Tiny, run: Run) -> None:
    assert not (tiny("a") / "dynamics.npz").exists()
    assert run("fit", "--dynamics.every", "-1") == 2


JOINT = ["--model.critic_batch", "joint", "--model.generator_statistics", "last"]


@pytest.mark.parametrize(
    "options",
    [
        under("batch"),
        under("optional_spectral"),
        ["--model.power_iteration", "pass", "--model.penalty", "gradient", *JOINT],
    ],
)
def test_a_gan_s_weights_are_the_same_bits_with_dynamics_and_without(
    tiny: Tiny, options: list[str]
) -> None:
    without = weights(tiny("without", *options))
    assert same_bits(without, weights(tiny("measured", *options, "--dynamics.every", "1")))


def test_a_classifier_s_weights_are_the_same_bits_with_dynamics_and_without(
    classifier: Tiny,
) -> None:
    options = ["--model.norm", "mean_spectral", "--model.dropout", "0.2"]
    without = weights(classifier("without", *options, *OFF))
    assert same_bits(without, weights(classifier("measured", *options, "--dynamics.every", "1")))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_are_measured(tiny: Tiny, precision: str) -> None:
    folder = tiny("measured", "--trainer.precision", precision, *EVERY_2)
    assert np.isfinite(dynamics(folder).operator_norm).all()


@pytest.mark.parametrize("kind", ["tiny", "classifier"])
def test_the_file_of_a_resumed_run_is_that_of_the_whole_one(
    request: pytest.FixtureRequest, run: Run, kind: str
) -> None:
    options = [*EVERY_2, "--steps", "9", "--checkpoint.every", "5"]
    folder = request.getfixturevalue(kind)("whole", *options)
    whole = dynamics(folder)
    resumed_from_previous(folder, run)
    assert same(dynamics(folder), whole, "seconds")
    assert not same(dynamics(folder), whole)


def test_a_kill_loses_no_measurement_from_before_the_last_checkpoint(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.training.callbacks import Checkpoints

    seen = []
    save = Checkpoints.save

    def saving(self: Checkpoints, trainer: object) -> None:
        seen.append(read(self.run.dynamics).step[-1])
        save(self, trainer)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "save", saving)
    tiny("a", *EVERY_2, "--checkpoint.every", "2")
    assert seen[:3] == [2, 4, 6]


def test_a_damaged_file_is_told_in_one_line_before_it_is_lost(
    tiny: Tiny, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_a_run_from_another_run_s_checkpoint_begins_where_it_begins(tiny: Tiny) -> None:
    first = tiny("first", *EVERY_2)
    found = dynamics(tiny("second", *EVERY_2, "--steps", "9", "--ckpt_path", f"{first}/last.ckpt"))
    assert found.step.tolist() == [6, 8, 9]
    assert np.isnan(found.gradient_rms[0]).all()


def test_means_go_to_tensorboard_once_in_a_resumed_run_too(tiny: Tiny, run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tiny("a", *EVERY_2, "--steps", "8", "--checkpoint.every", "5")
    resumed_from_previous(folder, run)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    scalars = events.Scalars("dynamics/critic/operator_norm")
    found = dynamics(folder)
    assert [each.step for each in scalars] == found.step.tolist()
    own = [name.startswith("critic.") for name in found.layers]
    np.testing.assert_allclose([e.value for e in scalars], found.operator_norm[:, own].max(1))
