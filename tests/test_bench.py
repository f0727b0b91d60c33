"""`msngan bench` as a person uses it, at a tiny size: structure and refusals, never speed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from test_architecture import loaded_after
from test_bad_input import refused  # noqa: F401  a fixture

from msngan.norms import NORMS

Run = Callable[..., int]
TINY = ["--width", "4", "--batch", "4", "--rounds", "2"]
KEYS = {"format", "benchmark", "command", "time", "hardware", "versions", "threads", "clock"}
KEYS |= {"rounds", "settings", "baseline", "results"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is repeated to be timed well: no test asks how long anything takes."""
    from msngan.bench import rounds

    monkeypatch.setattr(rounds, "LEAST_SECONDS", 0.0)


@pytest.fixture
def bench(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The record of a tiny benchmark, after the checks that hold for all three."""

    def call(*arguments: str) -> Any:
        assert run("bench", *arguments, *TINY, "--format", "json") == 0
        record = json.loads(capsys.readouterr().out)
        assert set(record) >= KEYS
        assert set(record["hardware"]) == {"processor", "cores", "memory", "gpu", "platform"}
        assert torch.__version__.startswith(record["versions"]["torch"])
        assert record["benchmark"] == arguments[0]
        names = [row["name"] for row in record["results"]]
        assert names[0] == record["baseline"]
        assert len(set(names)) == len(names)
        for row in record["results"]:
            ratio = row.get("ratio") or row["throughput"]
            assert len(row["seconds"]) == 2
            assert min(row["seconds"]) > 0
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
            assert ratio["of_minima"] > 0
        assert (record["results"][0].get("ratio") or record["results"][0]["throughput"])[
            "median"
        ] == 1
        return record

    return call


@pytest.mark.slow
def test_norms_measures_every_norm_of_the_table_and_torch_s(bench: Callable[..., Any]) -> None:
    record = bench("norms")
    names = {row["name"] for row in record["results"]}
    assert names >= {*NORMS, "torch SN", "torch SN (old)", "naive MSN"}
    assert names >= {"none, contiguous", "batch, contiguous", "torch SN, contiguous"}
    assert record["clock"] == "processor time of the only thread"
    assert set(record["floors"]["norms"]) >= {"spectral", "mean_spectral", "batch"}
    assert all(floor["ratio"] > 1 for floor in record["floors"]["norms"].values())
    rows = {row["name"]: row for row in record["results"]}
    assert rows["spectral"]["own_work"]["less_than_torch"]["median"] > 0
    assert rows["batch"]["own_work"] is None
    assert rows["none"]["operations"]["step"]["extra"] == 0
    assert rows["spectral"]["operations"]["step"]["by_name"]["mm"] > 0
    assert rows["batch"]["memory"]["ratio"]["peak_activations"] > 1


def test_norms_takes_a_list_and_bfloat16(bench: Callable[..., Any]) -> None:
    record = bench("norms", "--norms", "batch, spectral,batch", "--dtype", "bfloat16")
    ours = [row["name"] for row in record["results"] if row["kind"] == "norm"]
    contiguous = ["none, contiguous", "batch, contiguous", "spectral, contiguous"]
    assert ours == ["none", "batch", "spectral", *contiguous]
    assert record["settings"]["dtype"] == "bfloat16"


def test_step_trains_ours_under_the_trainer_against_a_plain_loop(
    bench: Callable[..., Any],
) -> None:
    record = bench("step", "--norms", "mean_spectral")
    assert [row["name"] for row in record["results"]] == [
        "plain loop",
        "mean_spectral, float32, contiguous",
        "mean_spectral, float32, channels_last",
        "mean_spectral, bfloat16, channels_last",
        "mean_spectral, float32, channels_last, separate passes",
        "mean_spectral, bfloat16, channels_last, separate passes",
        "mean_spectral, float32, channels_last, last means",
        "mean_spectral, bfloat16, channels_last, last means",
    ]
    assert {each["reason"] for each in record["skipped"]} == {"needs --compile"}
    assert record["measured_steps"] > 0


def test_the_recipe_of_step_is_that_of_the_flagship_s_config() -> None:
    from msngan.bench.settings import Settings
    from msngan.bench.trained import Recipe
    from msngan.runs.configs import find_config

    model = yaml.safe_load(find_config("cifar_msn").read_text())["model"]
    made = Recipe(model["norm"]).gan(Settings(("mean_spectral",), 1, width=4)).options
    assert {name: made[name] for name in model} == model
    rest = {"power_iteration": "update", "penalty": "none", "critic_steps": 1, "ema_decay": 0.999}
    assert {name: made[name] for name in rest} == rest


def test_step_says_why_what_cannot_be_compiled_is_left_out(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: torch.nn.Module, *given: object, **options: object) -> None:
        self.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(OSError("no compiler\n x")))

    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    record = bench("step", "--norms", "none", "--compile")
    reasons = {each["name"]: each["reason"] for each in record["skipped"]}
    assert reasons["none, float32, channels_last, compiled"] == "OSError: no compiler"
    assert "needs a GPU" in reasons["none, bfloat16, channels_last, CUDA graphs"]
    assert len(record["results"]) == 4


def test_fold_compares_folded_trained_and_plain(bench: Callable[..., Any]) -> None:
    record = bench("fold")
    names = [row["name"] for row in record["results"]]
    forms = [
        f"{n}, {f}"
        for n in ("batch", "spectral", "mean_spectral")
        for f in ("as trained", "folded")
    ]
    assert names == ["none", *forms]
    assert all(row["largest_difference"] < 1e-4 for row in record["results"])


@pytest.mark.parametrize("benchmark", ["norms", "step", "fold"])
def test_every_format_shows_ratios_and_no_times(
    benchmark: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for form in ("table", "md", "csv"):
        norm = ["--norms", "spectral", "--format", form]
        assert run("bench", benchmark, *TINY, *norm) == 0
        shown[form] = capsys.readouterr().out
        assert not re.search(r"\b(seconds|ms)\b", shown[form])
    assert "| " in shown["md"]
    assert "spectral" in shown["table"]
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    key = "throughput_median" if benchmark == "step" else "ratio_median"
    assert float(rows[0][key]) == 1
    assert all(float(row[key]) > 0 for row in rows)
    assert all(row["threads"] == "1" for row in rows)


@pytest.mark.parametrize("benchmark", ["norms", "step", "fold"])
def test_output_and_plot_are_written_whole(
    benchmark: str, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = ["--output", "new/x.json", "--plot", "x.png", "--norms", "mean_spectral"]
    assert run("bench", benchmark, *TINY, *files, "--format", "json") == 0
    assert json.loads(Path("new/x.json").read_text()) == json.loads(capsys.readouterr().out)
    with Image.open("x.png") as image:
        assert min(image.size) > 200
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "x.json", "x.png"}


@pytest.mark.parametrize("benchmark", ["norms", "step", "fold"])
def test_an_interruption_writes_nothing(
    benchmark: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.report.tables.bench_progress import Progress

    def interrupt(self: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "tick", interrupt)
    files = ["--output", "x.json", "--plot", "x.png", "--norms", "none"]
    assert run("bench", benchmark, *TINY, *files) == 130
    assert not list(tmp_path.iterdir())


def test_an_interruption_within_a_training_step_ends_as_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from msngan.gan import GAN

    def interrupt(self: GAN, batch: torch.Tensor, batch_idx: int) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(GAN, "training_step", interrupt)
    try:
        assert run("bench", "step", *TINY, "--norms", "none") == 130
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, before)


def test_away_from_a_terminal_a_line_now_and_then_says_how_long_it_will_take(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.report.tables import bench_progress as watch

    monkeypatch.setattr(watch, "HEARTBEAT_SECONDS", 0)
    assert run("bench", "fold", *TINY, "--norms", "batch") == 0
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[0].startswith("bench fold: 1/9 measurements, ")
    assert lines[-1] == "bench fold: 9/9 measurements, 0:00 left"


def test_the_time_left_is_that_of_the_measurements_left(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.report.tables import bench_progress as watch

    now = 100.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    shown = watch.Progress("norms", None)
    shown.expect(10)
    now += 60
    shown.tick()
    now += 20  # too soon for another line
    shown.tick()
    assert capfd.readouterr().err == "bench norms: 1/10 measurements, 9:00 left\n"


@pytest.mark.parametrize(
    ("low", "median", "high", "words"),
    [
        (1.005, 1.01, 1.02, "reached"),
        (1.02, 1.03, 1.04, "+2.0 % over it"),
        (0.9, 1.0, 1.1, "open: more rounds"),
    ],
)
def test_a_floor_is_reached_missed_or_open(
    low: float, median: float, high: float, words: str
) -> None:
    from msngan.report.tables.bench import _verdict

    assert _verdict({"low": low, "median": median, "high": high}, 1.01) == words


def test_a_benchmark_leaves_the_global_generator_as_it_was(run: Run) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert run("bench", "fold", *TINY, "--norms", "batch") == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "norms|step|classify|fold|scores"),
        (["nroms"], "did you mean 'norms'"),
        (["norms", "--norms", "spectrall"], "unknown norm 'spectrall' (did you mean 'spectral'?)"),
        (["norms", "--norms", ","], "names none"),
        (["norms", "--rounds", "0"], "--rounds 0 is less than 1"),
        (["norms", "--rounds", "many"], "--rounds"),
        (["norms", "--threads", "0"], "--threads 0 is less than 1"),
        (["norms", "--width", "0"], "--width 0 is less than 1"),
        (["norms", "--batch", "-1"], "--batch -1 is less than 1"),
        (["norms", "--device", "cdua"], "did you mean 'cuda'"),
        (["norms", "--dtype", "float16"], "float32"),
        (["norms", "--fromat", "json"], "did you mean '--format'"),
        (["norms", "--output", "/proc/1/x.json"], "--output /proc/1/x.json cannot be written"),
        (["fold", "--output", "."], "--output . cannot be written"),
        (["step", "--plot", "/proc/1/x.png"], "--plot /proc/1/x.png cannot be written"),
        (["step", "--plot", "x.gif"], ".png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named_before_anything_is_measured(
    refused: Callable[..., str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    from msngan.bench.rounds import Clock

    monkeypatch.setattr(Clock, "repeated", None)
    assert words in refused("bench", *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(refused: Callable[..., str]) -> None:  # noqa: F811
    assert "--device cuda is not to be had here" in refused("bench", "norms", "--device", "cuda")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["norms", "--help"], ["norms", "--rounds", "0"], ["step", "--plot", "x.gif"]],
    ids=" ".join,
)
def test_help_and_usage_errors_do_not_import_torch(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not loaded_after("bench", *arguments) & {"torch", "pytorch_lightning", "numpy"}
