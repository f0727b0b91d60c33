"""The pages of `msngan report`, as a parser sees them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from report_runs import (
    EPOCHS,
    HOSTILE,
    Page,
    accuracy_line,
    classifier,
    dynamics,
    folder_of,
    gan,
    grid,
    lines,
    scores_over,
    study,
)
from score_lines import FD, official, score_line, write_run
from test_architecture import loaded_after

from msngan.__main__ import main as msngan
from msngan.commands.report import main
from msngan.report.figures.arms import runs_of
from msngan.report.html import document, pictures, results_section, runs_page
from msngan.report.html.records import find
from msngan.report.html.results_section import interval
from msngan.report.html.run_section import GROUPS, changed_options
from msngan.runs.configs import find_config
from msngan.runs.folder import UserError
from msngan.runs.jsonl import Lines
from msngan.training.dynamics import write

Captured = pytest.CaptureFixture[str]


def page(root: Path, *names: str) -> Page:
    path = root / "page.html"
    assert main(["--root", str(root), "--out", str(path), *names]) == 0
    return Page(path)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GAN g, a classifier c and a study `grid`; nothing may be changed in it."""
    root = tmp_path_factory.mktemp("three")
    for make in (gan, classifier, study):
        make(root)
    return root


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Two configs of two seeds each, scored under two protocols, and a run without scores."""
    for name, shift in (("msn", 0.0), ("sn", 2.0)):
        for seed in (0, 1):
            scores = scores_over((100, 200, 300), 5000, shift + seed / 10)
            run = f"{name}-s{seed}"
            write_run(tmp_path, run, *scores, official(30 + shift), of=name, seed=seed)
            grid(tmp_path, run, "step-00000300.png")
    (write_run(tmp_path, "bare", "{") / "last.ckpt").touch()
    return tmp_path


@pytest.mark.quick
def test_a_page_goes_to_the_folder_of_its_run_and_its_path_is_printed(tmp_path, capsys):
    for name in ("a", "b"):
        classifier(tmp_path, name)
    assert main(["--root", str(tmp_path), "a", str(tmp_path / "checkpoints/b"), "a"]) == 0
    assert main(["--root", str(tmp_path)]) == 0
    folder = tmp_path / "checkpoints"
    paths = [folder / "a/report.html", folder / "b/report.html", folder / "report.html"]
    assert capsys.readouterr().out.split() == [str(each) for each in paths]
    assert "Run a" in Page(paths[0]).texts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("mnist_s0", "did you mean 'mnist-s0'"),
        ("../x", "no run or study"),
        ("mnist-s0 --out .", "'.' cannot be written: "),
        ("--out mnist/x.html", "'mnist/x.html' cannot be written: "),
        ("empty", "holds no record"),
        ("--root none", "--root 'none'"),
        ("--root new", "msngan fit --config digits_msn.yaml"),
    ],
)
def test_an_unknown_name_or_an_unwritable_place_is_one_line(tmp_path, refused, arguments, words):
    classifier(tmp_path, "mnist-s0")
    (tmp_path / "checkpoints/empty").mkdir()
    (tmp_path / "mnist").write_text("")
    (tmp_path / "new").mkdir()
    assert words in refused("report", *arguments.split())


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    classifier(tmp_path)
    before = page(tmp_path, "c").source

    def full(path: Path, *_: object, **__: object) -> int:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"page.html' cannot be written: No space left on d"):
        page(tmp_path, "c")
    assert Page(tmp_path / "page.html").source == before
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["page.html"]


@pytest.mark.parametrize("names", [["g"], ["c"], ["grid"], ["g", "c", "grid"], []])
def test_a_page_stands_alone_with_headings_in_order_and_links_that_lead_somewhere(three, names):
    made = page(three, *names)
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", made.source)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert not made.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, name, _ in made.attributes if name.startswith("on")]
    assert "url(" not in made.source
    assert "@import" not in made.source
    assert "prefers-color-scheme: dark" in made.source
    assert made.values("html", "lang") == ["en"]
    (policy,) = [value for value in made.values("meta", "content") if "default-src" in value]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for tag, name, value in made.attributes:
        assert "://" not in value or ((tag, name) == ("a", "href") and value.startswith("https://"))
    assert all(value.startswith("data:image/") for value in made.values("img", "src"))
    assert all(made.values("img", "alt"))
    assert len(made.values("img", "alt")) == len(made.values("img", "src"))
    charts = [value for value in made.values("svg", "role") if value == "img"]
    assert len(charts) + len(made.values("svg", "aria-hidden")) == made.source.count("<svg")
    assert made.source.count("<title>") == 1 + len(charts)
    targets = {value[1:] for value in made.values("a", "href") if value.startswith("#")}
    marks = [value for _, name, value in made.attributes if name == "id"]
    assert {document.anchor(name) for name in names[1:]} <= targets <= {*marks}
    assert len(marks) == len({*marks})
    styled = re.findall(r"\.([a-z][a-z0-9]*)", made.source.partition("</style>")[0])
    used = {word for _, name, value in made.attributes if name == "class" for word in value.split()}
    assert used - {"d0", "chart", "note"} <= {*styled}


def test_a_page_imports_neither_torch_nor_rich(three):
    loaded = loaded_after("report", "g", "c", "grid", "--root", three, "--out", three / "page.html")
    assert not loaded & {"torch", "pytorch_lightning", "torchvision", "rich", "matplotlib"}
    assert "jinja2" in loaded


@pytest.mark.quick
def test_a_gan_shows_its_commands_scores_with_protocol_grids_dynamics_and_gates(three):
    made = page(three, "g")
    assert "Done at step 400 of 400" in made.text
    commands = "fit --config cifar_msn --run g", "resume g --steps 400", "evaluate g"
    assert "\n".join(f"msngan {each}" for each in commands) in made.texts
    assert f"msngan sample g --root {three}" in made.text
    scores = ["1", "g", "ema", "12.50±0.20", "400", "12.50±0.20", "400", "5.40±0.10"]
    assert scores in made.rows
    assert made.row("", "real data (real-vs-real)")[3] == "0.1100"
    assert any("31.50±0.20" in each for each in made.rows)
    assert "not comparable with published FID" in made.text
    assert ["reference_sha256", "ab" * 32] in made.rows
    alts = [f"samples of g at step {step}" for step in (0, 100, 300, 400)]
    assert made.values("img", "alt") == ["real images that g is trained on", *alts]
    assert made.row("body.0", "2") == ["body.0", "2", "50", "150", "off"]
    assert made.row("processor") == ["processor", "AMD EPYC"]
    assert made.row("model.norm") == ["model.norm", '"optional_spectral"', '"mean_spectral"']
    assert not [each for each in made.rows if each[0] == "model.loss" and len(each) == 3]
    assert any("norm: optional_spectral" in text for text in made.texts)  # the whole config
    titles = [text for text in made.texts if text.startswith("Losses. ")]
    assert "critic_loss from 1.35 at step 50 to 1 at 400, lowest 1, highest 1.35" in titles[0]
    assert "generator_lr 0.0002" in made.text


def test_all_losses_and_penalties_of_a_step_are_in_one_chart():
    (losses,) = (pattern for title, _, pattern, _ in GROUPS if title == "Losses")
    names = ["critic_loss", "generator_loss", "loss", "penalty", "penalty_r1", "penalty_lecam"]
    names += ["real_class_loss", "fake_class_loss", "generator_class_loss"]
    assert [name for name in names if not re.fullmatch(losses, name)] == []
    assert not re.fullmatch(losses, "augment_probability")


def test_the_dynamics_table_has_the_first_and_last_value_of_every_layer(three):
    made = page(three, "g")
    # Six measurements: (t + 1) / 10 + i / 100; the first has no gradients.
    gradient, other = ["0.21", "0.61"], ["0.11", "0.61"]
    expected = ["critic.body.1", "16 x 8 x 3 x 3", *gradient, *gradient, *(4 * other)]
    assert made.row("critic.body.1") == expected
    assert made.row("generator.last")[6:8] == ["–", "–"]
    titles = [text for text in made.texts if text.startswith("Operator norm. ")]
    assert len(titles) == 2
    assert "body.1 from 0.11 at step 0 to 0.61 at 500" in titles[0]
    assert any(text.startswith("stem. step 0 from 1 at") for text in made.texts)
    assert any("Spectral complexity. critic from 12.5" in text for text in made.texts)


@pytest.mark.parametrize("status", ["done", "diverged", "running"])
def test_a_classifier_quotes_the_epoch_that_the_validation_images_chose(tmp_path, status):
    folder = classifier(tmp_path)
    if status == "diverged":
        (folder / "result.json").write_text('{"status": "diverged", "step": 40}')
    if status == "running":
        (folder / "result.json").unlink()
    made = page(tmp_path, "c")
    (quoted,) = [text for text in made.texts if "test accuracy" in text]
    begins = "The number to quote: " if status == "done" else "So far (do not quote it before"
    assert quoted.startswith(begins)
    assert "test accuracy 93.00 % at epoch 2, chosen by the validation images" in quoted
    # Wilson's interval of 930 of 1000
    assert "over 1,000 test images: 91.25 % to 94.42 %" in quoted
    assert made.row("best by validation")[1:] == ["2", "20", "99.00 %", "95.00 %", "93.00 %"]
    assert made.row("last")[1:] == ["4", "40", "99.00 %", "95.00 %", "92.00 %"]
    assert made.row("highest on test (do not quote)")[1] == "3"
    assert made.row("model.lr") == ["model.lr", "0.0001", "0.001"]
    assert "best by validation: epoch 2" in made.text
    assert "There is no dynamics.npz" in made.text
    assert "Samples" not in made.texts


def test_a_classifier_without_validation_images_quotes_its_last_epoch(tmp_path):
    classifier(tmp_path, epochs=[(epoch, None, test) for epoch, _, test in EPOCHS])
    made = page(tmp_path, "c")
    (quoted,) = [text for text in made.texts if "test accuracy" in text]
    assert "test accuracy 92.00 % at epoch 4, the last, as no images are held out" in quoted
    assert not [each for each in made.rows if each[:1] == ["best by validation"]]


def test_the_interval_is_wilsons_over_the_images_that_follow_from_the_counts():
    # By hand for 8 of 10: (0.8 + z²/20 ± z √(0.016 + z²/400)) / (1 + z²/10), z = 1.959964
    assert interval(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert interval(1.0, 100) == pytest.approx((0.963007, 1.0), abs=1e-6)
    found = [([90] * 10, 0.9, 1000), ([90, 80, 30], 200 / 257, 257), ([0, 0], 0.0, 200)]
    found += [(bad, 0.9, None) for bad in (None, [], [101], ["90"], [90, -1], [10, 10, 10])]
    for right, test, images in found:
        line = {**accuracy_line(1, 0.5, test), "test_right": right}
        assert results_section.epochs(Lines([line]))[0].images == images


@pytest.mark.parametrize(
    ("status", "part", "command"),
    [
        ("diverged", "Diverged at step 25 (budget: 4 epochs): lr too high", "msngan fit --config"),
        ("collapsed", "Collapsed at step 25", "msngan fit --config"),
        ("done", "Done at step 25", "msngan report c"),
    ],
)
def test_the_state_and_the_next_command_follow_from_the_result(tmp_path, status, part, command):
    folder = classifier(tmp_path)
    typed = f"msngan resume c {200 * '--data.mirror true '}"  # all that an older version recorded
    (folder / "environment.json").write_text(json.dumps({"command": typed}))
    result = {"format": 1, "status": status, "step": 25, "reason": "lr too high"}
    (folder / "result.json").write_text(json.dumps(result))
    made = page(tmp_path, "c")
    assert part in made.text
    assert command in made.text
    assert typed in made.texts
    assert "msngan resume c --root" not in made.text


@pytest.mark.quick
def test_a_run_without_records_has_a_page_that_says_what_is_missing(tmp_path):
    folder = tmp_path / "checkpoints" / "bare"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: bare\nsteps: 100\n")
    made = page(tmp_path, "bare")
    assert "Unfinished at step 0 of 100" in made.text
    assert "There are no sample grids" in made.text
    for command in ("resume", "evaluate"):
        assert f"msngan {command} bare --root {tmp_path}" in made.text
    for name in ("metrics.jsonl", "dynamics.npz", "environment.json"):
        assert f"There is no {name}" in made.text
    assert "The command that made it is not recorded in environment.json" in made.text
    (folder / "config.yaml").unlink()
    (folder / "environment.json").write_text("{}")
    assert "There is no config.yaml" in page(tmp_path, "bare").text
    (folder / "config.yaml").write_text("task: classifier\nepochs: 3\n")
    assert "There is no accuracy.jsonl" in page(tmp_path, "bare").text


def test_a_study_shows_its_table_its_arms_and_each_run(three):
    made = page(three, "grid")
    assert "8 runs: 5 done, 1 diverged, 1 part, 1 to do" in made.text
    assert f"msngan study grid --root {three}" in made.text
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
    assert sorted(links) == sorted(made.values("section", "id"))
    assert len(links) == 7
    ways = ["msn", "lr 0.001"]
    name = "grid-msn-lr0.001-s"
    assert made.row(f"{name}1") == [f"{name}1", *ways, "1", "", "to do"]
    assert made.row(f"{name}0")[-1].endswith("the loss is no number")
    newest = ["none", "lr 0.01", "1", "test 85.00 % at epoch 4 of 4"]
    ended = "Done at step 40 (budget: 4 epochs)"
    assert made.row("grid-none-lr0.01-s1")[1:] == [*newest, ended]


def test_a_study_of_gans_shows_their_ranking_their_curves_and_its_comparisons(tmp_path):
    text = "config: digits_msn\narms: {sn: {model.norm: spectral}, none: {model.norm: none}}\n"
    plan = tmp_path / "checkpoints/s/study.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text(text + "grid: {seed: [0, 1]}\ncompare: [[sn, none]]\n")
    base = yaml.safe_load(find_config("digits_msn").read_text())
    for seed in (0, 1):
        for row, norm, shift in (("sn", "spectral", 0.0), ("none", "none", 9.0)):
            config = {**base, "seed": seed, "model": {**base["model"], "norm": norm}}
            folder = folder_of(tmp_path, f"s-{row}-s{seed}", config, status="done", step=200)
            lines(folder / "scores.jsonl", scores_over((100, 200), 5000, shift + seed / 10))
    made = page(tmp_path, "s")
    assert "A better" in made.text
    assert "seeds pooled" in made.text
    assert any("s-none-s0 (ema) from 59 at step 100 to 34 at 200" in each for each in made.texts)
    assert made.row("s-sn-s1")[-2] == "fd 25.1 at step 200 (ema)"


def test_a_study_is_named_by_its_file_too_as_study_takes_it(tmp_path, refused):
    folder = study(tmp_path)
    text = (folder / "study.yaml").read_text()
    for name in ("grid", "other"):
        (tmp_path / f"{name}.yaml").write_text(text)
    for target in ("grid.yaml", str(tmp_path / "grid.yaml"), str(folder / "study.yaml")):
        found, is_study = find(target, tmp_path)
        assert (found.folder.resolve(), is_study) == (folder.resolve(), True)
        assert [run.name for run in runs_of(target, tmp_path)] == [
            run.name for run in runs_of("grid", tmp_path)
        ]
    for command in ("report", "figures"):
        said = refused(command, "other.yaml")
        assert "study 'other' has not begun in checkpoints; start it: msngan study other" in said
        assert "no run or study 'digits_msn.yaml'" in refused(command, "digits_msn.yaml")


def test_a_study_shows_the_command_that_made_it_and_why_it_cannot_be_read(tmp_path):
    folder = study(tmp_path)
    assert "The command that made it is not recorded" in page(tmp_path, "grid").text
    (folder / "results.json").write_text('{"command": "msngan study t.yaml"}')
    assert "msngan study t.yaml" in page(tmp_path, "grid").texts
    (folder / "study.yaml").write_text("arms: [")
    assert "the study cannot be read: " in page(tmp_path, "grid").text


def test_the_page_of_all_runs_shows_what_the_leaderboard_prints(ranked, capsys):
    made = page(ranked)
    capsys.readouterr()
    assert msngan(["leaderboard", "--root", str(ranked), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    tables = [
        [cell.replace("\\", "").strip() for cell in line.strip("|").split(" | ")]
        for line in printed.splitlines()
        if line.startswith("| ")
    ]
    shown = [[cell.strip() for cell in row] for row in made.rows]
    assert len(tables) > 20
    assert [row for row in tables if row not in shown] == []
    for line in printed.splitlines():
        if line.startswith(("### ", "- ")) and "http" not in line:
            assert line.lstrip("#- ").replace("\\", "") in made.text
    assert "msngan evaluate bare" in made.text
    assert "scores.jsonl: line 1 is not" in made.text
    assert "https://arxiv.org/abs/1907.04003" in made.values("a", "href")
    assert msngan(["leaderboard", "--root", str(ranked), "--html", str(ranked / "b.html")]) == 0
    written = re.compile(r"Written \S+")
    assert written.sub("", Page(ranked / "b.html").source) == written.sub("", made.source)
    argv = ["leaderboard", "--root", str(ranked), "--html", str(ranked / "c.html")]
    assert msngan([*argv, "--compare", "msn", "sn"]) == 0
    compared = Page(ranked / "c.html")
    header = ["metric", "pairs", "step", "mean A", "mean B", "A - B", "verdict", "sd", "95 % CI"]
    assert header in compared.rows
    assert "A better" in compared.text
    assert "seeds pooled" in compared.text


def test_the_page_of_all_runs_has_a_chart_and_the_last_grid_of_each(ranked, monkeypatch):
    classifier(ranked)
    made = page(ranked)
    names = ("msn-s0", "msn-s1", "sn-s0", "sn-s1")
    assert made.values("img", "alt") == [f"samples of {run} at step 300" for run in names]
    titles = [text for text in made.texts if text.startswith(f"{FD}. ")]
    assert "msn-s0 (ema) from 50 at step 100 to 16.67 at 300" in titles[0]
    assert "real data at 0.11" in titles[0]
    assert made.row("c")[1] == "test 93.00 % at epoch 2 of 4"
    whole = made.values("img", "src")
    monkeypatch.setattr(runs_page, "MOST_BYTES_OF_ALL", len(whole[0]) + len(whole[1]))
    made = page(ranked)
    assert made.values("img", "src") == whole[:2]
    assert made.text.count("step-00000300.png left out: the pictures of this page already") == 2


FILES = ("result.json", "environment.json", "metrics.jsonl", "accuracy.jsonl", "scores.jsonl")
BAD = {
    "empty": b"",
    "no text": bytes(range(256)),
    "a list": b"[1, 2]",
    "nested": b"[" * 100_000,
    "no group": b"model: x\ndata: [1]\n",
    "a number of many digits": b'{"step": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("kind", [*BAD, "a pipe"])
def test_damaged_records_leave_a_page(tmp_path, kind):
    folder = gan(tmp_path)
    config = ["config.yaml"] if kind in BAD else []  # a page needs one record to be found
    for name in (*FILES, "gates.jsonl", "dynamics.npz", *config):
        (folder / name).unlink(missing_ok=True)
        if kind == "a pipe":  # nobody writes to it, so nobody may wait for it
            os.mkfifo(folder / name)
        else:
            (folder / name).write_bytes(BAD[kind])
    (tmp_path / "samples/g/real.png").write_bytes(BAD.get(kind, b""))
    made = page(tmp_path, "g")
    assert "real.png left out" in made.text
    assert "Run g" in made.text
    assert kind == "a pipe" or "The dynamics are left out" in made.text
    page(tmp_path)


def hostile_run(root: Path, name: str) -> Path:
    """Markup in every text of every record."""
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    config = {"task": "gan", "steps": 10, "model": {"norm": HOSTILE, HOSTILE: HOSTILE}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 0, "data": {}}))
    result = {"format": 1, "status": HOSTILE, "step": 10, "reason": HOSTILE}
    (folder / "result.json").write_text(json.dumps(result))
    commands = [{"command": HOSTILE, "time": HOSTILE}, {"command": 7}, HOSTILE]
    environment = {"command": HOSTILE, "commands": commands, "config": HOSTILE, HOSTILE: HOSTILE}
    (folder / "environment.json").write_text(json.dumps(environment))
    lines(folder / "metrics.jsonl", [{"step": s, HOSTILE: s, "loss": s} for s in (1, 2)])
    gate = {"step": 1, "layer": HOSTILE, "on": True, "criterion": HOSTILE, "sigma": 1}
    lines(folder / "gates.jsonl", [gate])
    write(folder / "dynamics.npz", dynamics(layers=(f"critic.{HOSTILE}", f"{HOSTILE}.x")))
    scored = score_line(None, dataset=HOSTILE, extractor="</style></title>" + HOSTILE, name=HOSTILE)
    scored["scores"][FD]["reason"] = HOSTILE
    other = score_line(7.0, dataset="https://x.example/", protocol_id=HOSTILE)
    lines(folder / "scores.jsonl", [scored, other, HOSTILE])
    path = grid(root, "x", "step-00000010.png")
    path.parent.rename(path.parent.with_name(name))
    return folder


@pytest.mark.quick
def test_text_from_files_stays_text(tmp_path):
    name = "<b onclick=x>&amp;'\""
    folder = hostile_run(tmp_path, name)
    (study(tmp_path, "s") / "results.json").write_text(json.dumps({"command": HOSTILE}))
    result = {"status": "diverged", "step": 1, "reason": HOSTILE}
    for path in tmp_path.glob("checkpoints/s-*/result.json"):
        path.write_text(json.dumps(result))
    for names, least in (([str(folder)], 10), (["s"], 5), ([], 10)):
        made = page(tmp_path, *names)
        assert made.text.count(HOSTILE) > least
        assert not made.tags & {"script", "b"}
        assert not [each for _, each, _ in made.attributes if each.startswith("on")]
        assert all("x.example" not in value or each == "alt" for _, each, value in made.attributes)
        if names != ["s"]:
            assert name in made.text
            assert made.values("img", "alt") == [f"samples of {name} at step 10"]


def test_a_huge_run_has_a_page_of_less_than_two_megabytes(tmp_path):
    folder = gan(tmp_path)
    record = {f"figure_{number}": 0.123456789 for number in range(15)}
    lines(folder / "metrics.jsonl", [{"step": step, **record} for step in range(20_001)])
    lines(
        folder / "gates.jsonl",
        [{"step": s, "layer": f"l{s % 999}", "on": s % 2 == 0, "sigma": 1.5} for s in range(9999)],
    )
    picture = grid(tmp_path, "g", "step-00001000.png")
    for step in range(1001, 1200):
        os.link(picture, picture.with_name(f"step-{step:08d}.png"))
    made = page(tmp_path, "g")
    assert (tmp_path / "page.html").stat().st_size < 2 * 2**20
    assert len(made.values("img", "src")) == 5
    assert "metrics.jsonl: 1 line in 2 is read, of 20,001" in made.text
    kept = pictures.Pictures(1).add(tmp_path / "samples/g/real.png", "w", "c")
    assert "left out" in str(kept)


def test_each_option_that_is_not_at_its_default_is_listed_with_it():
    model = {"network": "cnn3", "norm": "none", "betas": [0.9, 0.99], "depth": None}
    config = {"task": "classifier", "run": "x", "epochs": 3, "seed": 0, "model": model}
    config |= {"trainer": {"precision": "64-true"}, "unheard": {"of": 1}}
    assert changed_options(config, "classifier") == [
        ("epochs", "3", "10"),
        ("model.norm", '"none"', '"mean_spectral"'),
        ("model.betas", "[0.9, 0.99]", "[0.9, 0.999]"),
        ("trainer.precision", '"64-true"', '"32-true"'),
        ("unheard.of", "1", "–"),
    ]
