"""`msngan bench scores` at small sizes: what is compared, and refusals; never how fast."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from test_architecture import loaded_after
from test_bad_input import refused  # noqa: F401  a fixture

from msngan.bench.features import SHIFT, SHRUNK, Simulated
from msngan.bench.ratios import ratio
from msngan.bench.score_settings import PARTS, ScoreSettings
from msngan.scores import core

Run = Callable[..., int]
TINY = ["--rounds", "2", "--samples", "30", "--few", "10", "--dimensions", "16", "--kept", "40"]
TINY += ["--subsets", "3", "--subset-size", "20", "--runs", "2", "--width", "2"]


@pytest.fixture
def bench(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: str) -> Any:
        assert run("bench", "scores", *TINY, *arguments, "--format", "json") == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_every_part_is_measured_against_the_libraries_that_have_it(
    bench: Callable[..., Any],
) -> None:
    record = bench()
    assert record["benchmark"] == "scores"
    assert record["baseline"] == "msngan"
    assert set(record["hardware"]) == {"processor", "cores", "memory", "gpu", "platform"}
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["settings"]["only"] == list(PARTS)
    assert record["settings"]["samples"] == 30
    assert record["extractor"].startswith("embed-cifar10-")
    goals = {row["name"]: row["goal"] for row in record["results"]}
    assert goals == {
        "frechet: msngan": None,
        "frechet: torchmetrics": 2.5,
        "frechet: torch-fidelity": None,
        "frechet: scipy sqrtm": 5,
        "low-rank: msngan": None,
        "low-rank: torchmetrics": 20,
        "low-rank: torch-fidelity": None,
        "kernel: msngan": None,
        "kernel: torch-fidelity": None,
        "evaluation: generator and extractor": 0.9,
        "evaluation: floors": None,
        "evaluation: generator": None,
        "evaluation: extractor": None,
        "evaluation: scores": None,
    }
    by_name = {row["name"]: row for row in record["results"]}
    for row in record["results"]:
        found = row["ratio"] if "ratio" in row else row["share"]
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert 0 < found["low"] <= found["median"] <= found["high"]
        if "ratio" in row:
            ours = by_name[f"{row['part']}: msngan"]["seconds"]
            assert found == asdict(ratio(row["seconds"], ours))


def test_all_compute_the_same_distance(bench: Callable[..., Any]) -> None:
    rows = bench("--only", "low-rank,frechet")["results"]
    for part, tolerance in (("frechet", 1e-9), ("low-rank", 1e-6)):
        values = [row["value"] for row in rows if row["part"] == part]
        assert len(values) == {"frechet": 4, "low-rank": 3}[part]
        assert values == pytest.approx([values[0]] * len(values), rel=tolerance)


def test_the_kernel_distances_are_of_the_same_features(bench: Callable[..., Any]) -> None:
    ours, theirs = bench("--only", "kernel")["results"]
    simulated = Simulated(16)
    whole = core.kernel_distance(simulated.fake(30), simulated.real(40))
    assert ours["value"] == pytest.approx(whole, abs=1e-12)
    every = bench("--only", "kernel", "--kept", "30", "--subset-size", "30", "--subsets", "1")
    ours, theirs = every["results"]
    assert theirs["value"] == pytest.approx(ours["value"], rel=1e-9)


def test_shares_are_of_the_rounds_that_count_and_sum_to_the_whole(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.bench import whole

    made: list[whole.Evaluation] = []
    seconds = iter([9.0, 1.0, 1.0])  # the first round fills the cache and is not kept

    def evaluated(self: whole.Evaluation) -> whole.Result:
        made.append(self)
        return whole.Result({}, {}, {"generator": 6.0, "extractor": 3.0, "scores": next(seconds)})

    monkeypatch.setattr(whole.Evaluation, "_evaluated", evaluated)
    rows = {row["by"]: row["share"] for row in bench("--only", "evaluation")["results"]}
    assert rows["generator and extractor"]["median"] == pytest.approx(0.9)
    assert rows["generator"]["median"] == pytest.approx(0.6)
    assert rows["scores"]["median"] == pytest.approx(0.1)
    assert len(made) == 3
    assert (made[0].protocol.runs, made[0].protocol.samples) == (2, 30)
    assert made[0].reference.count == 40


def test_a_warm_evaluation_embeds_generated_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from msngan.bench.whole import Evaluation
    from msngan.scores.protocol import METRICS
    from msngan.scores.shipped import EmbeddedExtractor

    embedded: list[int] = []
    features = EmbeddedExtractor.features

    def counted(self: EmbeddedExtractor, images: torch.Tensor) -> Any:
        embedded.append(len(images))
        return features(self, images)

    monkeypatch.setattr(EmbeddedExtractor, "features", counted)
    made = Evaluation.of(ScoreSettings(kept=30, samples=20, runs=2, width=2), Path("cache"))
    assert sum(embedded) == 30
    for _ in range(2):
        embedded.clear()
        assert made.seconds() > 0
        assert sum(embedded) == 40
    assert [set(each) for each in made.spent] == [
        {"floors", "generator", "extractor", "scores"}
    ] * 2
    scores = made._evaluated().scores
    assert len(scores) == sum(len(roles) for roles in METRICS.values())
    assert all(math.isfinite(each["mean"]) for each in scores.values())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_simulated_features_have_the_moments_that_they_are_said_to_have() -> None:
    simulated = Simulated(8)
    values = torch.linalg.eigvalsh(simulated.covariance)
    torch.testing.assert_close(values.flip(0), 1 / torch.arange(1, 9).double())
    torch.testing.assert_close(
        torch.cov(simulated.real(40_000).T), simulated.covariance, atol=0.02, rtol=0
    )
    fake = simulated.fake(40_000)
    torch.testing.assert_close(
        torch.cov(fake.T), SHRUNK**2 * simulated.covariance, atol=0.02, rtol=0
    )
    torch.testing.assert_close(fake.mean(0), SHIFT * simulated.root[:, 0], atol=0.02, rtol=0)
    assert torch.equal(simulated.fake(5), Simulated(8).fake(5))
    drawn_alike = SHRUNK * simulated.real(5) + SHIFT * simulated.root[:, 0]
    assert not torch.allclose(simulated.fake(5), drawn_alike, atol=0.1)


def test_every_format_shows_ratios_and_no_times(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for form in ("table", "md", "csv"):
        assert run("bench", "scores", *TINY, "--format", form) == 0
        shown[form] = capsys.readouterr().out
        assert not re.search(r"\b(seconds|ms)\b", shown[form])
    for form in ("table", "md"):
        assert "frechet: torchmetrics" in shown[form]
        assert "generator and extractor" in shown[form]
        assert max(map(len, shown["table"].splitlines())) <= 80
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(shown["csv"]))}
    assert float(rows["frechet: msngan"]["ratio_median"]) == 1
    assert float(rows["frechet: scipy sqrtm"]["goal"]) == 5
    assert 0 < float(rows["evaluation: scores"]["share_median"]) < 1


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (2.5, 3, ["2.5", "reached"]),
        (2, 2.4, ["2.5", "missed"]),
        (2, 3, ["2.5", "open: more rounds"]),
    ],
)
def test_a_goal_is_reached_missed_or_open(low: float, high: float, words: list[str]) -> None:
    from msngan.report.tables.bench_scores import _goal

    assert _goal({"goal": 2.5, "ratio": {"low": low, "high": high}}, "ratio") == words
    assert _goal({"goal": None, "ratio": {"low": low, "high": high}}, "ratio") == ["", ""]


def test_output_is_written_whole_and_nothing_else(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))  # the user's is left alone
    arguments = ["--only", "kernel,evaluation", "--output", "x.json", "--format", "json"]
    assert run("bench", "scores", *TINY, *arguments) == 0
    assert json.loads(Path("x.json").read_text()) == json.loads(capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_every_library_gets_as_many_threads(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info

    from msngan.bench import scores

    seen: set[int] = set()

    def looked(*given: Any) -> Any:
        seen.update(pool["num_threads"] for pool in threadpool_info())
        return interleaved(*given)

    interleaved = scores.interleaved
    monkeypatch.setattr(scores, "interleaved", looked)
    bench("--only", "frechet", "--threads", "1")
    assert seen == {1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "frecht"], "unknown part 'frecht' (did you mean 'frechet'?)"),
        (["--only", ","], "names none; choose of frechet, low-rank, kernel, evaluation"),
        (["--rounds", "0"], "--rounds 0 is less than 1"),
        (["--threads", "0"], "--threads 0 is less than 1"),
        (["--samples", "1"], "--samples 1 is less than 2"),
        (["--runs", "0"], "--runs 0 is less than 1"),
        (["--subset-size", "1"], "--subset-size 1 is less than 2"),
        (["--samples", "500"], "--subset-size 1000 is more than the 500 images of --samples"),
        (["--dimension", "2"], "did you mean '--dimensions'"),
        (["--output", "/proc/1/x.json"], "--output /proc/1/x.json cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named_before_anything_is_measured(
    refused: Callable[..., str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    from msngan.bench import scores

    monkeypatch.setattr(scores, "run", None)
    assert words in refused("bench", "scores", *arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["--samples", "0"], ["--only", "x"]])
def test_help_and_usage_errors_do_not_import_torch(arguments: list[str]) -> None:
    assert not loaded_after("bench", "scores", *arguments) & {"torch", "numpy"}
