from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from score_lines import CS, FD, official, score_line, write_run

from msngan.commands.leaderboard import main
from msngan.leaderboard.published import NEVER_RANKED, PUBLISHED
from msngan.report.tables.table import FORMATS
from msngan.runs.folder import UserError

Captured = pytest.CaptureFixture[str]
WARNING = "embedded extractor: not comparable with published FID"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    return


@pytest.fixture
def root(tmp_path: Path) -> Path:
    both = {
        FD: {"mean": 12.4, "sd": 0.2, "values": [12.4] * 5},
        CS: {"mean": 6.1, "sd": 0.08, "values": [6.1] * 5},
    }
    floors = {
        FD: {"mean": 0.11, "kind": "real-vs-real"},
        CS: {"mean": 9.1, "kind": "estimated"},
    }
    write_run(tmp_path, "cifar_msn-s0-0", score_line(14.1, weights="raw"), official(33.3))
    write_run(tmp_path, "cifar_sn-s0-0", score_line(scores=both, floors=floors), score_line(12.3))
    write_run(tmp_path, "cifar_wgangp-s0-0", score_line(None))
    return tmp_path


def printed(capsys: Captured, *argv: str | Path) -> str:
    assert main([str(each) for each in argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("published", [True, False])
def test_the_table_fits_the_terminal_and_loses_no_character(
    root: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int, published: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(capsys, "--root", root, *([] if published else ["--no-published"]))
    assert max(map(len, text.splitlines())) <= columns
    for value in (
        "cifar_wgangp-s0-0",
        "14.10±0.20",
        "33.30±0.20",
        "6.100±0.080",
        "0.1100",
        "~9.100",
    ):
        assert value in text
    assert "…" not in text


def test_a_long_name_is_folded_and_not_cut(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path, "Q" * 99, score_line())
    text = printed(capsys, "--root", tmp_path, "--no-published")
    assert text.count("Q") == 99
    assert "12.30±0.20" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_block_says_what_its_numbers_are_and_ends_with_the_floor(
    root: Path, capsys: Captured
) -> None:
    text = printed(capsys, "--root", root, "--no-published", "--protocol", "aaaa00000000")
    for part in ("cifar10", "5 x 2000 samples", "embed-cifar10-46378be3", "50000 images", WARNING):
        assert part in text.replace("\n", " ")
    assert "32x32, 3 channels" in text.replace("\n", " ")
    rows = [line.split()[:3] for line in text.splitlines() if "cifar_" in line or "floor" in line]
    assert rows[:4] == [
        ["1", "cifar_sn-s0-0", "ema"],
        ["2", "cifar_msn-s0-0", "raw"],
        ["cifar_wgangp-s0-0", "ema", "failed"],
        ["floor", "(real-vs-real)", "0.1100"],
    ]
    assert "step 1000: fd failed: NaN images" in text


def test_the_official_network_is_not_called_embedded(root: Path, capsys: Captured) -> None:
    text = printed(capsys, "--root", root, "--no-published", "--metric", "fid", "--format", "md")
    assert "33.30±0.20" in text
    assert WARNING not in text
    assert "left out, without 'fid': protocol aaaa00000000" in text


@pytest.mark.parametrize("how", FORMATS)
def test_published_rows_are_there_unless_refused_and_say_that_they_are_not_ranked(
    root: Path, capsys: Captured, how: str
) -> None:
    text = printed(capsys, "--root", root, "--format", how)
    for value in ("29.8", "41.3", "arxiv.org/abs/1907.04003"):
        assert value in text
    assert how == "csv" or NEVER_RANKED[:60] in text
    for argv in (["--no-published"], ["--dataset", "cifar10", "--no-published"]):
        assert "1907.04003" not in printed(capsys, "--root", root, "--format", how, *argv)


def test_every_published_row_has_a_protocol_and_a_source_and_the_paper_s_table_is_whole() -> None:
    assert all(row.protocol and row.source for row in PUBLISHED)
    assert all(row.fid is not None or row.inception_score is not None for row in PUBLISHED)
    table = [
        (row.model, row.inception_score, row.inception_score_sd, row.fid)
        for row in PUBLISHED
        if "Table II," in row.source
    ]
    assert table == [
        ("Real data", 11.24, 0.12, 7.8),
        ("WGAN-GP (with BN)", 6.42, 0.10, 41.3),
        ("SNGAN", 7.42, 0.08, 29.3),
        ("MSNGAN", 7.39, 0.07, 29.8),
    ]


def test_json_holds_each_block_with_its_protocol_and_published_rows_apart(
    root: Path, capsys: Captured
) -> None:
    whole = json.loads(printed(capsys, "--root", root, "--format", "json"))
    assert [block["metric"] for block in whole["blocks"]] == [FD, "fid"]
    block = whole["blocks"][0]
    assert block["protocol"]["samples"] == 2000
    assert block["floors"][CS] == {"mean": 9.1, "kind": "estimated"}
    assert [row["rank"] for row in block["rows"]] == [1, 2, None]
    assert block["rows"][2]["last"][FD]["reason"] == "NaN images"
    assert len(whole["published"]["rows"]) == len(PUBLISHED)


def test_csv_has_one_row_for_each_run_weights_and_protocol(root: Path, capsys: Captured) -> None:
    text = printed(capsys, "--root", root, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    ours = [row for row in rows if row["source"] == "measured"]
    assert [(row["run"], row["protocol_id"], row["rank"], row["last"]) for row in ours] == [
        ("cifar_sn-s0-0", "aaaa00000000", "1", "12.3"),
        ("cifar_msn-s0-0", "aaaa00000000", "2", "14.1"),
        ("cifar_wgangp-s0-0", "aaaa00000000", "", ""),
        ("cifar_msn-s0-0", "bbbb00000000", "1", "33.3"),
    ]
    assert ours[0][f"score {CS}"] == "6.1"
    assert ours[2]["reason"] == "NaN images"
    theirs = [row for row in rows if row["source"] == "published"]
    assert len(theirs) == len(PUBLISHED)
    assert {(row["rank"], row["last"], row["score fid"]) for row in theirs} == {("", "", "")}


def test_without_seeds_to_pool_nothing_is_said_of_them(root: Path, capsys: Captured) -> None:
    assert "seeds pooled" not in printed(capsys, "--root", root)


def poisoned() -> dict[str, Any]:
    line = score_line(None)
    line["scores"][FD]["reason"] = "=HYPERLINK(0)|[red]a[/red]|<b>\x1b[2J\n`x`"
    line["config"] = "@SUM(1)"
    line["protocol"]["dataset"] = "a|b [bold]\x07"
    return line


def test_text_from_files_is_never_markup_a_column_a_formula_or_a_control(
    tmp_path: Path, capsys: Captured
) -> None:
    write_run(tmp_path, "run", poisoned())
    outputs = {
        how: printed(capsys, "--root", tmp_path, "--no-published", "--format", how)
        for how in FORMATS
    }
    for text in outputs.values():
        assert all(each.isprintable() or each == "\n" for each in text)
    assert "a|b [bold]" in outputs["table"]
    assert "[red]a[/red]" in outputs["table"]
    assert r"=HYPERLINK(0)\|\[red\]a\[/red\]\|\<b\>\[2J\`x\`" in outputs["md"]
    (row,) = csv.DictReader(io.StringIO(outputs["csv"]))
    assert row["config"] == "'@SUM(1)"
    assert row["reason"].startswith("'=HYPERLINK")


def test_markdown_rows_all_have_as_many_cells_as_the_head(root: Path, capsys: Captured) -> None:
    lines = printed(capsys, "--root", root, "--format", "md", "--no-published").splitlines()
    first = lines.index("|--:|---|---|--:|--:|--:|--:|--:|---|")
    assert {line.count("|") for line in lines[first - 1 : first + 5]} == {10}
    assert lines[first - 1].endswith("| differs in |")
    assert lines[first + 1].endswith("| norm=cifar_sn-s0-0 |")
    assert lines[first - 2] == ""


@pytest.mark.parametrize("how", FORMATS)
def test_without_runs_a_line_says_what_to_do_next(
    tmp_path: Path, capsys: Captured, how: str
) -> None:
    assert main(["--root", str(tmp_path), "--format", how]) == 0
    captured = capsys.readouterr()
    told = captured.out if how in ("table", "md") else captured.err
    assert "msngan fit --config digits_msn.yaml" in " ".join(told.split())
    assert "29.8" not in captured.out  # published numbers are for data sets that are there
    assert main(["--root", str(tmp_path), "--format", how, "--dataset", "cifar10"]) == 0
    assert "29.8" in capsys.readouterr().out
    folder = write_run(tmp_path, "bare")
    for checkpoint in (False, True):
        assert main(["--root", str(tmp_path), "--format", how]) == 0
        captured = capsys.readouterr()
        said = " ".join((captured.out + captured.err).split())
        assert "No scores yet for bare" in said
        assert ("msngan evaluate bare" in said) == checkpoint  # or there is nothing to evaluate
        (folder / "last.ckpt").touch()


def test_a_malformed_line_is_a_warning_on_stderr_and_the_rest_is_shown(
    tmp_path: Path, capsys: Captured
) -> None:
    write_run(tmp_path, "run", "{", score_line(7.0))
    assert main(["--root", str(tmp_path), "--format", "json", "--no-published"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("msngan leaderboard: warning: ")
    assert captured.err.count("\n") == 1
    assert json.loads(captured.out)["blocks"][0]["rows"][0]["run"] == "run"


@pytest.mark.parametrize(
    "argv", [["nobody"], ["--metric", "fdd"], ["--dataset", "cifar"], ["--protocol", "nine"]]
)
def test_an_unknown_name_is_an_error_of_one_line(root: Path, argv: list[str]) -> None:
    with pytest.raises(UserError) as failure:
        main(["--root", str(root), *argv])
    assert argv[-1] in str(failure.value)
    assert "\n" not in str(failure.value)


def test_no_torch_is_imported_and_rich_only_for_tables(root: Path) -> None:
    code = (
        "import sys; from msngan.commands.leaderboard import main; main(sys.argv[1:]);"
        " assert not {'torch', 'numpy', 'scipy', 'msngan.scores'} & {*sys.modules};"
        " assert ('rich' in sys.modules) == ('table' in sys.argv)"
    )
    for how in FORMATS:
        command = [sys.executable, "-c", code, "--root", str(root), "--format", how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
