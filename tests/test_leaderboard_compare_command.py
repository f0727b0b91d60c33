from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from score_lines import CS, FD, official, score_line, write_run

from msngan.commands.leaderboard import main
from msngan.report.tables.table import FORMATS

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, shift in (("cifar_msn", 0.0), ("cifar_sn", 5.0)):
        for seed in (0, 1, 2 + (shift > 0)):
            both = {
                FD: {"mean": 10 + shift + 0.1 * seed, "sd": 0.2},
                CS: {"mean": 6 - 0.01 * seed * (1 + shift), "sd": 0.1},
            }
            lines = [score_line(scores=both), official(30 + shift + 0.3 * seed)]
            write_run(tmp_path, f"{name}-s{seed}", *lines, of=name, seed=seed)
    return tmp_path


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_shows_the_comparison_and_only_that(
    root: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    argv = ["--root", str(root), "--format", how, "--compare", "cifar_msn", "cifar_sn"]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    text = captured.out
    assert "A better" in text
    assert "1907.04003" not in text
    if how == "table":
        assert max(map(len, text.splitlines())) <= 80
    if how in ("table", "md"):
        assert "unpaired, A only: cifar_msn-s2 (seed 2)" in text
        assert "unpaired, B only: cifar_sn-s3 (seed 3)" in text
        assert "-5.000" in text
    if how == "json":
        made = json.loads(text)["comparison"]
        assert [match["protocol_id"][:4] for match in made["matches"]] == ["aaaa", "bbbb"]
        row = made["matches"][0]["rows"][0]
        assert (row["metric"], row["step"], row["verdict"]) == (FD, 1000, "A better")
        assert row["difference"]["n"] == 2
    if how == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {row["source"] for row in rows} == {"compared"}
        assert [row["metric"] for row in rows] == [FD, CS, "fid"]
        assert [row["a_unpaired"] for row in rows] == ["2", "2", "2"]
        assert float(rows[0]["difference_mean"]) == pytest.approx(-5)
        assert rows[0]["pairs_seeds"] == "0 1"


def test_a_metric_and_a_protocol_narrow_the_comparison(root: Path, capsys: Captured) -> None:
    argv = ["--root", str(root), "--format", "csv", "--compare", "cifar_msn", "cifar_sn"]
    for extra, wanted in (
        (["--metric", "cs"], [CS]),
        (["--metric", "fid"], ["fid"]),
        (["--protocol", "aaaa"], [FD, CS]),
    ):
        assert main([*argv, *extra]) == 0
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert [row["metric"] for row in rows] == wanted


def test_the_legend_says_what_the_interval_is_of(root: Path, capsys: Captured) -> None:
    assert main(["--root", str(root), "--format", "md", "--compare", "cifar_msn", "cifar_sn"]) == 0
    text = capsys.readouterr().out
    assert "Student's t with n - 1" in text
    assert "by chance alone" in text
