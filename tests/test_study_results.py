"""What a study says of its runs, from records written by hand; nothing is trained here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from score_lines import score_line

from msngan.runs.folder import UserError, lock
from msngan.study.plan import Study, make_study
from msngan.study.results import collect
from msngan.study.state import Reader
from msngan.study.study_files import Place, save_study

Run = Callable[..., int]
BASE = "task: classifier\nepochs: 2\ndata: {dataset: digits}\nmodel: {norm: none, lr: 0.5}\n"
CONTENT: dict[str, Any] = {
    "config": "base.yaml",
    "arms": {"plain": {"model.norm": "none"}, "msn": {"model.norm": "mean_spectral"}},
    "grid": {"model.lr": [0.1, 0.01], "seed": [0, 1, 2]},
    "compare": [["msn", "plain"]],
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("mine.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return make_study("mine", CONTENT)


def write(name: str, *tests: float, status: str | None = "done", **changed: Any) -> Path:  # noqa: ANN401
    """A run of the study with these test accuracies; the validation's are their reverse."""
    folder = Path("checkpoints") / name
    folder.mkdir(parents=True)
    _, arm, lr, seed = name.split("-")
    model = {"norm": {"plain": "none", "msn": "mean_spectral"}[arm], "lr": float(lr[2:])}
    config = {"task": "classifier", "seed": int(seed[1:]), "epochs": 2, "steps": None, **changed}
    data = {"dataset": "digits", "limit": None}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "data": data, "model": model}))
    lines = [
        {"step": 10 * n, "epoch": float(n), "test_accuracy": test, "validation_accuracy": held}
        for n, (test, held) in enumerate(zip(tests, reversed(tests), strict=True), start=1)
    ]
    (folder / "accuracy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        result = {"format": 1, "status": status, "step": 10 * len(tests), "reason": "loss nan. Try"}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def results(study: Study) -> dict[str, Any]:
    return collect(study, Reader(Place("mine")), "msngan study mine.yaml")


def cell(found: dict[str, Any], row: str = "plain", column: str = "lr 0.1") -> dict[str, Any]:
    (one,) = [c for c in found["cells"] if (c["row"], c["column"]) == (row, column)]
    return one


ACCURACIES = ([0.5, 0.9], [0.6, 0.8], [0.9, 0.85])


def test_the_last_epoch_the_one_that_validation_chooses_and_the_flattering_one(
    study: Study,
) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9)
    one = cell(results(study))
    # validation: 0.9, 0.5, so that the first epoch is chosen, whatever the test set says
    assert (one["last"]["mean"], one["best"]["mean"], one["best_test"]["mean"]) == (0.9, 0.5, 0.9)
    assert one["plateau"] == pytest.approx(0.4)


def test_intervals_are_those_of_scipy(study: Study) -> None:
    for seed, tests in enumerate(ACCURACIES):
        write(f"mine-plain-lr0.1-s{seed}", *tests)
    last = cell(results(study))["last"]
    values = np.array([each[-1] for each in ACCURACIES])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert last["n"] == 3
    assert [last["mean"], last["sd"]] == pytest.approx([values.mean(), values.std(ddof=1)])
    assert [last["low"], last["high"]] == pytest.approx([low, high])


def test_differences_are_paired_by_seed_and_only_over_seeds_that_both_have(study: Study) -> None:
    a, b = [0.9, 0.7, 0.8], [0.85, 0.6, 0.95]
    for seed in range(3):
        write(f"mine-msn-lr0.1-s{seed}", 0.1, a[seed])
        write(f"mine-plain-lr0.1-s{seed}", 0.1, b[seed], status="done" if seed < 2 else None)
    (found,) = [
        each
        for each in results(study)["comparisons"]
        if each["column"] == "lr 0.1" and each["measure"] == "last"
    ]
    test = stats.ttest_rel(a[:2], b[:2])
    interval = test.confidence_interval(0.95)
    assert (found["seeds"], found["missing"]) == ([0, 1], [2])
    difference = found["difference"]
    assert difference["mean"] == pytest.approx(0.075)
    assert [difference["low"], difference["high"]] == pytest.approx([interval.low, interval.high])
    assert found["verdict"] == "no difference shown"


@pytest.mark.parametrize(("sign", "word"), [(1, "A better"), (-1, "B better")])
def test_a_difference_is_shown_where_the_interval_leaves_zero_out(
    study: Study, sign: int, word: str
) -> None:
    for seed in range(3):
        write(f"mine-msn-lr0.1-s{seed}", 0.1, 0.5 + sign * (0.1 + seed / 1000))
        write(f"mine-plain-lr0.1-s{seed}", 0.1, 0.5)
    assert results(study)["comparisons"][0]["verdict"] == word


def test_a_verdict_says_whose_runs_diverged_and_so_are_in_no_pair(study: Study) -> None:
    for seed in range(3):
        tests = (0.1,) if seed == 2 else (0.1, 0.9 + seed / 1000)
        state = "diverged" if seed == 2 else "done"
        write(f"mine-msn-lr0.1-s{seed}", *tests, status=state)
        write(f"mine-plain-lr0.1-s{seed}", 0.1, 0.5, status="diverged" if seed == 1 else "done")
        write(f"mine-msn-lr0.01-s{seed}", *tests, status=state)
        write(f"mine-plain-lr0.01-s{seed}", 0.1, 0.5)
    found = {each["column"]: each for each in results(study)["comparisons"][::2]}
    words = "one pair: no interval, but A diverged once and B diverged once"
    assert found["lr 0.1"]["verdict"] == words
    assert found["lr 0.1"]["diverged"] == {"A": [2], "B": [1]}
    assert found["lr 0.01"]["verdict"] == "A better, but A diverged once"


