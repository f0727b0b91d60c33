"""`msngan leaderboard` in every format: what it shows, what it warns of, what it imports."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from score_lines import CS, FD, official, score_line, write_run
from test_architecture import loaded_after

from msngan.commands.leaderboard import main
from msngan.leaderboard.published import NEVER_RANKED, PUBLISHED
from msngan.report.tables.table import FORMATS

Captured = pytest.CaptureFixture[str]
WARNING = "not comparable with published FID"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three configs, one run each."""
    both = {FD: {"mean": 12.4, "sd": 0.2}, CS: {"mean": 6.1, "sd": 0.08}}
    floors = {FD: {"mean": 0.11, "kind": "real-vs-real"}, CS: {"mean": 9.1, "kind": "estimated"}}
    write_run(tmp_path, "cifar_msn-s0-0", score_line(14.1, weights="raw"), official(33.3))
    write_run(tmp_path, "cifar_sn-s0-0", score_line(scores=both, floors=floors), score_line(12.3))
    write_run(tmp_path, "cifar_wgangp-s0-0", score_line(None))
    return tmp_path


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """Two configs, three seeds each, of which they share two."""
    for name, shift in (("msn", 0.0), ("sn", 4.0)):
        for seed in (0, 1, 2 + (shift > 0)):
            scores = {FD: {"mean": 10 + shift + seed, "sd": 0.2}, CS: {"mean": 5.0, "sd": 0.1}}
            lines = [score_line(scores=scores), official(30 + shift + 0.3 * seed)]
            write_run(tmp_path, f"{name}-s{seed}", *lines, of=name, seed=seed)
    return tmp_path


