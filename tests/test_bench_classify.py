"""`msngan bench classify`: whole training steps, in turns, over those of batch norm."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from msngan.bench import classifiers
from msngan.bench.settings import ClassifierSettings
from msngan.classifier import Classifier
from msngan.networks import CLASSIFIERS
from msngan.report.tables.bench_classify import classify_tables

SETTINGS = ClassifierSettings(("cnn3",), ("none", "batch", "mean_spectral"), rounds=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(classifiers.SHAPES, "cnn3", (4, 1, 8))


def test_every_network_has_a_shape_and_the_command_knows_it() -> None:
    from msngan.commands.bench import NETWORKS

    assert set(classifiers.SHAPES) == set(CLASSIFIERS) == set(NETWORKS)


@pytest.mark.parametrize("norm", ["none", "spectral", "mean_spectral"])
def test_a_measured_step_is_the_classifier_s_training_step(small: None, norm: str) -> None:
    arm = classifiers.Arm("cnn3", norm, "channels_last", SETTINGS)
    module = Classifier("cnn3", norm, channels=1, size=8)
    module.network.load_state_dict(arm.module.state_dict())
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer  # type: ignore[method-assign]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    trainer = SimpleNamespace(global_step=0, global_rank=0, optimizers=[optimizer])
    module._trainer = trainer  # type: ignore[assignment]
    for _ in range(2):
        arm.step()
        module.training_step((arm.images, arm.labels), 0)
    wanted = module.network.state_dict()
    for name, value in arm.module.state_dict().items():
        torch.testing.assert_close(value, wanted[name])


def test_a_faster_arm_has_more_than_batch_norm_s_steps(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"none": 1.0, "batch": 2.0, "mean_spectral": 1.6, "torch SN": 4.0, "naive MSN": 2.5}

    def taken(measures: dict, rounds: int, watcher: object) -> dict[str, list[float]]:
        return {name: [seconds[name.split(", ")[1]]] * 3 for name in measures}

    monkeypatch.setattr(classifiers, "interleaved", taken)
    record = classifiers.run(SETTINGS, SimpleNamespace())  # type: ignore[arg-type]
    found = {row["name"]: row for row in record["results"]}
    assert found["cnn3, none, contiguous"]["throughput"]["median"] == 2.0
    assert found["cnn3, mean_spectral, channels_last"]["throughput"]["median"] == 1.25
    assert found["cnn3, torch SN, contiguous"]["steps_per_second"] == 0.25
    first, second = classify_tables(record)
    assert "contiguous" in first.title
    assert "channels_last" in second.title
    assert [row[0] for row in first.rows][:3] == ["none", "mean_spectral", "batch"]
    cells = {row[0]: row[-2:] for row in first.rows}
    assert cells["mean_spectral"] == ["+25.0 %", "+16 %"]
    assert cells["none"] == ["+100.0 %", ""]
    assert cells["batch"] == ["", ""]


def test_the_command_measures_and_prints(
    small: None, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--networks", "cnn3", "--norms", "batch,spectral", "--rounds", "1"]
    assert run("bench", "classify", *options, "--format", "json") == 0
    record = json.loads(capsys.readouterr().out)
    norms = {row["norm"] for row in record["results"]}
    assert norms == {"batch", "spectral", "torch SN", "naive MSN"}
    assert {row["layout"] for row in record["results"]} == {"contiguous", "channels_last"}
    assert record["settings"]["networks"] == ["cnn3"]
    assert "image_size" not in record["settings"]


def test_an_unknown_network_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", "classify", "--networks", "cnn4") == 2
    shown = capsys.readouterr().err
    assert "unknown network 'cnn4' (did you mean 'cnn3'?)" in shown
    assert shown.count("\n") == 1
