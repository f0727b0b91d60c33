"""What a study says where its files are damaged, its words are wrong or nothing can be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from msngan.__main__ import main
from msngan.report.html.study_section import progress
from msngan.report.tables.progress_bars import StudyProgress
from msngan.runs.atomic import write_json
from msngan.runs.configs import known_configs
from msngan.runs.folder import Run
from msngan.runs.jsonl import newest
from msngan.runs.safe_read import object_or_empty
from msngan.study.plan import Study, make_study
from msngan.study.results import collect
from msngan.study.state import Reader, State
from msngan.study.study_files import Place, open_study, read_yaml

BASE = "task: classifier\nepochs: 2\ndata: {dataset: digits}\nmodel: {norm: none, lr: 0.5}\n"
CONTENT: dict[str, Any] = {
    "config": "base.yaml",
    "arms": {"plain": {"model.norm": "none"}, "msn": {"model.norm": "mean_spectral"}},
    "grid": {"model.lr": [0.1], "seed": [0, 1]},
    "compare": [["msn", "plain"]],
}
DAMAGED = {
    "text": '{"step": "x", "epoch": "y", "status": ["done"], "steps_per_second": "z",'
    ' "validation_accuracy": "w", "scores": []}',
    "no number": '{"step": NaN, "epoch": Infinity, "status": NaN, "steps_per_second": NaN,'
    ' "validation_accuracy": NaN, "scores": {"fid": {"mean": NaN}}}',
    "huge": '{"step": 1HUGE, "epoch": 1e999, "validation_accuracy": 1HUGE}'.replace(
        "HUGE", 400 * "0"
    ),
    "list": "[1, 2]",
    "deep": 5000 * "[",
    "binary": "\x00\x01\x02",
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("mine.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return make_study("mine", CONTENT)


def begun() -> Path:
    folder = Path("checkpoints/mine-plain-lr0.1-s0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(BASE.replace("0.5", "0.1"))
    return folder


@pytest.mark.parametrize("name", ["accuracy.jsonl", "metrics.jsonl", "scores.jsonl", "result.json"])
@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_damaged_record_leaves_the_run_to_be_resumed(study: Study, kind: str, name: str) -> None:
    (begun() / name).write_text(DAMAGED[kind])
    assert main(["study", "mine.yaml", "--list"]) == 0
    state = Reader(Place("mine")).look(study.children[0])
    assert (state.word, state.step, state.newest) == ("part", 0, "")
    assert state.speed is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as POSIX has them")
def test_a_pipe_in_place_of_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert newest(tmp_path / "pipe") == {}
    assert object_or_empty(tmp_path / "pipe") == {}


def test_an_alias_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a [x, x]\nb: [*a, *a]\n")
    with pytest.raises(ValueError, match=r"the alias \*a is not supported; write the value out"):
        read_yaml(path)


def test_what_is_no_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("config: x\narms: [\n")
    with pytest.raises(ValueError, match=r"not valid YAML: line 3: did not find expected node"):
        read_yaml(path)


def test_a_damaged_copy_of_a_study_is_named_with_what_to_do(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path("checkpoints/mine/study.yaml")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"\xff\xfe\x00")
    assert main(["study", "mine.yaml", "--list"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"msngan: error: {copy}: not UTF-8 text")
    assert "remove it to continue" in shown
    copy.unlink()
    assert main(["study", "mine.yaml", "--list"]) == 0


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("", [], "--name '' is not a name of a study"),
        ("a/b", [], "--name 'a/b' is not a name of a study"),
        (None, ["epochs"], "--set 'epochs': write option=value"),
        (None, ["model.lr=1"], "mine.yaml: --set model.lr: the study varies it"),
        (None, ["model.norm=none"], "mine.yaml: --set model.norm: the study's arms set it"),
    ],
)
def test_what_is_wrong_with_the_words_is_laid_at_their_own_door(
    study: Study, name: str | None, changes: list[str], words: str
) -> None:
    with pytest.raises(ValueError) as problem:  # noqa: PT011  the start of the line is the test
        open_study("mine.yaml", Path(), name, changes)
    assert str(problem.value).startswith(words)


@pytest.mark.parametrize("blocked", ["checkpoints", "checkpoints/mine"])
def test_a_study_that_cannot_write_says_so_in_one_line(
    study: Study,
    blocked: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("msngan.study.scheduler.ask", lambda *_: None)
    Path(blocked).parent.mkdir(exist_ok=True)
    Path(blocked).write_text("a file")
    assert main(["study", "mine.yaml"]) == 1
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].startswith("msngan: error: cannot write to checkpoints/mine: ")
    assert "--root" in shown[-1]
    assert Path(blocked).read_text() == "a file"


def test_names_of_runs_are_not_broken_over_lines(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mine" + 40 * "x"
    folder = begun().rename(f"checkpoints/{name}-plain-lr0.1-s0")
    (folder / "accuracy.jsonl").write_text(
        json.dumps({"step": 10, "epoch": 1.0, "validation_accuracy": 0.5}) + "\n"
    )
    for columns in ("120", "84", "75"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["study", "mine.yaml", "--name", name, "--list"]) == 0
        shown = capsys.readouterr().out
        assert f"{folder.name} " in shown
        assert "val. 50.00 %" in shown


def test_the_live_table_names_a_run_without_the_study_that_its_title_names(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    table = StudyProgress(study, 1)._table(
        {each.name: State("to do") for each in study.children}, {}
    )
    Console(width=60).print(table)
    shown = capsys.readouterr().out
    assert "plain-lr0.1-s0 " in shown
    assert "mine-" not in shown


def test_a_cell_none_of_whose_runs_has_ended_says_so_and_a_measure_of_none_has_no_table(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "mine.yaml", "--table"]) == 0
    shown = capsys.readouterr().out
    assert "4 runs: 4 to do" in shown
    assert "0 of 2 ended" in shown
    assert shown.count("test accuracy") == 2  # a title, and the legend


def test_resuming_a_study_as_a_run_names_the_command_for_it(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path("checkpoints/mine/study.yaml")
    copy.parent.mkdir(parents=True)
    copy.write_text(yaml.safe_dump(CONTENT))
    assert main(["resume", "mine"]) == 2
    assert "go on with `msngan study mine`" in capsys.readouterr().err


def test_a_config_that_cannot_be_read_is_listed_as_such(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("configs")
    (folder / "a_folder.yaml").mkdir(parents=True)
    (folder / "a_binary.yaml").write_bytes(b"\xff\xfe")
    assert main(["configs"]) == 0
    shown = capsys.readouterr().out
    assert "a_binary" in shown
    assert "cannot be read" in shown
    assert "a_folder" not in shown


def test_configs_fold_for_a_terminal_and_stay_a_line_each_for_a_pipe(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["configs"]) == 0
    piped = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["configs"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 70 < max(map(len, piped.splitlines()))
    assert shown.split() == piped.split()


def test_the_page_of_a_study_draws_its_figures_by_the_study_s_name(study: Study) -> None:
    (begun() / "dynamics.npz").write_bytes(b"")
    assert "msngan figures mine " in str(
        progress(Run("mine"), {}, [{"run": "mine-plain-lr0.1-s0"}])
    )


@pytest.mark.parametrize(
    "text", ['{"children": 3}', '{"children": [3]}', '{"children": [{"state": "failed"}]}', "[]"]
)
def test_a_damaged_results_file_is_written_anew(tmp_path: Path, text: str) -> None:
    place = Place("mine", tmp_path)
    place.folder.mkdir(parents=True)
    place.results.write_text(text)
    study = make_study("mine", {"config": "digits_cnn3_msn", "grid": {"seed": [0]}})
    found = collect(study, Reader(place), "msngan study mine")
    assert [each["state"] for each in found["children"]] == ["to do"]
    write_json(place.results, found)
    assert json.loads(place.results.read_text())["study"] == "mine"


def test_lines_of_an_accuracy_file_that_hold_no_numbers_are_left_out(tmp_path: Path) -> None:
    place = Place("mine", tmp_path)
    study = make_study("mine", {"config": "digits_cnn3_msn", "grid": {"seed": [0]}})
    folder = tmp_path / "checkpoints" / study.children[0].name
    folder.mkdir(parents=True)
    good = '{"step": 1, "epoch": 1.0, "test_accuracy": 0.5, "train_loss": null}'
    bad = '{"step": 2, "epoch": 2.0, "test_accuracy": "high"}'
    (folder / "accuracy.jsonl").write_text(f"{good}\n{bad}\n[]\n")
    found = collect(study, Reader(place), "msngan study mine")
    assert found["children"][0]["epochs"] == [{"step": 1, "epoch": 1.0, "test_accuracy": 0.5}]
    write_json(place.results, found)


def test_a_study_whose_runs_are_all_there_already_is_known_by_name_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("config: digits_cnn3_msn\ngrid: {seed: [0]}\n")
    folder = tmp_path / "checkpoints" / "mine-s0"
    folder.mkdir(parents=True)
    options = yaml.safe_load(known_configs()["digits_cnn3_msn"].read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**options, "run": "mine-s0", "seed": 0}))
    result = {"format": 1, "status": "done", "step": 760, "reason": None, "time": "now"}
    (folder / "result.json").write_text(json.dumps(result))
    line = {"step": 760, "epoch": 20.0, "test_accuracy": 0.5}
    (folder / "accuracy.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["study", "mine.yaml"]) == 0
    assert (tmp_path / "checkpoints" / "mine" / "study.yaml").is_file()
