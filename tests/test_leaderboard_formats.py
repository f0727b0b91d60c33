from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path

import pytest
from score_lines import CS, FD, score_line, write_run

from msngan.commands.leaderboard import main
from msngan.report.tables.table import FORMATS

Captured = pytest.CaptureFixture[str]


def printed(capsys: Captured, *argv: str | Path) -> str:
    assert main([str(each) for each in argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    for name, shift in (("msn", 0.0), ("sn", 4.0)):
        for seed in (0, 1, 2):
            scores = {FD: {"mean": 10 + shift + seed, "sd": 0.2}, CS: {"mean": 5.0, "sd": 0.1}}
            write_run(tmp_path, f"{name}-s{seed}", score_line(scores=scores), of=name, seed=seed)
    return tmp_path


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_shows_the_seeds_pooled(seeded: Path, capsys: Captured, how: str) -> None:
    text = printed(capsys, "--root", seeded, "--format", how, "--no-published")
    # 10, 11, 12: sd 1, 4.302653 / sqrt(3) = 2.484138
    if how in ("table", "md"):
        assert "seeds pooled" in text
        assert "11.00±1.00" in text
        assert "8.516, 13.48" in text
        assert "ddof 1" in text.replace("\n", " ")
    if how == "json":
        whole = json.loads(text)
        rows = whole["blocks"][0]["pooled"]["rows"]
        assert [(row["config"], row["rank"], row["last"][FD]["n"]) for row in rows] == [
            ("msn", 1, 3),
            ("sn", 2, 3),
        ]
        assert rows[0]["members"][2] == {"seed": 2, "run": "msn-s2"}
        ids = {whole["configs"][f"msn-s{seed}"]["config_id"] for seed in (0, 1, 2)}
        assert ids == {rows[0]["config_id"]}
    if how == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        pooled = [row for row in rows if row["source"] == "pooled over seeds"]
        assert [(row["config"], row["rank"], row["seeds"]) for row in pooled] == [
            ("msn", "1", "0 1 2"),
            ("sn", "2", "0 1 2"),
        ]
        assert {(row["last"], row["run"], row[f"score {FD}"]) for row in pooled} == {("", "", "")}
        assert float(pooled[0]["seeds_last_low"]) == pytest.approx(8.515862)
        assert {row["seeds_last_mean"] for row in rows if row["source"] == "measured"} == {""}
        assert {row["config_id"] for row in rows if row["config"] == "msn"} == {
            pooled[0]["config_id"]
        }


def test_configs_of_one_name_are_told_apart_by_what_they_differ_in(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for norm in ("batch", "spectral"):
        for seed in (0, 1):
            name = f"{norm}-s{seed}"
            write_run(tmp_path, name, score_line(), of="mine", seed=seed, model__norm=norm)
    text = printed(capsys, "--root", tmp_path, "--no-published")
    assert re.search(r"mine: \w{12} and \w{12} differ in model.norm \(", text)
    text = printed(capsys, "--root", tmp_path, "--compare", "batch-s0", "spectral-s0")
    assert 'they differ in model.norm ("batch", "spectral")' in text


def test_ranks_of_runs_that_trained_longer_than_others_come_with_a_note(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name, step in (("a", 1500), ("b", 1500)):
        write_run(tmp_path, name, score_line(step=step))
    note = "the last steps are not the same"
    assert note not in printed(capsys, "--root", tmp_path, "--no-published")
    write_run(tmp_path, "c", score_line(step=8000))
    text = printed(capsys, "--root", tmp_path, "--no-published")
    assert f"{note} (1500, 8000): some have trained longer" in text


def test_a_config_that_cannot_be_read_is_a_warning_and_its_scores_are_shown(
    seeded: Path, capsys: Captured
) -> None:
    (seeded / "checkpoints/msn-s0/config.yaml").write_text("a: &a [*a]")
    (seeded / "checkpoints/sn-s0/config.yaml").rename(seeded / "checkpoints/sn-s0/environment.json")
    assert main(["--root", str(seeded), "--format", "json", "--no-published"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: ") == captured.err.count("\n") == 2
    (block,) = json.loads(captured.out)["blocks"]
    assert len(block["rows"]) == 6
    assert [len(row["members"]) for row in block["pooled"]["rows"]] == [2, 2]


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_all_metrics_fit_the_terminal(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    families = ("fd", "cs", "kd", "precision", "recall", "density", "coverage")
    scores = {f"{name}/x": {"mean": 0.1 + k, "sd": 0.01} for k, name in enumerate(families)}
    for seed in (0, 1):
        line = score_line(scores=scores)
        write_run(tmp_path, f"cifar_wgangp-s{seed}-0", line, of="cifar_wgangp", seed=seed)
    text = printed(capsys, "--root", tmp_path, "--no-published")
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    for k, name in enumerate(families):
        assert name in text
        assert text.count(f"{0.1 + k:.{4 if k == 0 else 3}f}±") >= 3


def test_thousands_of_lines_of_a_hundred_runs_need_seconds(
    tmp_path: Path, capsys: Captured
) -> None:
    names = [FD, *(FD.replace("fd", each) for each in ("cs", "kd", "precision", "recall"))]
    scores = {name: {"mean": 1.0, "sd": 0.1, "values": [1.0] * 5} for name in names}
    lines = [score_line(scores=scores, step=step) for step in range(30)]
    for number in range(100):
        write_run(tmp_path, f"run-{number}", *lines, of=f"c{number // 4}", seed=number % 4)
    start = time.process_time()
    printed(capsys, "--root", tmp_path, "--no-published", "--format", "md")
    assert time.process_time() - start < 5  # about 0.6 s of one core of 2026, and not minutes
