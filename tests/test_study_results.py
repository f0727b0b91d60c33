"""What a study says of its runs, from records written by hand; nothing is trained here."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats
from score_lines import FD, score_line, write_run

from msngan.report.tables.progress_bars import StudyProgress
from msngan.report.tables.study_scores import course_tables
from msngan.runs.folder import UserError, lock
from msngan.runs.jsonl import newest
from msngan.runs.safe_read import object_or_empty
from msngan.runs.score_records import find_runs, read_scores
from msngan.study.plan import Study, make_study
from msngan.study.results import collect
from msngan.study.scores_by_step import scores_by_step
from msngan.study.study_files import Place, Reader, State, save_study

Cli = Callable[..., int]
Shown = pytest.CaptureFixture[str]
PLACE = Place("mine")
BASE = "task: classifier\nepochs: 2\ndata: {dataset: digits}\nmodel: {norm: none, lr: 0.5}\n"
CONTENT: dict[str, Any] = {
    "config": "base.yaml",
    "arms": {"plain": {"model.norm": "none"}, "msn": {"model.norm": "mean_spectral"}},
    "grid": {"model.lr": [0.1, 0.01], "seed": [0, 1, 2]},
    "compare": [["msn", "plain"]],
}
FIRST = "mine-plain-lr0.1-s0"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("mine.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return make_study("mine", CONTENT)


def write(name: str, *tests: float, status: str | None = "done", **changed: Any) -> Path:
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
    return collect(study, Reader(PLACE), "msngan study mine.yaml")


def one_of(found: dict[str, Any], part: str, **wanted: str) -> dict[str, Any]:
    """The one cell or comparison of the results that has these values."""
    (one,) = [each for each in found[part] if wanted.items() <= each.items()]
    return one


PLAIN = {"part": "cells", "row": "plain", "column": "lr 0.1"}
COMPARED = {"part": "comparisons", "column": "lr 0.1", "measure": "last"}  # of the last epochs


ACCURACIES = ([0.5, 0.9], [0.6, 0.8], [0.9, 0.85])


@pytest.mark.quick
def test_a_cell_holds_each_measure_over_its_seeds(study):
    write(FIRST, *ACCURACIES[0])
    one = one_of(results(study), **PLAIN)
    # validation: 0.9, 0.5, so that the first epoch is chosen, whatever the test set says
    assert (one["last"]["mean"], one["best"]["mean"], one["best_test"]["mean"]) == (0.9, 0.5, 0.9)
    assert one["plateau"] == pytest.approx(0.4)
    for seed in (1, 2):
        write(f"mine-plain-lr0.1-s{seed}", *ACCURACIES[seed])
    last = one_of(results(study), **PLAIN)["last"]
    values = np.array([each[-1] for each in ACCURACIES])
    interval = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert [last["n"], last["mean"], last["sd"]] == pytest.approx([3, values.mean(), 0.05])
    assert (last["low"], last["high"]) == pytest.approx(interval)


def test_differences_are_paired_by_seed_and_only_over_seeds_that_both_have(study):
    a, b = [0.9, 0.7, 0.8], [0.85, 0.6, 0.95]
    for seed in range(3):
        write(f"mine-msn-lr0.1-s{seed}", 0.1, a[seed])
        write(f"mine-plain-lr0.1-s{seed}", 0.1, b[seed], status="done" if seed < 2 else None)
    found = one_of(results(study), **COMPARED)
    interval = stats.ttest_rel(a[:2], b[:2]).confidence_interval(0.95)
    assert (found["seeds"], found["missing"]) == ([0, 1], [2])
    difference = found["difference"]
    assert difference["mean"] == pytest.approx(0.075)
    assert [difference["low"], difference["high"]] == pytest.approx([interval.low, interval.high])
    assert found["verdict"] == "no difference shown"


@pytest.mark.parametrize(
    ("sign", "diverged", "verdict"),
    [
        (1, ([], []), "A better"),
        (-1, ([], []), "B better"),
        (1, ([2], []), "A better, but A diverged once"),
        (1, ([2], [1]), "one pair: no interval, but A diverged once and B diverged once"),
        (1, ([0, 1, 2], []), "no pair, but A diverged 3 times"),
    ],
)
def test_a_verdict_says_what_the_interval_shows_and_who_diverged(study, sign, diverged, verdict):
    for seed in range(3):
        accuracies = {"msn": 0.5 + sign * (0.1 + seed / 1000), "plain": 0.5}
        for (arm, accuracy), lost in zip(accuracies.items(), diverged, strict=True):
            status = "diverged" if seed in lost else "done"
            write(f"mine-{arm}-lr0.1-s{seed}", 0.1, accuracy, status=status)
    found = one_of(results(study), **COMPARED)
    assert (found["verdict"], tuple(found["diverged"].values())) == (verdict, diverged)


def test_a_table_counts_runs_that_diverged_or_have_not_ended(study, run, capsys):
    assert run("study", "mine.yaml", "--table") == 0
    shown = capsys.readouterr().out
    assert "12 runs: 12 to do" in shown
    assert "0 of 3 ended" in shown
    assert shown.count("test accuracy") == 2  # a title, and the legend
    write(FIRST, 0.5, 0.9)
    write("mine-plain-lr0.1-s1", 0.1, status="diverged")
    write("mine-plain-lr0.1-s2", 0.5, status=None)
    found = results(study)
    one = one_of(found, **PLAIN)
    assert (one["done"], one["diverged"], one["last"]["n"]) == ([0], [1], 1)
    middle = next(each for each in found["children"] if each["run"] == "mine-plain-lr0.1-s2")
    assert (middle["state"], middle["total"]) == ("part", 20)
    assert run("study", "mine.yaml", "--table") == 0
    shown = capsys.readouterr().out
    assert "90.00, 1 diverged, 2 of 3 ended" in shown
    assert "mine-plain-lr0.1-s1 diverged at step 10: loss nan\n" in shown
    assert "Try" not in shown


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 7}, "seed 7 there, 0 asked"),
        ({"epochs": 3}, "epochs 3 there, 2 asked"),
        ({"task": "gan"}, 'task "gan" there, "classifier" asked'),
        ({}, 'data.dataset "digits" there, "mnist" asked'),  # the base config has changed since
    ],
)
def test_a_folder_of_another_run_is_refused_with_the_difference(study, run, changed, words, capsys):
    write(FIRST, 0.5, 0.9, **changed)
    if not changed:
        Path("base.yaml").write_text(BASE.replace("digits", "mnist"))
    assert run("study", "mine.yaml", "--list") == 2
    assert words in capsys.readouterr().err
    with pytest.raises(UserError, match=words):
        results(study)


def test_threads_and_cadences_are_no_difference_and_more_epochs_are_to_be_trained(study):
    write(FIRST, 0.5, 0.9, threads=3, records={"every": 7}, root="elsewhere")
    Path("base.yaml").write_text(BASE + "threads: 1\nrecords: {every: 50}\n")
    assert results(study)["children"][0]["state"] == "done"
    child = make_study("mine", CONTENT, {"epochs": 4}).children[0]
    reader = Reader(PLACE)
    assert reader.grown(child) == {"epochs": 4}
    assert (reader.look(child).word, reader.look(child).total) == ("part", 40)


def test_a_locked_run_is_running(study):
    log = PLACE.log(FIRST)
    assert (lock(log) is None, lock(log) is None) == (False, True)
    found = [Reader(PLACE).look(study.children[0], own=own).word for own in (False, True)]
    assert found == ["running", "to do"]


def test_every_format_holds_every_run(study, run, capsys):
    for seed, tests in enumerate(ACCURACIES):
        write(f"mine-plain-lr0.1-s{seed}", *tests)
    shown = {}
    for how in ("json", "csv", "md"):
        assert run("study", "mine.yaml", "--table", "--format", how) == 0
        shown[how] = capsys.readouterr().out
    children = json.loads(shown["json"])["children"]
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    names = {child.name for child in study.children}
    assert {child["run"] for child in children} == {row["run"] for row in rows} == names
    assert children[0]["epochs"][1]["test_accuracy"] == 0.9
    assert len(rows) == 3 * 2 + 9
    assert "| plain | 85.00±5.00 |" in shown["md"]


def test_a_table_is_of_the_study_as_it_was_started(study, run, capsys):
    save_study(make_study("mine", CONTENT, {"epochs": 1}), PLACE)
    write(FIRST, 0.5, epochs=1)
    assert run("study", "mine.yaml", "--table", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["children"][0]["state"] == "done"
    assert run("resume", "mine") == 2
    assert "msngan study mine" in capsys.readouterr().err
    Path(f"checkpoints/{FIRST}/dynamics.npz").touch()
    assert run("report", "mine") == 0
    assert "msngan figures mine " in Path("checkpoints/mine/report.html").read_text()
    PLACE.copy.write_bytes(b"\xff\xfe\x00")
    assert run("study", "mine.yaml", "--list") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"msngan: error: {PLACE.copy}: not UTF-8 text")
    assert "remove it to continue" in said


CELL_OF_GANS = {"row", "column", "seeds", "done", "collapsed", "diverged", "failed"}
CELL_OF_GANS |= {"steps_per_second"}


def test_a_study_of_gans_ends_in_the_leaderboard_of_its_own_runs(tmp_path, run, capsys):
    content = {"config": ["one.yaml", "two.yaml"], "grid": {"seed": [0, 1]}}
    Path("gans.yaml").write_text(yaml.safe_dump({**content, "compare": [["one", "two"]]}))
    made = [("stranger", "none", 0, 1.0)]
    for name, norm, worse in (("one", "none", 0), ("two", "batch", 5)):
        Path(f"{name}.yaml").write_text("steps: 5\n")
        made += [(f"gans-{name}-s{s}", norm, s, 10.0 + s + worse + s * bool(worse)) for s in (0, 1)]
    for run_name, norm, seed, score in made:
        line = score_line(score, step=5)
        folder = write_run(tmp_path, run_name, line, of="x", seed=seed, steps=5, model__norm=norm)
        (folder / "result.json").write_text('{"status": "done", "step": 5}')
    assert run("study", "gans.yaml", "--table", "--format", "json") == 0
    whole = json.loads(capsys.readouterr().out)
    found = whole["leaderboard"]
    own = {name for name, *_ in made[1:]}
    assert {row["run"] for row in found["blocks"][0]["rows"]} == own
    (compared,) = found["comparisons"]
    assert compared["matches"][0]["rows"][0]["difference"]["mean"] == pytest.approx(-5.5)
    assert run("study", "gans.yaml", "--table") == 0
    shown = capsys.readouterr().out
    assert "stranger" not in shown
    course, end = shown.split("gans: at step 5")
    assert "by step; lower is better" in course
    assert re.search(r"one - two +2 +-5.50 \[-11.85, 0.85\] +undecided", course)
    assert re.search(r"one - two +-5.5\n", end)
    assert "msngan report gans" in end
    # Nothing of a classifier's, and arms by their names.
    assert "comparisons" not in whole
    assert [{*cell} for cell in whole["cells"]] == 2 * [CELL_OF_GANS]
    assert "epochs" not in whole["children"][0]
    assert (compared["a"]["name"], compared["b"]["name"]) == ("one", "two")
    # Under another protocol too, that is not in the table by step.
    for name, *_, score in made[1:]:
        line = score_line(score, step=5, protocol_id="cccc00000000") | {"source": "evaluate"}
        with Path(f"checkpoints/{name}/scores.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert run("study", "gans.yaml", "--table", "--format", "csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    told = {(line["run"], line["protocol"], float(line[FD])) for line in lines}
    protocols = ("aaaa00000000", "cccc00000000")
    assert told == {(name, each, fd) for name, *_, fd in made[1:] for each in protocols}
    assert run("study", "gans.yaml", "--table") == 0
    (more,) = re.findall(r"one \(\w+\) against two .*", capsys.readouterr().out, re.DOTALL)
    assert "cccc00000000" in more
    assert "aaaa00000000" not in more


# Damage

DAMAGED = {
    "text": '{"step": "x", "epoch": "y", "status": ["done"], "steps_per_second": "z",'
    ' "validation_accuracy": "w", "scores": []}',
    "not a number": '{"step": NaN, "epoch": Infinity, "status": NaN, "steps_per_second": NaN}',
    "huge": f'{{"step": 1{400 * "0"}, "epoch": 1e999, "validation_accuracy": 1{400 * "0"}}}',
    "list": "[1, 2]",
    "deep": 5000 * "[",
    "binary": "\x00\x01\x02",
}


@pytest.mark.parametrize("name", ["accuracy.jsonl", "metrics.jsonl", "scores.jsonl", "result.json"])
def test_a_damaged_record_leaves_the_run_to_be_resumed(study, run, name):
    folder = write(FIRST, status=None)
    for kind, text in DAMAGED.items():
        (folder / name).write_text(text)
        assert run("study", "mine.yaml", "--list") == 0
        state = Reader(PLACE).look(study.children[0])
        assert state == State("part", 0, state.total), kind
    if hasattr(os, "mkfifo"):
        (folder / name).unlink()
        os.mkfifo(folder / name)  # which would be waited for
        assert newest(folder / name) == object_or_empty(folder / name) == {}


@pytest.mark.parametrize(
    "text", ['{"children": 3}', '{"children": [3]}', '{"children": [{"state": "failed"}]}', "[]"]
)
def test_a_study_whose_runs_are_all_there_is_written_anew_over_damaged_results(study, run, text):
    Path("mine.yaml").write_text(yaml.safe_dump({**CONTENT, "grid": {"model.lr": [0.1]}}))
    for arm in ("plain", "msn"):
        folder = write(f"mine-{arm}-lr0.1-s0", 0.5, 0.6)
        odd = '{"step": 2, "epoch": 2.0, "test_accuracy": "high", "train_loss": 1}\n[]\n'
        (folder / "accuracy.jsonl").write_text((folder / "accuracy.jsonl").read_text() + odd)
    PLACE.folder.mkdir(parents=True)
    PLACE.results.write_text(text)
    for only in (["--table"], []):  # reads why runs failed before, trains nothing
        assert run("study", "mine.yaml", *only) == 0
    assert PLACE.copy.is_file()
    children = json.loads(PLACE.results.read_text())["children"]
    assert [len(child["epochs"]) for child in children] == [2, 2]


@pytest.mark.parametrize("blocked", ["checkpoints", "checkpoints/mine"])
def test_a_study_that_cannot_write_says_so_in_one_line(study, run, blocked, capsys, monkeypatch):
    monkeypatch.setattr("msngan.study.scheduler.ask", lambda *_: None)
    Path(blocked).parent.mkdir(exist_ok=True)
    Path(blocked).write_text("a file")
    assert run("study", "mine.yaml") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match("msngan: error: cannot write to checkpoints/mine: .*--root", said)
    assert Path(blocked).read_text() == "a file"


def test_names_are_whole_in_a_list_and_short_under_a_title(study, run, capsys, monkeypatch):
    name = "mine" + 40 * "x"
    folder = write(FIRST, 0.5).rename(f"checkpoints/{name}-plain-lr0.1-s0")
    for columns in ("120", "84", "75"):
        monkeypatch.setenv("COLUMNS", columns)
        assert run("study", "mine.yaml", "--name", name, "--list") == 0
        shown = capsys.readouterr().out
        assert f"{folder.name} " in shown
        assert "val. 50.00 %" in shown
    states = {child.name: State("to do") for child in study.children}
    Console(width=60).print(StudyProgress(study, 1)._table(states, {}))
    shown = capsys.readouterr().out
    assert "plain-lr0.1-s0 " in shown
    assert "mine-" not in shown


def test_scores_of_gans_are_summed_up_by_step_and_compared_by_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("steps: 20\ndata: {dataset: digits}\n")
    arms = {"sn": {"model.norm": "spectral"}, "msn": {"model.norm": "mean_spectral"}}
    content = {"config": "base.yaml", "arms": arms, "grid": {"seed": [0, 1, 2]}}
    study = make_study("mine", content | {"compare": [["msn", "sn"]]})
    numbers = {"sn": [4.0, 5.0, 6.0], "msn": [3.0, 3.0, 6.0]}
    for arm, values in numbers.items():
        for seed, value in enumerate(values):
            at = [score_line(value + 1, step=10), score_line(value, step=20)]
            at.append(score_line(99.0, step=20, protocol_id="cccc00000000"))
            write_run(tmp_path, f"mine-{arm}-s{seed}", *at)
    entries, _ = read_scores(find_runs([], tmp_path))
    found = scores_by_step(study, entries)
    sn, msn = found["results"]
    assert (sn["row"], sn["seeds"]) == ("sn", [0, 1, 2])
    assert sn["scores"]["20"]["fd"] == {"mean": 5.0, "sd": 1.0, "values": [4.0, 5.0, 6.0]}
    assert msn["scores"]["10"]["fd"]["values"] == [4.0, 4.0, 7.0]
    (last,) = [each for each in found["comparisons"] if each["step"] == 20]
    assert last["differences"] == [-1.0, -2.0, 0.0]
    half = stats.t.ppf(0.975, 2) * 1.0 / 3**0.5
    assert (last["mean"], last["low"]) == pytest.approx((-1.0, -1.0 - half))
    course, end = course_tables("mine", found)
    apart = "-1.00 [-3.48, 1.48]"
    assert course.rows[-1] == ["msn - sn", "3", apart, apart, "undecided"]
    assert course.title.endswith("by step; lower is better")
    assert end.rows[-1] == ["msn - sn", "-1.0"]
    assert end.lines == ["lower is better: fd"]
    assert scores_by_step(study, []) is None
    fewer = [each for each in entries if (each.run, each.step) != ("mine-msn-s2", 20)]
    course, end = course_tables("mine", scores_by_step(study, fewer))
    assert course.rows[1] == ["msn", "3", "5.0 ± 1.7", "3.000 ± 0.000 (n 2)", ""]
    assert course.rows[-1][-2:] == ["-1.50 [-7.85, 4.85] (n 2)", "undecided"]
    assert end.rows[1][1].endswith("(n 2)")
