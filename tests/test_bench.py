"""`msngan bench` as a user runs it, at tiny sizes: what is compared, never how fast it is."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from test_architecture import loaded_after

from msngan.__main__ import main
from msngan.bench import data as data_bench
from msngan.bench import timing
from msngan.bench.settings import BENCHMARKS
from msngan.report.figures.bench_plots import draw
from msngan.report.tables.bench_tables import as_csv, bench_tables, by_median
from msngan.report.tables.table import print_csv, print_markdown, print_terminal
from msngan.runs import progress_bar

Run = Callable[..., int]
GALLERY = Path(__file__).parents[1] / "samples/gallery"
SHOWN = ("bench_core", "bench_norms", "bench_sigma", "bench_step")
TINY = {
    "norms": "--width 4 --batch 4 --norms spectral,spectral --dtype bfloat16",
    "step": "--width 4 --batch 4 --norms mean_spectral --steps 1",
    "sigma": "--critic-batch joint --width 4 --steps 3",
}
KEYS = {"format", "benchmark", "command", "time", "hardware", "versions", "threads", "clock"}
KEYS |= {"rounds", "settings", "baseline", "results"}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """`record("norms")`: the record of a tiny benchmark, measured once, after general checks."""

    @cache
    def measured(name: str) -> Any:
        folder = tmp_path_factory.mktemp(name)
        files = {"--output": folder / "new" / "x.json", "--plot": folder / "x.png"}
        options = [str(word) for pair in files.items() for word in pair]
        torch.manual_seed(5)
        before = torch.get_rng_state()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as shown:
            patch.setattr(timing, "LEAST_SECONDS", 0.0)  # nothing is repeated to be timed well
            arguments = [*TINY[name].split(), "--rounds", "1", *options, "--format", "json"]
            assert main(["bench", name, *arguments]) == 0
        assert torch.equal(torch.get_rng_state(), before)
        found = json.loads(shown.getvalue())
        assert json.loads(files["--output"].read_text()) == found
        written = [path for path in folder.rglob("*") if path.is_file()]
        assert sorted(written) == sorted(files.values())
        with Image.open(files["--plot"]) as image:
            assert min(image.size) > 200
        return found

    return measured


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_record_has_the_machine_the_settings_and_every_time(record, name):
    found = record(name)
    assert set(found) >= KEYS
    assert found["benchmark"] == name
    assert set(found["hardware"]) == {"processor", "cores", "memory", "gpu", "platform"}
    assert torch.__version__.startswith(found["versions"]["torch"])
    names = [row["name"] for row in found["results"]]
    assert len(set(names)) == len(names)
    for row in found["results"]:
        ratio = next(row[key] for key in ("ratio", "throughput", "cost") if key in row)
        assert len(row["seconds"]) == found["rounds"] == 1
        assert min(row["seconds"]) > 0
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["of_minima"] > 0
        if row["name"] == found["baseline"]:
            assert row is found["results"][0]
            assert ratio["median"] == 1


@pytest.mark.parametrize("name", [*sorted(TINY), *SHOWN])
def test_every_format_shows_ratios_and_no_times_also_of_the_gallery_s_records(record, name):
    found = record(name) if name in TINY else json.loads((GALLERY / f"{name}.json").read_text())
    tables, shown = list(bench_tables(found)), {}
    for name, show in (("table", print_terminal), ("md", print_markdown)):
        with redirect_stdout(io.StringIO()) as text, pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "300")
            show(tables)
        shown[name] = text.getvalue()
        for table in tables:
            assert all(cell in shown[name] for row in table.rows for cell in row if "_" not in cell)
    with redirect_stdout(io.StringIO()) as text:
        print_csv(as_csv(found))
    shown["csv"] = text.getvalue()
    assert not any(re.search(r"\b(seconds|ms)\b", each) for each in shown.values())
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert [row["name"] for row in rows] == [row["name"] for row in found["results"]]
    assert {row["threads"] for row in rows} == {str(found["threads"])}


def test_the_benchmark_of_data_measures_runs_as_fit_does_and_says_what_its_goals_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {*BENCHMARKS} == {*TINY, "data"}
    real, found = data_bench._started, []

    def started(*arguments: Any, **options: Any) -> dict[str, Any]:
        """One real run, its first step included, in place of five."""
        if not found:
            found.append(real(*arguments, **{**options, "steps": 1}))
        return found[0]

    monkeypatch.setattr(data_bench, "_started", started)
    monkeypatch.setattr(data_bench, "DECODED", 4)
    monkeypatch.setattr(data_bench, "PARALLEL", 64)
    options = [
        "--images",
        "66",
        "--size",
        "16",
        "--batch",
        "8",
        "--width",
        "2",
        "--rounds",
        "2",
        "--steps",
        "1",
    ]
    assert run("bench", "data", *options, "--output", "x.json", "--format", "md") == 0
    record = json.loads(Path("x.json").read_text())
    rows = {row["name"]: row for row in record["results"]}
    assert {name: row["goal"] for name, row in rows.items() if "goal" in row} == {
        "decoding jpg, one core": "at most 1",
        "decoding png, one core": "at most 1",
        "later start": "under 3",
        "private memory at the first batch": "under 1.5",
        "private memory after 1 step": "under 1.5",
        "fetching a batch": "under 1",
    }
    assert all(row["value"] > 0 for row in rows.values() if "value" in row)
    assert all(row["ratio"]["median"] > 0 for row in rows.values() if "ratio" in row)
    (cached,) = found[0]["steps"]
    assert cached > 0
    assert [*tmp_path.iterdir()] == [tmp_path / "x.json"]


OWN = ("none", "spectral", "torch SN")
STEP = ("float32, channels_last", "bfloat16, channels_last")
NAMES = {  # in the order of the record
    "norms": [*OWN, "naive MSN", *(f"{name}, contiguous" for name in OWN)],
    "step": [
        *("plain loop", "mean_spectral, float32, contiguous"),
        *(
            f"mean_spectral, {each}{more}"
            for more in ("", ", separate passes", ", last means")
            for each in STEP
        ),
        "mean_spectral, float32, channels_last, augmented",
        "mean_spectral, float32, channels_last, conditional",
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_compares(record, name):
    found = record(name)
    rows = {row["name"]: row for row in found["results"]}
    assert list(rows) == NAMES[name]
    if name == "norms":
        assert found["settings"]["dtype"] == "bfloat16"
        assert found["clock"] == "processor time of the only thread"
        assert all(each["ratio"] > 1 for each in found["lower_bounds"]["norms"].values())
        assert rows["spectral"]["own_work"]["less_than_torch"]["median"] > 0
        assert rows["none"]["own_work"] is None
        assert rows["none"]["operations"]["step"]["extra"] == 0


def test_step_says_of_a_cpu_no_absolute_numbers(record):
    found = record("step")
    assert (found["discarded_steps"], found["measured_steps"], found["cuda"]) == (1, 1, None)
    of_gpu = {"images_per_second", "launches", "waits", "launching_seconds", "share_of_peak"}
    assert not [row for row in found["results"] if of_gpu & set(row)]
    (table,) = bench_tables(found)
    assert table.columns == ["variant", "throughput", "95%", "of minima"]


def test_a_step_that_is_not_captured_is_shown_last_with_its_reason_and_not_drawn(record, tmp_path):
    found = json.loads(json.dumps(record("step")))
    found["results"][1] |= {"throughput": None, "seconds": [], "not_captured": "it reads values"}
    (table,) = bench_tables(found)
    name = found["results"][1]["name"]
    assert table.rows[-1] == [name, "-", "-", "-"]
    assert table.notes[-1] == f"{name}: it reads values."
    assert len(by_median(found, "throughput")) == len(found["results"]) - 1
    draw(found, tmp_path / "x.png")


def test_sigma_records_both_estimators(record):
    rows = record("sigma")["results"]
    assert [(row["vectors"], row["most_iterations"]) for row in rows] == [(16, 8), (1, 1)]
    for row in rows:
        assert row["recipe"] == "digits_msn, joint passes"
        assert row["steps"] == [1, 2, 3]
        assert max(row["sigma"]) == pytest.approx(row["largest"], abs=1e-6)
    assert rows[0]["largest"] < 1.02


@pytest.mark.parametrize("place", ["between measurements", "in a training step"])
def test_an_interruption_writes_nothing_and_exits_with_130(place, run, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if place == "between measurements":
        monkeypatch.setattr(progress_bar, "clock", interrupt)
        monkeypatch.setattr(progress_bar, "HEARTBEAT_SECONDS", 0)
    else:
        monkeypatch.setattr("msngan.gan.GAN.training_step", lambda *_: interrupt())
    before = signal.getsignal(signal.SIGINT)
    try:
        files = ["--output", "x.json", "--plot", "x.png"]
        assert run("bench", "step", *TINY["step"].split(), *files) == 130
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_a_line_now_and_then_says_how_long_it_will_take(capfd, monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: now))
    with progress_bar.progress("bench norms", "measurements") as shown:
        now += 60
        shown(1, 10)
        now += 20  # too soon for another line
        shown(2, 10)
    assert capfd.readouterr().err == "bench norms: 1/10 measurements, 9:00 left\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "norms|step|sigma"),
        ("nroms", "did you mean 'norms'"),
        ("norms --norms spectrall", "unknown 'spectrall' (did you mean 'spectral'?)"),
        ("norms --norms ,", "--norms is empty"),
        ("norms --rounds 0", "--rounds 0 is less than 1"),
        ("norms --rounds many", "--rounds"),
        ("norms --batch -1", "--batch -1 is less than 1"),
        ("norms --device cdua", "did you mean 'cuda'"),
        ("norms --fromat json", "did you mean '--format'"),
        ("norms --output /proc/1/x.json", "--output /proc/1/x.json cannot be written"),
        ("norms --output .", "--output . cannot be written"),
        ("step --plot x.gif", ".png"),
        ("sigma --critic-batch join", "unknown 'join' (did you mean 'joint'?)"),
        ("sigma --config cifar_mns", "did you mean 'cifar_msn'"),
        ("sigma --step 2", "did you mean '--steps'"),
        *(
            pytest.param(
                *(f"norms --device={word}", f"--device {word}: no GPU is available here"),
                marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
            )
            for word in ("gpu", "cuda")
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(refused, monkeypatch, arguments, words):
    monkeypatch.setattr("msngan.commands.bench._measure", None)
    assert words in refused("bench", *arguments.split())


@pytest.mark.parametrize("arguments", [["--help"], ["step", "--plot", "x.gif"]], ids=" ".join)
def test_help_and_usage_errors_do_not_import_torch(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not loaded_after("bench", *arguments) & {"torch", "pytorch_lightning", "numpy"}