def printed(capsys: Captured, root: Path, *argv: str) -> str:
    assert main(["--root", str(root), *argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.quick
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_table_fits_the_terminal_and_loses_no_character(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    families = ("fd", "cs", "kd", "precision", "recall", "density", "coverage")
    scores = {f"{name}/x": {"mean": 0.1 + k, "sd": 0.01} for k, name in enumerate(families)}
    for seed in (0, 1):
        name = f"cifar_wgangp-s{seed}-0"
        write_run(tmp_path, name, score_line(scores=scores), of="cifar_wgangp", seed=seed)
    write_run(tmp_path, "Q" * 99, score_line(protocol_id="other", samples=9))
    text = printed(capsys, tmp_path)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    assert text.count("Q") >= 99  # folded, not cut
    for k, name in enumerate(families):
        assert name in text
        assert text.count(f"{0.1 + k:.3f}") >= 3


def test_a_block_says_what_its_numbers_are_and_ends_with_the_real_data_score(root, capsys):
    text = printed(capsys, root, "--no-published", "--protocol", "aaaa00000000")
    for part in ("cifar10", "5 x 2000 samples", "embed-cifar10-46378be3", "50000 images", WARNING):
        assert part in " ".join(text.split())
    assert "32x32, 3 channels" in " ".join(text.split())
    rows = [line.split()[:3] for line in text.splitlines() if "cifar_" in line or "0.1100" in line]
    assert rows[:3] == [
        ["1", "cifar_sn-s0-0", "ema"],
        ["2", "cifar_msn-s0-0", "raw"],
        ["cifar_wgangp-s0-0", "ema", "failed"],
    ]
    assert "(real-vs-real)" in rows[3]
    assert "~9.100" in text
    assert "step 1000: fd failed: NaN images" in text
    assert "seeds pooled" not in text
    text = printed(capsys, root, "--no-published", "--metric", "fid", "--format", "md")
    assert "33.30±0.20" in text
    assert WARNING not in text  # of the official network
    assert "left out, without 'fid': protocol aaaa00000000" in text


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_shows_runs_and_published_rows_apart(root, capsys, how):
    text = printed(capsys, root, "--format", how)
    for value in ("29.8", "41.3", "arxiv.org/abs/1907.04003"):
        assert value in text
    assert how == "csv" or NEVER_RANKED[:60] in text
    assert "1907.04003" not in printed(capsys, root, "--format", how, "--no-published")
    if how == "json":
        whole = json.loads(text)
        assert [block["metric"] for block in whole["blocks"]] == [FD, "fid"]
        block = whole["blocks"][0]
        assert block["protocol"]["samples"] == 2000
        assert block["floors"][CS] == {"mean": 9.1, "kind": "estimated"}
        assert [row["rank"] for row in block["rows"]] == [1, 2, None]
        assert block["rows"][2]["last"][FD]["reason"] == "NaN images"
        assert len(whole["published"]["rows"]) == len(PUBLISHED)
    if how == "csv":
        rows = rows_of(text)
        ours = [row for row in rows if row["source"] == "measured"]
        main_metric = {"aaaa00000000": f"last {FD} mean", "bbbb00000000": "last fid mean"}
        last = [row[main_metric[row["protocol_id"]]] for row in ours]
        found = [(row["run"], row["protocol_id"], row["rank"]) for row in ours]
        assert [(*each, mean) for each, mean in zip(found, last, strict=True)] == [
            ("cifar_sn-s0-0", "aaaa00000000", "1", "12.3"),
            ("cifar_msn-s0-0", "aaaa00000000", "2", "14.1"),
            ("cifar_wgangp-s0-0", "aaaa00000000", "", ""),
            ("cifar_msn-s0-0", "bbbb00000000", "1", "33.3"),
        ]
        assert (ours[0][f"last {CS} mean"], ours[2][f"last {FD} reason"]) == ("6.1", "NaN images")
        theirs = [row for row in rows if row["source"] == "published"]
        assert len(theirs) == len(PUBLISHED)
        assert {(row["rank"], row["last fid mean"]) for row in theirs} == {("", "")}


def test_every_published_row_has_a_protocol_and_a_source_and_the_paper_s_table_is_whole():
    assert all(row.protocol and row.source for row in PUBLISHED)
    assert all(row.fid is not None or row.inception_score is not None for row in PUBLISHED)
    table = [row for row in PUBLISHED if "Table II," in row.source]
    numbers = [(row.model, row.inception_score, row.inception_score_sd, row.fid) for row in table]
    assert numbers == [
        ("Real data", 11.24, 0.12, 7.8),
        ("WGAN-GP (with BN)", 6.42, 0.10, 41.3),
        ("SNGAN", 7.42, 0.08, 29.3),
        ("MSNGAN", 7.39, 0.07, 29.8),
    ]


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_shows_the_seeds_pooled(seeded, capsys, how):
    text = printed(capsys, seeded, "--format", how, "--no-published")
    # 10, 11, 12: sd 1, 4.302653 / sqrt(3) = 2.484138
    if how in ("table", "md"):
        for part in ("seeds pooled", "11.0±1.0", "8.516, 13.48", "ddof 1"):
            assert part in text.replace("\n", " ")
    if how == "json":
        whole = json.loads(text)
        rows = whole["blocks"][0]["pooled"]["rows"]
        found = [(row["config"], row["rank"], row["last"][FD]["n"]) for row in rows]
        assert found == [("msn", 1, 3), ("sn", 2, 3)]
        assert rows[0]["members"][2] == {"seed": 2, "run": "msn-s2"}
        ids = {whole["configs"][f"msn-s{seed}"]["config_id"] for seed in (0, 1, 2)}
        assert ids == {rows[0]["config_id"]}
    if how == "csv":
        rows = rows_of(text)
        pooled = [row for row in rows if row["source"] == "pooled over seeds"][:2]
        found = [(row["config"], row["rank"], row["seeds"]) for row in pooled]
        assert found == [("msn", "1", "0 1 2"), ("sn", "2", "0 1 3")]
        assert {(row["run"], row[f"last {FD} mean"]) for row in pooled} == {("", "")}
        last = f"over seeds last {FD}"
        assert float(pooled[0][f"{last} low"]) == pytest.approx(8.515862)
        assert {row[f"{last} mean"] for row in rows if row["source"] == "measured"} == {""}


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_shows_a_comparison_and_only_that(seeded, capsys, how):
    argv = ["--format", how, "--compare", "msn", "sn"]
    text = printed(capsys, seeded, *argv)
    assert "A better" in text
    assert "1907.04003" not in text
    if how == "table":
        assert max(map(len, text.splitlines())) <= 80
    if how in ("table", "md"):
        for part in ("unpaired, A only: msn-s2 (seed 2)", "unpaired, B only: sn-s3 (seed 3)"):
            assert part in text
        assert "-4.000" in text
        assert "Student's t with n - 1" in text
    if how == "json":
        made = json.loads(text)["comparison"]
        assert [match["protocol_id"][:4] for match in made["matches"]] == ["aaaa", "bbbb"]
        row = made["matches"][0]["rows"][0]
        assert (row["metric"], row["step"], row["verdict"]) == (FD, 1000, "A better")
        assert row["difference"]["n"] == 2
    if how == "csv":
        rows = rows_of(text)
        assert {(row["source"], row["unpaired A"]) for row in rows} == {("compared", "2")}
        assert [row["metric"] for row in rows] == [FD, CS, "fid"]
        assert float(rows[0]["difference mean"]) == pytest.approx(-4)
        assert rows[0]["seeds"] == "0 1"
        for extra, wanted in (
            (["--metric", "cs"], [CS]),
            (["--metric", "fid"], ["fid"]),
            (["--protocol", "aaaa"], [FD, CS]),
        ):
            assert main(["--root", str(seeded), *argv, *extra]) == 0
            narrow = rows_of(capsys.readouterr().out)
            assert [row["metric"] for row in narrow] == wanted


def test_a_run_without_a_score_to_compare_is_named_with_the_command_that_scores_it(root, refused):
    for name in ("ready", "begun"):
        write_run(root, name, of=name)
    (root / "checkpoints/ready/last.ckpt").write_bytes(b"")
    place = f" --root {root}"
    for pair in (["ready", "cifar_sn-s0-0"], ["cifar_sn-s0-0", "ready"]):
        said = refused("leaderboard", "--root", str(root), "--compare", *pair)
        assert f"run 'ready' has no score yet; score it: msngan evaluate ready{place}" in said
    said = refused("leaderboard", "--root", str(root), "--compare", "nope", "cifar_sn-s0-0")
    assert "--compare 'nope' is not a run or a config with scores" in said
    said = refused("leaderboard", "--root", str(root), "--compare", "begun", "cifar_sn-s0-0")
    assert "run 'begun' has no score yet; it has no checkpoint either: msngan resume begun" in said
    write_run(root, "digits", score_line(dataset="digits", protocol_id="cccc00000000"), of="digits")
    pair = ["--compare", "digits", "cifar_sn-s0-0", "--dataset", "cifar10"]
    said = refused("leaderboard", "--root", str(root), *pair)
    assert "run 'digits' has no score of --dataset cifar10; leave that out" in said


def test_what_runs_and_configs_of_one_name_differ_in_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for norm, step in (("batch", 1500), ("spectral", 8000)):
        for seed in (0, 1):
            line = score_line(step=step)
            write_run(tmp_path, f"{norm}-s{seed}", line, of="mine", seed=seed, model__norm=norm)
    text = printed(capsys, tmp_path, "--no-published")
    assert re.search(r"mine: \w{12} and \w{12} differ in model.norm \(", text)
    assert "the runs end at different steps (1500, 8000): some have trained longer" in text
    text = printed(capsys, tmp_path, "--no-published", "--format", "md").splitlines()
    head = next(k for k, line in enumerate(text) if line.endswith("| differs in |"))
    assert {line.count("|") for line in text[head : head + 6]} == {text[head].count("|")}
    assert text[head + 2].endswith("| norm=batch |")
    for seed in (0, 1):
        line = score_line()
        write_run(tmp_path, f"sn-s{seed}", line, of="mine", seed=seed, model__norm="sn")
    text = printed(capsys, tmp_path, "--compare", "batch-s0", "sn-s0", "--format", "json")
    assert json.loads(text)["comparison"]["differences"] == {"model.norm": ['"batch"', '"sn"']}


def test_text_from_files_is_never_markup_a_column_a_formula_or_a_control(tmp_path, capsys):
    line = score_line(None, dataset="a|b [bold]\x07")
    line["scores"][FD]["reason"] = "=HYPERLINK(0)|[red]a[/red]|<b>\x1b[2J\n`x`"
    write_run(tmp_path, "run", {**line, "config": "@SUM(1)"})
    outputs = {how: printed(capsys, tmp_path, "--no-published", "--format", how) for how in FORMATS}
    for text in outputs.values():
        assert all(each.isprintable() or each == "\n" for each in text)
    assert "a|b [bold]" in outputs["table"]
    assert "[red]a[/red]" in outputs["table"]
    assert r"=HYPERLINK(0)\|\[red\]a\[/red\]\|\<b\>\[2J\`x\`" in outputs["md"]
    (row,) = rows_of(outputs["csv"])
    assert row["config"] == "'@SUM(1)"
    assert row[f"last {FD} reason"].startswith("'=HYPERLINK")


@pytest.mark.parametrize("how", FORMATS)
def test_without_runs_a_line_says_what_to_do_next(tmp_path, capsys, how):
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


def test_a_damaged_line_or_config_is_a_warning_and_the_rest_is_shown(seeded, capsys):
    write_run(seeded, "run", "{", score_line(7.0))
    (seeded / "checkpoints/msn-s0/config.yaml").write_text("a: &a [*a]")
    (seeded / "checkpoints/sn-s0/config.yaml").rename(seeded / "checkpoints/sn-s0/environment.json")
    assert main(["--root", str(seeded), "--format", "json", "--no-published"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("msngan leaderboard: warning: ") == captured.err.count("\n") == 3
    block = json.loads(captured.out)["blocks"][0]
    assert len(block["rows"]) == 7
    assert [len(row["members"]) for row in block["pooled"]["rows"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nobody", "nobody"),
        ("--metric fdd", "fdd"),
        ("--dataset cifar", "cifar"),
        ("--protocol nine", "nine"),
        ("--format tabel", "did you mean 'table'?"),
        ("--formt csv", "unknown option '--formt' (did you mean '--format'?"),
        ("--form=csv", "unknown option '--form' (did you mean '--format'?"),
        ("--by wrost", "invalid choice: 'wrost'"),
        ("--protocol", "expected one argument"),
        ("run --html x --format csv", "not allowed with"),
    ],
)
def test_bad_input_is_one_line(root, refused, arguments, words):
    assert words in refused("leaderboard", "--root", str(root), *arguments.split())


@pytest.mark.parametrize("how", FORMATS)
def test_no_torch_is_imported_and_rich_only_for_tables(root, how):
    loaded = loaded_after("leaderboard", "--root", root, "--format", how)
    assert not loaded & {"torch", "numpy", "scipy"}
    assert ("rich" in loaded) == (how == "table")