def test_a_diverged_run_is_in_no_mean_and_in_every_table(
    study: Study, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9)
    write("mine-plain-lr0.1-s1", 0.1, status="diverged")
    one = cell(results(study))
    assert (one["done"], one["diverged"], one["last"]["n"]) == ([0], [1], 1)
    assert run("study", "mine.yaml", "--table") == 0
    shown = capsys.readouterr().out
    assert "90.00, 1 diverged, 2 of 3 ended" in shown
    assert "mine-plain-lr0.1-s1 diverged at step 10: loss nan\n" in shown
    assert "Try" not in shown


def test_a_table_of_nothing_yet_says_so(study: Study, run: Run) -> None:
    assert all(each["last"] is None for each in results(study)["cells"])
    assert run("study", "mine.yaml", "--table") == 0


def test_a_run_in_the_middle_counts_for_nothing_yet(study: Study) -> None:
    write("mine-plain-lr0.1-s0", 0.5, status=None)
    found = results(study)
    assert cell(found)["last"] is None
    assert found["children"][0]["state"] == "part"
    assert found["children"][0]["total"] == 20


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 7}, "seed 7 there, 0 asked"),
        ({"epochs": 3}, "epochs 3 there, 2 asked"),
        ({"task": "gan"}, 'task "gan" there, "classifier" asked'),
    ],
)
def test_a_folder_of_another_run_is_refused_with_the_difference(
    study: Study, run: Run, changed: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9, **changed)
    with pytest.raises(UserError, match=words):
        results(study)
    assert run("study", "mine.yaml", "--list") == 2
    assert words in capsys.readouterr().err


def test_an_option_that_the_base_config_has_changed_since_is_a_difference(study: Study) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9)
    Path("base.yaml").write_text(BASE.replace("digits", "mnist"))
    with pytest.raises(UserError, match='data.dataset "digits" there, "mnist" asked'):
        results(study)


def test_threads_and_cadences_are_no_difference(study: Study) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9, threads=3, records={"every": 7}, root="elsewhere")
    Path("base.yaml").write_text(BASE + "threads: 1\nrecords: {every: 50}\n")
    assert results(study)["children"][0]["state"] == "done"


def test_more_epochs_make_a_done_run_one_to_go_on_with(study: Study) -> None:
    write("mine-plain-lr0.1-s0", 0.5, 0.9)
    longer = make_study("mine", CONTENT, {"epochs": 4})
    reader = Reader(Place("mine"))
    assert reader.look(longer.children[0]).word == "part"
    assert reader.grown(longer.children[0]) == {"epochs": 4}
    assert reader.look(longer.children[0]).total == 40


def test_a_locked_run_is_running(study: Study) -> None:
    place = Place("mine")
    name = study.children[0].name
    held = lock(place.log(name))
    assert held is not None
    assert lock(place.log(name)) is None
    assert Reader(place).look(study.children[0]).word == "running"
    assert Reader(place).look(study.children[0], own=True).word == "to do"


def test_every_format_holds_every_run(
    study: Study, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, tests in enumerate(ACCURACIES):
        write(f"mine-plain-lr0.1-s{seed}", *tests)
    names = {child.name for child in study.children}
    assert run("study", "mine.yaml", "--table", "--format", "json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert {child["run"] for child in whole["children"]} == names
    assert whole["children"][0]["epochs"][1]["test_accuracy"] == 0.9
    assert run("study", "mine.yaml", "--table", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["run"] for row in rows} == names
    assert len(rows) == 3 * 2 + 9
    assert run("study", "mine.yaml", "--table", "--format", "md") == 0
    assert "| plain | 85.00±5.00 |" in capsys.readouterr().out


def test_a_table_is_of_the_study_as_it_was_started(
    study: Study, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    save_study(make_study("mine", CONTENT, {"epochs": 1}), Place("mine"))
    write("mine-plain-lr0.1-s0", 0.5, epochs=1)
    assert run("study", "mine.yaml", "--table", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["children"][0]["state"] == "done"


def test_a_study_of_gans_ends_in_the_leaderboard_of_its_own_runs(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text("steps: 5\n")
    content = {"config": ["one.yaml", "two.yaml"], "grid": {"seed": [0, 1]}}
    Path("gans.yaml").write_text(yaml.safe_dump({**content, "compare": [["one", "two"]]}))
    for name, norm in (("one", "none"), ("two", "batch")):
        for seed in (0, 1):
            gan(f"gans-{name}-s{seed}", norm, seed, 10.0 + seed + (name == "two") * (5 + seed))
    gan("stranger", "none", 0, 1.0)
    assert run("study", "gans.yaml", "--table", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)["leaderboard"]
    assert {row["run"] for row in found["blocks"][0]["rows"]} == {
        f"gans-{name}-s{seed}" for name in ("one", "two") for seed in (0, 1)
    }
    (compared,) = found["comparisons"]
    assert compared["matches"][0]["rows"][0]["difference"]["mean"] == pytest.approx(-5.5)
    assert run("study", "gans.yaml", "--table") == 0
    shown = capsys.readouterr().out
    assert "against" in shown
    assert "stranger" not in shown


def gan(name: str, norm: str, seed: int, score: float) -> None:
    folder = Path("checkpoints") / name
    folder.mkdir(parents=True)
    config = {"seed": seed, "steps": 5, "model": {"norm": norm}, "data": {"dataset": "cifar10"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps({"status": "done", "step": 5}))
    (folder / "scores.jsonl").write_text(json.dumps(score_line(score, step=5)) + "\n")
