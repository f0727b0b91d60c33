"""The page of `msngan report`, as a parser sees it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from report_runs import EPOCHS, HOSTILE, accuracy_line, classifier, gan, grid, lines, study
from score_lines import FD, score_line
from test_leaderboard_page import Page

from msngan.commands.report import main
from msngan.report.html import accuracy, defaults, dynamics, grids
from msngan.report.html.accuracy import interval
from msngan.report.html.study_runs import anchor
from msngan.runs.folder import UserError

Captured = pytest.CaptureFixture[str]


def page(root: Path, *names: str) -> Page:
    path = root / "page.html"
    assert main(["--root", str(root), "--out", str(path), *names]) == 0
    return Page(path.read_text(encoding="utf-8"))


def row(made: Page, *start: str) -> list[str]:
    """The one row of a table that begins so."""
    (found,) = [each for each in made.rows if each[: len(start)] == [*start]]
    return found


def test_a_page_goes_to_the_folder_of_its_run_and_its_path_is_printed(
    tmp_path: Path, capsys: Captured
) -> None:
    for name in ("a", "b"):
        classifier(tmp_path, name)
    assert main(["--root", str(tmp_path), "a", str(tmp_path / "checkpoints/b"), "a"]) == 0
    paths = [tmp_path / "checkpoints" / name / "report.html" for name in ("a", "b")]
    assert capsys.readouterr().out.split() == [str(each) for each in paths]
    assert "Run a" in Page(paths[0].read_text()).texts


def test_several_runs_share_a_page_with_links_that_lead_somewhere(tmp_path: Path) -> None:
    gan(tmp_path)
    classifier(tmp_path)
    study(tmp_path)
    made = page(tmp_path, "g", "c", "grid")
    targets = {value[1:] for value in made.values("a", "href") if value.startswith("#")}
    marks = [value for tag, name, value in made.attributes if name == "id"]
    assert {anchor(name) for name in ("g", "c", "grid")} <= targets <= {*marks}
    assert len(marks) == len(set(marks))
    assert page(tmp_path, "g").values("a", "href") == []


@pytest.mark.parametrize("names", [["g"], ["c"], ["grid"], ["g", "c", "grid"]])
def test_headings_are_in_order_and_nothing_comes_from_elsewhere(
    tmp_path: Path, names: list[str]
) -> None:
    gan(tmp_path)
    classifier(tmp_path)
    study(tmp_path)
    made = page(tmp_path, *names)
    text = (tmp_path / "page.html").read_text()
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert not made.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert all(value.startswith("data:image/") for value in made.values("img", "src"))
    assert all(made.values("img", "alt"))
    assert len(made.values("img", "alt")) == len(made.values("img", "src"))
    pictures = [value for value in made.values("svg", "role") if value == "img"]
    assert len(pictures) + len(made.values("svg", "aria-hidden")) == text.count("<svg")
    assert text.count("<title>") == 1 + len(pictures)
    assert made.values("html", "lang") == ["en"]
    (policy,) = [value for value in made.values("meta", "content") if "default-src" in value]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_gan_shows_scores_with_floor_and_protocol_grids_dynamics_and_gates(
    tmp_path: Path,
) -> None:
    gan(tmp_path)
    made = page(tmp_path, "g")
    assert "Done at step 400 of 400" in made.text
    assert "msngan fit --config cifar_msn --run g" in made.text
    assert f"msngan sample g --root {tmp_path}" in made.text
    assert "msngan resume" not in made.text
    # last, sd, drawings, its step, best, its step, floor
    fd = ["fd", "ema", "12.5", "0.2", "5", "400", "12.5", "400", "0.11 (real-vs-real)"]
    assert row(made, "fd") == fd
    assert row(made, "fid")[2] == "31.5"
    assert "embedded extractor: not comparable with published FID" in made.text
    assert ["reference_sha256", "ab" * 32] in made.rows
    alts = [f"samples of g at step {step}" for step in (0, 100, 300, 400)]
    assert made.values("img", "alt") == ["real images that g is trained on", *alts]
    assert row(made, "body.0", "2") == ["body.0", "2", "50", "150", "off"]
    assert row(made, "processor") == ["processor", "AMD EPYC"]
    assert row(made, "model.norm") == ["model.norm", '"optional_spectral"', '"mean_spectral"']
    assert not [each for each in made.rows if each[0] == "model.loss" and len(each) == 3]
    assert any("norm: optional_spectral" in text for text in made.texts)  # the whole config
    titles = [text for text in made.texts if text.startswith("Losses. ")]
    assert "critic_loss from 1.35 at step 50 to 1 at 400, lowest 1, highest 1.35" in titles[0]
    assert "generator_lr 0.0002 throughout" in made.text


def test_the_dynamics_table_has_the_first_and_last_value_of_every_layer(tmp_path: Path) -> None:
    gan(tmp_path)
    made = page(tmp_path, "g")
    # Six measurements: (t + 1) / 10 + i / 100; the first has no gradients.
    gradient, other = ["0.21", "0.61"], ["0.11", "0.61"]
    expected = ["critic.body.1", "16 x 8 x 3 x 3", *gradient, *gradient, *(4 * other)]
    assert row(made, "critic.body.1") == expected
    assert row(made, "generator.last")[6:8] == ["–", "–"]
    titles = [text for text in made.texts if text.startswith("Operator norm. ")]
    assert len(titles) == 2
    assert "body.1 from 0.11 at step 0 to 0.61 at 500" in titles[0]
    assert any(text.startswith("stem. step 0 from 1 at") for text in made.texts)
    assert any("Spectral complexity. critic from 12.5" in text for text in made.texts)


def test_a_classifier_quotes_the_epoch_that_the_validation_images_chose(tmp_path: Path) -> None:
    classifier(tmp_path)
    made = page(tmp_path, "c")
    assert "Done at step 40 (budget: 4 epochs)" in made.text
    assert row(made, "best by validation")[1:] == ["2", "20", "99.00 %", "95.00 %", "93.00 %"]
    assert row(made, "last")[1:] == ["4", "40", "99.00 %", "95.00 %", "92.00 %"]
    assert row(made, "highest on test (not to be quoted)")[1] == "3"
    quoted = [text for text in made.texts if text.startswith("May be quoted")]
    assert "test accuracy 93.00 % at epoch 2, chosen by the validation images" in quoted[0]
    # Wilson's interval of 930 of 1000
    assert "over 1,000 test images: 91.25 % to 94.42 %" in quoted[0]
    assert "best by validation: epoch 2" in made.text
    assert "There is no dynamics.npz" in made.text
    assert "Samples" not in made.texts
    assert row(made, "model.lr") == ["model.lr", "0.0001", "0.001"]


def test_without_validation_images_the_last_epoch_is_quoted(tmp_path: Path) -> None:
    classifier(tmp_path, epochs=[(epoch, None, test) for epoch, _, test in EPOCHS])
    made = page(tmp_path, "c")
    assert "test accuracy 92.00 % at epoch 4, the last, as no image is held out" in made.text
    assert not [each for each in made.rows if each[:1] == ["best by validation"]]


def test_a_run_that_is_not_done_has_nothing_to_quote_yet(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    for remains in ("diverged", None):
        (folder / "result.json").unlink()
        if remains:
            (folder / "result.json").write_text(json.dumps({"status": remains, "step": 40}))
        made = page(tmp_path, "c")
        assert "May be quoted" not in made.text
        assert "So far, and not to be quoted before the run is done: test accuracy" in made.text


def test_the_interval_is_wilsons() -> None:
    # By hand for 8 of 10: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10), z = 1.959964
    assert interval(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert interval(1.0, 100) == pytest.approx((0.963007, 1.0), abs=1e-6)
    assert interval(0.0, 100) == pytest.approx((0.0, 0.036993), abs=1e-6)


@pytest.mark.parametrize(
    ("right", "test", "images"),
    [([90] * 10, 0.9, 1000), ([90, 80, 30], 200 / 257, 257), ([0, 0], 0.0, 200)],
)
def test_the_number_of_test_images_follows_from_the_counts(
    right: list[int], test: float, images: int
) -> None:
    line = {**accuracy_line(1, 0.5, test), "test_right": right}
    assert accuracy.epochs([line])[0].images == images


@pytest.mark.parametrize("right", [None, [], [101], ["90"], [90, -1], [10, 10, 10]])
def test_counts_that_cannot_be_give_no_number_of_images(right: object) -> None:
    line = {**accuracy_line(1, 0.5, 0.9), "test_right": right}
    assert accuracy.epochs([line])[0].images is None


def test_a_study_shows_its_table_its_arms_and_each_run(tmp_path: Path) -> None:
    study(tmp_path)
    made = page(tmp_path, "grid")
    assert "8 runs: 6 done, 1 diverged, 1 to do" not in made.text  # one is stopped
    assert "8 runs: 5 done, 1 diverged, 1 part, 1 to do" in made.text
    assert f"msngan study grid --root {tmp_path}" in made.text
    # none at lr 0.01: seeds end at 0.84 and 0.85
    none = [each for each in made.rows if each[:1] == ["none"]]
    assert none[0][1] == "84.50±0.71"
    assert any("+1.00" in each and "lr 0.01" in each for each in made.rows)  # msn - none, seed 0
    titles = [text for text in made.texts if re.match(r"Test accuracy, lr [0-9.]+\. ", text)]
    assert len(titles) == 2
    assert "none from 0.815 at epoch 1 to 0.845 at 4" in titles[0]
    # msn at lr 0.001 has one run of two, which diverged after its second epoch
    assert "msn (1 of 2 seeds) from 0.82 at epoch 1 to 0.83 at 2" in titles[1]
    links = [value[1:] for value in made.values("a", "href")]
    assert links == made.values("details", "id")
    assert len(links) == 7
    ways = ["msn", "lr 0.001"]
    assert row(made, "grid-msn-lr0.001-s1") == ["grid-msn-lr0.001-s1", *ways, "1", "", "to do"]
    assert row(made, "", *ways)[-1].endswith("the loss is no number")
    newest = ["none", "lr 0.01", "1", "test 85.00 % at epoch 4 of 4"]
    assert row(made, "", *newest)[-1] == "done at step 40 (budget: 4 epochs)"


def test_a_study_is_shown_from_results_json_where_there_is_no_study_yaml(tmp_path: Path) -> None:
    folder = study(tmp_path)
    from msngan.commands.study import main as study_command

    assert study_command(["grid", "--root", str(tmp_path), "--table", "--format", "csv"]) == 0
    epochs = [{"epoch": 1.0, "test_accuracy": 0.5}, {"epoch": "x", "test_accuracy": 1}]
    child = {"run": "gone", "row": "r", "column": "", "seed": 3, "state": "done", "epochs": epochs}
    saved = {"format": 1, "task": "classifier", "command": "msngan study t.yaml"}
    for broken in ({}, {"children": "x"}, {"children": [1, {"run": 2}, child], "cells": 7}):
        (folder / "study.yaml").unlink(missing_ok=True)
        (folder / "results.json").write_text(json.dumps({**saved, **broken}))
        made = page(tmp_path, "grid")
        assert "there is no study.yaml" in made.text
        assert "the tables are left out" in made.text
        assert "msngan study t.yaml" in made.text
    assert row(made, "gone") == ["gone", "r", "", "3", "", "done"]
    assert any("r from 0.5 at epoch 1" in text for text in made.texts)


def test_a_run_that_says_nothing_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "bare"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: bare\nsteps: 100\n")
    made = page(tmp_path, "bare")
    for part in (
        "Unfinished at step 0 of 100",
        f"msngan resume bare --root {tmp_path}",
        "There are no sample grids",
        "msngan evaluate bare",
        "There is no metrics.jsonl",
        "There is no dynamics.npz",
        "There is no environment.json",
    ):
        assert part in made.text
    (folder / "config.yaml").unlink()
    (folder / "environment.json").write_text("{}")
    assert "There is no config.yaml" in page(tmp_path, "bare").text
    (folder / "config.yaml").write_text("task: classifier\nepochs: 3\n")
    assert "There is no accuracy.jsonl" in page(tmp_path, "bare").text


@pytest.mark.parametrize(
    ("status", "part", "command"),
    [
        ("diverged", "Diverged at step 25 (budget: 4 epochs): lr too high", "msngan fit --config"),
        ("collapsed", "Collapsed at step 25", "msngan fit --config"),
        ("done", "Done at step 25", "msngan report c"),
    ],
)
def test_the_state_and_the_next_command_follow_from_the_result(
    tmp_path: Path, status: str, part: str, command: str
) -> None:
    folder = classifier(tmp_path)
    result = {"format": 1, "status": status, "step": 25, "reason": "lr too high"}
    (folder / "result.json").write_text(json.dumps(result))
    made = page(tmp_path, "c")
    assert part in made.text
    assert command in made.text
    assert "msngan resume" not in made.text


FILES = ("result.json", "environment.json", "metrics.jsonl", "accuracy.jsonl", "scores.jsonl")
BAD = {
    "empty": b"",
    "no text": bytes(range(256)),
    "a list": b"[1, 2]",
    "nested": b"[" * 100_000,
    "a number of many digits": b'{"step": ' + b"9" * 5000 + b"}",
    "null": b"null",
}


@pytest.mark.parametrize("kind", BAD)
def test_damaged_records_leave_a_page(tmp_path: Path, kind: str) -> None:
    folder = gan(tmp_path)
    for name in (*FILES, "gates.jsonl", "dynamics.npz", "config.yaml"):
        (folder / name).write_bytes(BAD[kind])
    (tmp_path / "samples/g/real.png").write_bytes(BAD[kind])
    made = page(tmp_path, "g")
    assert "real.png left out" in made.text
    assert "The dynamics are left out" in made.text
    assert "Run g" in made.text


def test_folders_and_pipes_in_place_of_records_are_not_waited_for(tmp_path: Path) -> None:
    folder = gan(tmp_path)
    for name in (*FILES, "gates.jsonl", "dynamics.npz"):
        (folder / name).unlink(missing_ok=True)
        (os.mkfifo if hasattr(os, "mkfifo") else os.mkdir)(folder / name)
    assert "Run g" in page(tmp_path, "g").text


def test_text_from_files_stays_text(tmp_path: Path) -> None:
    name = "<b onclick=x>&amp;'\""
    folder = tmp_path / "checkpoints" / name
    folder.mkdir(parents=True)
    config = {"task": "gan", "steps": 10, "model": {"norm": HOSTILE, HOSTILE: HOSTILE}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {"format": 1, "status": HOSTILE, "step": 10, "reason": HOSTILE}
    (folder / "result.json").write_text(json.dumps(result))
    environment = {"command": HOSTILE, "config": HOSTILE, HOSTILE: HOSTILE}
    (folder / "environment.json").write_text(json.dumps(environment))
    lines(folder / "metrics.jsonl", [{"step": s, HOSTILE: s, "loss": s} for s in (1, 2)])
    gate = {"step": 1, "layer": HOSTILE, "on": True, "criterion": HOSTILE, "sigma": 1}
    lines(folder / "gates.jsonl", [gate])
    scored = score_line(None, dataset=HOSTILE, extractor="</style></title>" + HOSTILE, name=HOSTILE)
    scored["scores"][FD]["reason"] = HOSTILE
    lines(folder / "scores.jsonl", [scored, score_line(protocol_id=HOSTILE), HOSTILE])
    path = grid(tmp_path, "x", "step-00000010.png")
    path.parent.rename(path.parent.with_name(name))
    made = page(tmp_path, str(folder))
    assert made.text.count(HOSTILE) > 10
    assert name in made.text
    assert made.values("img", "alt") == [f"samples of {name} at step 10"]
    assert not made.tags & {"script", "b"}
    assert not [each for _, each, _ in made.attributes if each.startswith("on")]
    assert all("x.example" not in value or each == "alt" for _, each, value in made.attributes)
    hostile = {"run": HOSTILE, "row": HOSTILE, "column": HOSTILE, "seed": HOSTILE}
    hostile |= {"state": HOSTILE, "epochs": [{"epoch": 1, "test_accuracy": 0.5}]}
    folder = tmp_path / "checkpoints" / "s"
    folder.mkdir()
    results = {"task": HOSTILE, "command": HOSTILE, "children": [hostile]}
    (folder / "results.json").write_text(json.dumps(results))
    made = page(tmp_path, "s")
    assert made.text.count(HOSTILE) > 5
    assert not made.tags & {"script", "b"}
    assert made.values("img", "src") == []


def test_a_huge_run_has_a_page_of_less_than_two_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gan(tmp_path)
    record = {f"figure_{number}": 0.123456789 for number in range(15)}
    lines(folder / "metrics.jsonl", [{"step": step, **record} for step in range(30_000)])
    lines(
        folder / "gates.jsonl",
        [{"step": s, "layer": f"l{s % 999}", "on": s % 2 == 0, "sigma": 1.5} for s in range(9999)],
    )
    picture = grid(tmp_path, "g", "step-00001000.png").read_bytes()
    for step in range(1001, 1200):
        (tmp_path / f"samples/g/step-{step:08d}.png").write_bytes(picture)
    made = page(tmp_path, "g")
    assert (tmp_path / "page.html").stat().st_size < 2 * 2**20
    assert len(made.values("img", "src")) == 5
    assert "metrics.jsonl: 1 of 2 of its 30,000 lines is read" in made.text
    monkeypatch.setattr(grids, "MOST_BYTES", 1)
    budget = grids.Budget(1)
    assert "left out" in budget.picture(tmp_path / "samples/g/real.png", "w", "c")


def test_pictures_and_layers_are_chosen_evenly_with_the_first_and_the_last() -> None:
    found = [(step, Path()) for step in range(0, 1100, 100)]
    assert [step for step, _ in grids.chosen(found)] == [0, 300, 700, 1000]
    assert grids.chosen(found[:3]) == found[:3]
    assert dynamics.picked([*range(100)], 5) == [0, 25, 50, 74, 99]
    assert dynamics.picked([3, 4], 5) == [3, 4]


@pytest.mark.parametrize("task", ["gan", "classifier"])
def test_the_defaults_are_those_of_the_parser(task: str) -> None:
    from msngan.training.options import parse

    config = json.loads(json.dumps(parse(["--task", task]).config.as_dict(), default=str))
    assert defaults.differences(config, task) == []
    assert {"model", "data", "trainer"} <= {*defaults.of_task(task)}


def test_each_option_that_is_not_at_its_default_is_listed_with_it() -> None:
    config = {
        "task": "classifier",
        "run": "x",
        "epochs": 3,
        "seed": 0,
        "model": {"network": "cnn3", "norm": "none", "betas": [0.9, 0.99], "depth": None},
        "trainer": {"precision": "64-true"},
        "unheard": {"of": 1},
    }
    assert defaults.differences(config, "classifier") == [
        ("epochs", "3", "10"),
        ("model.norm", '"none"', '"mean_spectral"'),
        ("model.betas", "[0.9, 0.99]", "[0.9, 0.999]"),
        ("trainer.precision", '"64-true"', '"32-true"'),
        ("unheard.of", "1", "–"),
    ]


def test_an_unknown_name_or_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    classifier(tmp_path, "mnist-s0")
    for argv, part in (
        (["mnist_s0"], "no run or study 'mnist_s0' in .*did you mean 'mnist-s0'"),
        (["../x"], "no run or study"),
        (["mnist-s0", "--out", str(tmp_path)], "--out .*directory"),
    ):
        with pytest.raises(UserError, match=part):
            main(["--root", str(tmp_path), *argv])
    (tmp_path / "checkpoints" / "empty").mkdir()
    with pytest.raises(UserError, match="holds no record"):
        main(["--root", str(tmp_path), "empty"])


def test_a_report_imports_no_torch(tmp_path: Path) -> None:
    gan(tmp_path)
    classifier(tmp_path)
    study(tmp_path)
    code = (
        "import sys; from msngan.commands.report import main; main(sys.argv[1:])\n"
        "print(*[n for n in ('torch', 'pytorch_lightning', 'torchvision') if n in sys.modules])"
    )
    names = ["g", "c", "grid", "--root", str(tmp_path), "--out", str(tmp_path / "page.html")]
    shown = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(tmp_path / "page.html")]
    assert shown.stderr == ""
