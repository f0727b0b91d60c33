"""`msngan extractor compare`: two extractors, degraded real images and generators."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from toy_extractor import METADATA, network

from msngan.leaderboard.rank_correlation import correlation, ranks
from msngan.report.tables import extractor_tables
from msngan.report.tables.table import plus_minus
from msngan.scores import degradations
from msngan.scores.embedded import save_extractor

COMPARE = ("extractor", "compare", "a.safetensors", "b.safetensors")
FEW = {kind: degradations.CHANGES[kind] for kind in [*degradations.CHANGES][:3]}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two extractor files of different networks, and few degradations."""
    facts = {**METADATA, "dataset": "digits"}
    save_extractor(network(), tmp_path / "a.safetensors", facts)
    vgg7 = {"network": "vgg7", "widths": "[1]"}
    save_extractor(network("vgg7"), tmp_path / "b.safetensors", facts | vgg7)
    monkeypatch.setattr(degradations, "CHANGES", FEW)
    monkeypatch.setenv("COLUMNS", "300")


def test_the_same_images_and_generators_are_ranked_by_both(tiny, run, capsys, files):
    one, other = tiny("one"), tiny("other", "--seed", "1", "--checkpoint.every", "4")
    shutil.copy(one / "last.ckpt", "again.ckpt")
    subjects = ["one", str(one / "last.ckpt"), str(other), str(other / "previous.ckpt")]
    command = (*COMPARE, *subjects, "--dataset", "digits", "--images", "60", "--format", "json")
    capsys.readouterr()
    assert run(*command) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "blur, sd in pixels 0.5\n" in shown.err
    assert [name.rsplit("-", 1)[0] for name in record["extractors"]] == [
        "embed-digits",
        "embed-vgg7-digits",
    ]
    assert (record["samples"], record["size"], record["channels"]) == (60, 8, 1)
    # a run is scored once at a step
    found = [(row["run"], row["step"]) for row in record["generators"]]
    assert found == [("one", 6), ("other", 6), ("other", 4)]
    kinds = [*FEW, *degradations.CHOICES]
    assert [row["kind"] for row in record["kinds"]] == kinds
    rows = record["degradations"]
    assert len({(row["kind"], row["strength"]) for row in rows}) == len(rows) > 20
    for name in ("fd", "kd"):
        columns = [[row[name][side] for row in rows] for side in (0, 1)]
        assert columns[0] != columns[1]
        given = [[row[f"{name}_ranks"][side] for row in rows] for side in (0, 1)]
        assert given == [ranks(column).tolist() for column in columns]
        groups = [row["kind"] for row in rows]
        assert record["correlations"]["degradations"][name] == correlation(*columns, groups)
        assert record["correlations"]["generators"][name]["groups"] == 2
    for kind in record["kinds"]:
        own = [row["fd"][0] for row in rows if row["kind"] == kind["kind"]]
        steps = zip([record["undisturbed"]["fd"][0], *own], own, strict=False)
        assert kind["fd"][0] == sum(after > before for before, after in steps)
    assert run(*command) == 0
    assert json.loads(capsys.readouterr().out)["degradations"] == rows

    # a generator has the number that evaluate gives it
    protocol = ("--runs", "1", "--images", "60", "--metrics", "fid,kid", "--format", "json")
    scored = ("evaluate", "one", "--extractor", "a.safetensors", "--split", "train")
    assert run(*scored, *protocol) == 0
    (line,) = json.loads(capsys.readouterr().out)
    first = record["extractors"][0]
    assert line["scores"][f"fd/{first}"]["mean"] == record["generators"][0]["fd"][0]


def test_files_of_no_run_here_count_once_each_and_those_of_one_run_are_one_group(
    tiny, run, capsys, files
):
    one, other = tiny("one", "--checkpoint.every", "4"), tiny("other", "--seed", "1")
    for name, path in {"a": one / "last.ckpt", "b": other / "last.ckpt"}.items():
        Path(name).mkdir()
        shutil.copy(path, f"{name}/last.ckpt")
    shutil.copy("a/last.ckpt", "again.ckpt")
    assert run("export", str(one / "previous.ckpt"), "--out", "early.safetensors") == 0
    subjects = ["a/last.ckpt", "again.ckpt", "b/last.ckpt", "early.safetensors"]
    capsys.readouterr()
    few = ("--dataset", "digits", "--images", "30", "--format", "json")
    assert run(*COMPARE, *subjects, *few) == 0
    record = json.loads(capsys.readouterr().out)
    found = [(row["run"], row["step"]) for row in record["generators"]]
    assert found == [("one", 6), ("other", 6), ("one", 4)]
    assert record["correlations"]["generators"]["fd"]["groups"] == 2


@pytest.mark.parametrize("style", ["table", "md", "csv"])
def test_what_is_printed_has_every_distance(style, run, capsys, files):
    assert (
        run(*COMPARE, "--dataset", "digits", "--size", "8", "--images", "30", "--format", "json")
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    extractor_tables.show(style, record)
    out = capsys.readouterr().out
    if style == "csv":
        found = list(csv.DictReader(io.StringIO(out)))
        told = [record["undisturbed"], *record["degradations"]]
        assert [float(row["fd_b"]) for row in found] == [row["fd"][1] for row in told]
        assert [row["part"] for row in found] == ["undisturbed"] + ["degradations"] * (
            len(told) - 1
        )
        return
    for each in (*record["extractors"], *FEW, "Spearman", "95 %"):
        assert each in out
    assert "Generators" not in out
    assert "generators" not in out
    count = record["correlations"]["degradations"]["fd"]["items"]
    assert f" {count} " in out
    for row in record["degradations"]:
        assert all(plus_minus(each) in out for each in row["fd"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("embedded embeded --dataset digits", "did you mean 'embedded'"),
        ("embedded none.safetensors --dataset digits", "no extractor file none.safetensors"),
        ("embedded embedded --dataset digits", "the same extractor"),
        ("embedded clip-rn50 --dataset digits", "clip-rn50 cannot be compared here; choose from"),
        ("embedded embedded-vgg7 --dataset folder", "needs --data-root"),
        ("embedded embedded-vgg7 --dataset digit", "unknown value 'digit' (did you mean 'digits'"),
        ("embedded embedded-vgg7 --dataset digits --images 400", "only 359 test images; give"),
        ("embedded embedded-vgg7 nothing --dataset digits", "no run, folder or checkpoint"),
        ("embedded embedded-vgg7 --dataset digits --size 9", "multiple of 8"),
        ("embedded embedded-vgg7", "--dataset"),
    ],
)
def test_bad_input_is_one_line(arguments, words, refused):
    line = refused("extractor", "compare", *arguments.split())
    assert words in line
    assert "--data." not in line


def test_runs_are_not_among_what_is_required(refused):
    assert "arguments are required: B, --dataset;" in refused("extractor", "compare", "embedded")


def test_generators_of_two_shapes_are_refused(tiny, run, capfd, files):
    tiny("one")
    tiny("large", "--data.size", "16")
    few = ("--dataset", "digits", "--images", "30")
    capfd.readouterr()
    assert run(*COMPARE, "one", "large", *few) == 2
    assert "8x8x1 (one), 16x16x1 (large)" in capfd.readouterr().err
    assert run(*COMPARE, "one", "--size", "16", *few) == 2
    assert "--size 16, but the generators make images of 8" in capfd.readouterr().err
