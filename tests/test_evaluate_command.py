"""msngan evaluate: runs, other tools' images, what is printed and kept, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY
from PIL import Image
from rich.console import Console

from msngan import data
from msngan.__main__ import main
from msngan.commands import evaluate, evaluate_subjects
from msngan.runs import progress_bar
from msngan.scores import evaluation
from msngan.scores.embedded import FOLDER, shipped
from msngan.scores.evaluation import BACKENDS
from msngan.scores.extractors import file_sha256
from msngan.scores.protocol import METRICS, ROLES
from msngan.scores.scorer import Scorer

Run = Callable[..., int]
SHORT = ["--runs", "2", "--images", "20"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `mine` and `other`, whose samples differ."""
    root = tmp_path_factory.mktemp("trained")
    for name, seed in (("mine", "0"), ("other", "1")):
        options = ["--seed", seed, "--model.generator_lr", "0.05", "--checkpoint.every", "4"]
        assert main(["fit", *TINY, *QUIET, "--run", name, "--root", str(root), *options]) == 0
    return root


@pytest.fixture
def runs(run: Run, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run`, where there are copies of `trained` and digits.zip, 60 real images of 8 x 8."""
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for index, image in enumerate(data.load("digits", size=8).images[:60]):
            file = io.BytesIO()
            Image.fromarray(image[0].numpy()).save(file, "PNG")
            archive.writestr(f"{index}.png", file.getvalue())
    return run


@pytest.fixture
def scored(runs: Run, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """The score lines that `evaluate` prints."""

    def call(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        capfd.readouterr()
        assert runs("evaluate", *arguments, "--format", "json") == code
        return json.loads(capfd.readouterr().out)

    return call


def lines(name: str) -> list[dict[str, Any]]:
    text = Path(f"checkpoints/{name}/scores.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def sha256(stem: str) -> str:
    """The digits of a shipped extractor's file in its name."""
    return file_sha256(FOLDER / f"{stem}.safetensors")[:8]


def means(line: dict[str, Any]) -> dict[str, float]:
    return {key: score["mean"] for key, score in line["scores"].items()}


def test_scores_stand_beside_floors_with_their_protocol_and_times(runs, capfd, monkeypatch):
    capfd.readouterr()
    assert runs("evaluate", "mine", *SHORT) == 0
    out, err = capfd.readouterr()
    (line,) = lines("mine")
    assert "mine, step 6 (ema)" in out
    assert "custom: 2 x 20 samples against 1,797 images of digits all, 1 x 8 x 8" in out
    assert "20 samples a run are fewer than the 64 features" in out
    parts = [rf"{part} (\d+) %" for part in ("real data", "generator", "extractor", "scores")]
    times = re.search(rf"([\d.]+) s: {', '.join(parts)}", out)
    assert times
    assert 98 <= sum(int(each) for each in times.groups()[1:]) <= 102
    rows = {row.split()[0]: row for row in out.splitlines() if "/embed-" in row.split(" ")[0]}
    assert list(rows) == list(line["scores"])
    for key, score in line["scores"].items():
        assert score["sd"] == pytest.approx(np.std(score["values"], ddof=1), abs=1e-12)
        shown, _, spread = rows[key].split()[1:4]
        assert float(shown) == pytest.approx(score["mean"], rel=1e-3, abs=1e-4)
        assert float(spread) == pytest.approx(score["sd"], abs=6e-3)
        assert rows[key].split()[-1] == "2"
    assert rows[next(iter(rows))].split()[-2] == "estimated"
    assert "extractor: embed-digits-" in err
    assert "extractor: embed-digits-" not in out


def test_every_format_holds_the_same_numbers(runs, capfd):
    shown = {}
    for style in ("json", "csv", "md", "table"):
        capfd.readouterr()
        assert runs("evaluate", "mine", "other", *SHORT, "--format", style) == 0
        shown[style] = capfd.readouterr().out
    record = json.loads(shown["json"])
    assert record == [lines("mine")[0], lines("other")[0]]
    scores = [(line, key, score) for line in record for key, score in line["scores"].items()]
    rows = csv.DictReader(io.StringIO(shown["csv"]))
    for row, (line, key, score) in zip(rows, scores, strict=True):
        assert (row["run"], row["metric"], row["n"]) == (line["run"], key, "2")
        assert (float(row["mean"]), float(row["sd"])) == (score["mean"], score["sd"])
        assert row["protocol_id"] == line["protocol_id"]
        assert row["protocol_samples"] == "20"
        assert row["floor"] == str(line["floors"].get(key, {}).get("mean", ""))
        assert f"| {key} | " in shown["md"]
        assert f"{key} " in shown["table"]
    assert [line["run"] for line in record] == ["mine", "other"]
    assert shown["md"].count("### ") == 3


def test_clean_resizing_is_a_protocol_of_its_own_by_option_or_file(scored):
    Path("clean.yaml").write_text("runs: 2\nsamples: 20\nresize: clean\n")
    (own,) = scored("mine", *SHORT)
    (option,) = scored("mine", *SHORT, "--resize", "clean")
    (file,) = scored("mine", "--protocol", "clean.yaml")
    (back,) = scored("mine", "--protocol", "clean.yaml", "--resize", "own")
    assert list(means(option).values()) == list(means(file).values()) != list(means(own).values())
    assert all("/embed-digits-clean-" in key for key in option["scores"])
    assert option["protocol"] | {"name": "clean"} == file["protocol"]
    assert file["protocol"]["resize"] == "clean-bicubic-32"
    assert option["protocol_id"] == file["protocol_id"] != own["protocol_id"] == back["protocol_id"]


def test_a_run_has_scores_of_two_extractors_under_protocols_of_their_own(runs, capfd):
    for name in ("embedded", "embedded-vgg7"):
        assert runs("evaluate", "mine", "--extractor", name, "--metrics", "fid", *SHORT) == 0
    first, second = lines("mine")
    assert [*first["scores"]] == [f"fd/embed-digits-{sha256('digits')}"]
    assert [*second["scores"]] == [f"fd/embed-vgg7-digits-{sha256('digits-vgg7')}"]
    assert first["protocol_id"] != second["protocol_id"]
    same = {key for key in first["protocol"] if first["protocol"][key] == second["protocol"][key]}
    assert first["protocol"].keys() - same == {"extractor"}
    capfd.readouterr()
    assert runs("leaderboard") == 0
    out = capfd.readouterr().out
    assert all(key in out for line in (first, second) for key in line["scores"])


def test_the_leaderboard_shows_what_evaluate_adds_under_the_runs_config(runs, capfd):
    assert runs("evaluate", "mine", *SHORT) == 0
    (line,) = lines("mine")
    assert line["config"] == "digits_msn"
    assert line["source"] == "evaluate"
    environment = json.loads(Path("checkpoints/mine/environment.json").read_text())
    assert len(environment["commands"]) == 2  # of fit and of evaluate
    capfd.readouterr()
    assert runs("leaderboard", "--format", "csv", "--no-published") == 0
    out, err = capfd.readouterr()
    assert not err.strip().startswith("msngan leaderboard: warning")
    assert "left out" not in err
    assert [(row["run"], row["config"]) for row in csv.DictReader(io.StringIO(out))][:1] == [
        ("mine", "digits_msn")
    ]
    Path("checkpoints/mine/environment.json").write_text("cut")
    assert runs("evaluate", "mine", *SHORT) == 0
    assert lines("mine")[1]["config"] == "mine"


def test_metrics_chooses_what_is_computed_and_the_seed_is_of_the_samples(scored):
    (whole,) = scored("mine", *SHORT)
    (part,) = scored("mine", *SHORT, "--metrics", " kid,prc,kid")
    want = {"kd", *METRICS["prc"]}
    assert {key.partition("/")[0] for key in part["scores"]} == want
    assert part["scores"] == {key: whole["scores"][key] for key in part["scores"]}
    assert part["protocol_id"] == whole["protocol_id"]
    (other,) = scored("mine", *SHORT, "--seed", "1")
    key = next(iter(whole["scores"]))
    # Of two seeds no run draws the same samples.
    assert not set(whole["scores"][key]["values"]) & set(other["scores"][key]["values"])


def test_via_names_every_backend():
    assert set(evaluate.VIA) == set(BACKENDS)


def test_a_reference_that_the_generator_was_trained_on_is_warned_of(runs, capfd, monkeypatch):
    """digits are trained on all images, the test split among them."""
    words = "the generator was trained on the digits test images it is scored against"
    for options, warned in ((["--split", "test"], True), ([], False), (["--raw"], False)):
        capfd.readouterr()
        assert runs("evaluate", "mine", *SHORT, "--metrics", "fid", *options) == 0
        out, err = capfd.readouterr()
        assert (words in out, f"warning: mine: {words}" in err) == (warned, warned)
    ema, raw = lines("mine")[1:]
    assert (ema["weights"], raw["weights"]) == ("ema", "raw")
    assert means(ema) != means(raw)


def test_a_checkpoint_file_of_a_run_is_scored_at_its_own_step(scored):
    Path("checkpoints/mine/previous.ckpt").rename("checkpoints/mine/best.ckpt")
    (best,) = scored("checkpoints/mine/best.ckpt", *SHORT)
    (last,) = scored("mine", *SHORT)
    assert (best["step"], last["step"]) == (4, 6)
    assert [line["step"] for line in lines("mine")] == [4, 6]
    assert means(best) != means(last)
    shutil.copy("checkpoints/mine/best.ckpt", "moved.ckpt")
    (moved,) = scored("moved.ckpt", *SHORT)
    assert (moved["run"], moved["step"], moved["scores"]) == ("moved", 4, best["scores"])
    assert len(lines("mine")) == 2


def test_against_and_dataset_replace_the_runs_own_images(scored):
    found = {}
    for options, facts, kind in (
        ("", ("digits", "all", 1797, 8), "estimated"),
        ("--against digits.zip", ("folder", "all", 60, 8), "estimated"),
        ("--split test", ("digits", "test", 359, 8), "real-vs-real"),
        ("--dataset digits --split test", ("digits", "test", 359, 8), "real-vs-real"),
    ):
        (line,) = scored("mine", *SHORT, *options.split())
        names = ("dataset", "split", "reference_images", "size")
        assert tuple(line["protocol"][name] for name in names) == facts
        assert line["floors"][next(iter(line["floors"]))]["kind"] == kind
        found[options] = line["scores"]
    assert found["--dataset digits --split test"] == found["--split test"]


def test_a_yaml_protocol_keeps_its_name_only_with_its_reference_and_quantisation(scored, tmp_path):
    (tmp_path / "quick.yaml").write_text("runs: 2\nsamples: 20\nsplits: 2\n")
    older = "runs: 2\nsamples: 20\nreference: test\nquantisation: truncate-clamp\n"
    (tmp_path / "older.yaml").write_text(older)
    given = "--samples digits.zip --dataset digits --size 8"
    for options, name in (
        ("mine --protocol quick.yaml", "quick"),
        ("mine --protocol quick.yaml --split test", "custom"),
        ("mine --protocol quick.yaml --against digits.zip", "custom"),
        ("mine --protocol older.yaml --split train", "custom"),
        (f"{given} --protocol quick.yaml", "quick"),
        (f"{given} --protocol older.yaml", "custom"),
        ("mine --protocol older.yaml", "older"),
    ):
        (line,) = scored(*options.split())
        protocol = line["protocol"]
        assert protocol["name"] == name, options
        assert (protocol["runs"], protocol["samples"]) == (2, 20)
        assert protocol["splits"] == (2 if "quick" in options else 1)
    assert protocol["split"] == "test"
    fd = next(key for key in line["floors"] if key.startswith("fd/"))
    assert line["floors"][fd]["kind"] == "real-vs-real"  # by the training split


def test_given_images_come_to_a_size_as_those_of_the_data_set_do(scored):
    own = data.load("digits", size=8).images
    np.savez("own.npz", own.permute(0, 2, 3, 1).numpy())
    size = ["--runs", "1", "--images", "1797", "--metrics", "fid,prc", "--size", "32"]
    (line,) = scored("--samples", "own.npz", "--dataset", "digits", *size)
    found = {key.partition("/")[0]: score["mean"] for key, score in line["scores"].items()}
    assert found["fd"] == pytest.approx(0, abs=1e-8)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert line["protocol"]["quantisation"] == "as-given-digits-32"


def test_data_that_has_moved_is_found_at_data_root(runs, scored, refused):
    options = ["--data.dataset", "folder", "--data.root", "digits.zip", "--run", "zipped"]
    assert runs("fit", *TINY, *QUIET, *options, "--data.limit", "null") == 0
    (before,) = scored("zipped", *SHORT)
    Path("digits.zip").rename("moved.zip")
    assert "give a folder" in refused("evaluate", "zipped", *SHORT) or "--data-root" in refused(
        "evaluate", "zipped"
    )
    (after,) = scored("zipped", *SHORT, "--data-root", "moved.zip")
    assert after["scores"] == before["scores"]
    assert after["protocol_id"] == before["protocol_id"]


def test_a_diverged_generator_does_not_lose_the_others(runs, capfd):
    path = Path("checkpoints/mine/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    for key, value in checkpoint["state_dict"].items():
        if key.startswith(("ema.", "generator.")) and value.is_floating_point():
            value.fill_(torch.nan)
    torch.save(checkpoint, path)
    capfd.readouterr()
    assert runs("evaluate", "mine", "other", *SHORT) == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    (broken,), (whole,) = lines("mine"), lines("other")
    assert all("NaN" in score["reason"] for score in broken["scores"].values())
    assert all(score["mean"] is not None for score in whole["scores"].values())
    assert len(re.findall(r"^\S+ +failed .* 0$", out, re.MULTILINE)) == len(ROLES)
    assert "failed: images of run 0: images hold NaN" in out
    assert "other, step 6" in out


def test_every_target_is_checked_before_the_first_is_scored(runs, refused, monkeypatch):
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("scored")

    monkeypatch.setattr(Scorer, "score", refuse)
    assert "no run, folder or checkpoint 'nothing'" in refused("evaluate", "mine", "nothing")
    torch.save({"model": 3}, "x.ckpt")
    assert "x.ckpt is not a msngan checkpoint" in refused("evaluate", "mine", "x.ckpt")


def test_runs_of_the_same_data_share_a_reference(scored, monkeypatch):
    made = []

    def watched(*arguments: Any, **options: Any) -> Scorer:
        made.append(Scorer(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(evaluate_subjects, "Scorer", watched)
    both = scored("mine", "other", *SHORT)
    assert len(made) == 1
    alone = scored("other", *SHORT)
    assert both[1]["scores"] == alone[0]["scores"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_what_is_done_before_an_interruption_is_kept_and_printed(runs, capfd, monkeypatch, problem):
    score, calls = Scorer.score, []

    def interrupted(self: Scorer, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == 2:
            raise problem
        return score(self, *arguments)

    monkeypatch.setattr(Scorer, "score", interrupted)
    capfd.readouterr()
    arguments = ("evaluate", "mine", "other", *SHORT, "--format", "json")
    if isinstance(problem, KeyboardInterrupt):
        assert runs(*arguments) == 130
    else:
        with pytest.raises(RuntimeError, match="memory"):
            runs(*arguments)
    (printed,) = json.loads(capfd.readouterr().out)
    assert lines("mine") == [printed]
    assert not Path("checkpoints/other/scores.jsonl").exists()


def test_two_libraries_that_disagree_fail_one_target_and_not_the_next(runs, capfd, monkeypatch):
    scores, calls = evaluation.torch_fidelity_scores, []

    def wrong(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        found = scores(*arguments)
        return {role: value + (len(calls) == 1) for role, value in found.items()}

    monkeypatch.setattr(evaluation, "torch_fidelity_scores", wrong)
    capfd.readouterr()
    options = [*SHORT, "--via", "torch-fidelity", "--format", "json"]
    assert runs("evaluate", "mine", "other", *options) == 1
    out, err = capfd.readouterr()
    assert "msngan: error: mine: " in err
    assert "by torch-fidelity" in err
    (line,) = json.loads(out)
    assert (line["run"], line["via"]) == ("other", "torch-fidelity")
    assert not Path("checkpoints/mine/scores.jsonl").exists()
    assert len(lines("other")) == 1


def test_scores_that_cannot_be_kept_are_printed(runs, capfd, monkeypatch):
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "append_line", full)
    capfd.readouterr()
    assert runs("evaluate", "mine", *SHORT, "--format", "json") == 1
    out, err = capfd.readouterr()
    assert json.loads(out)[0]["run"] == "mine"
    assert "scores.jsonl cannot be written (No space left on device)" in err


@pytest.mark.quick
@pytest.mark.parametrize("form", ["npz", "png"])
def test_samples_written_and_scored_again_are_the_runs_own(form, scored, runs):
    out = "samples.npz" if form == "npz" else "pictures"
    assert runs("sample", "mine", "--n", "20", "--format", form, "--out", out) == 0
    sizes = ["--runs", "1", "--images", "20", "--against", "digits.zip"]
    (own,) = scored("mine", *sizes)
    (again,) = scored("--samples", out, *sizes)
    assert means(again) == pytest.approx(means(own), rel=1e-9, abs=1e-9)
    assert list(again["scores"]) == list(own["scores"])
    assert len(again["scores"]) == len(ROLES)
    assert again["protocol"]["quantisation"] == "as-given"
    assert again["protocol_id"] != own["protocol_id"]  # nobody knows how they became bytes
    (again["source"], again["weights"], again["step"]) = ("samples", "raw", 0)
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["mine", "other"]


def test_recorded_samples_stand_on_the_leaderboard_and_extra_images_are_left_out(
    scored, runs, capfd
):
    given = ["--samples", "digits.zip", "--against", "digits.zip", "--runs", "2", "--images", "20"]
    assert runs("evaluate", *given) == 0
    out, err = capfd.readouterr()
    assert "40 of 60 images are scored" in err
    assert out.startswith("digits\n")
    (line,) = scored(*given, "--record", "their-gan")
    assert lines("their-gan") == [line]
    assert line["run"] == line["config"] == "their-gan"
    assert (line["step"], line["weights"], line["source"]) == (0, "raw", "samples")
    scored(*given, "--record", "their-gan")
    assert len(lines("their-gan")) == 2
    capfd.readouterr()
    assert runs("leaderboard", "--format", "csv", "--no-published") == 0
    out, err = capfd.readouterr()
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(out))}
    assert (rows["their-gan"]["config"], rows["their-gan"]["weights"]) == ("their-gan", "raw")
    key = next(iter(line["scores"]))
    assert float(rows["their-gan"][f"last {key} mean"]) == line["scores"][key]["mean"]
    assert "left out" not in err


def test_away_from_a_terminal_lines_say_how_far_it_is(runs, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path / "cache"))
    assert runs("evaluate", "mine", *SHORT) == 0
    assert "left" not in capfd.readouterr().err
    monkeypatch.setattr(progress_bar, "HEARTBEAT_SECONDS", 0)
    shutil.rmtree(tmp_path / "cache")
    assert runs("evaluate", "mine", "other", *SHORT, "--metrics", "fid") == 0
    shown = [line for line in capfd.readouterr().err.splitlines() if " left" in line]
    form = r"(.+): ([\d,]+)/([\d,]+) images, [\d,]+ images/s, \d+:\d\d left"
    found = [re.fullmatch(form, line).groups() for line in shown]
    assert found[0][0] == "reference"
    assert ("reference", "1,797", "1,797") in found
    assert ("1/2 mine", "20", "40") in found
    assert found[-1] == ("2/2 other", "40", "40")


def test_on_a_terminal_a_bar_shows_images_speed_and_time_left_and_goes_away(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress_bar, "Console", lambda file: Console(file=screen, force_terminal=True, width=100)
    )
    with progress_bar.progress("1/2 [mine]") as watch:
        for done in range(0, 1001, 10):
            watch(done, 2000)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"1/2 \[mine\] .*1000/2000 images, [\d,]+ images/s, \S+ left", shown)
    assert screen.getvalue().rstrip("\r\n").endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "nothing to score: name runs or checkpoints, or give --samples PATH"),
        ("mine --against ''", "--against is empty"),
        ("--samples '' --against x", "--samples is empty"),
        ("mine --images 100000000000", "samples must be from 1 to 1,000,000"),
        ("mine --protocol 50k --images 5", "5 samples a run are too few for 10 split"),
        ("mine --inception-weights x", "use the extractor inception"),
        ("mine --resize cleen", "(did you mean 'clean'?)"),
        ("mine --extractor clip-vit-b-32", "saved once as msngan/scores/README.md says"),
        ("mine --protocol papr", "unknown protocol 'papr' (did you mean 'paper'?)"),
        ("mine --protocol nothing.yaml", "protocol nothing.yaml: there is no such file"),
        ("mine --metrics fdi", "--metrics: unknown 'fdi' (did you mean 'fid'?)"),
        ("mine --metrics ' , '", "--metrics is empty; choose from fid"),
        ("mine --via torchmetric", "did you mean 'torchmetrics'"),
        ("mine --runs 0", "--runs 0 is less than 1"),
        ("mine --images 1", "--images 1 is less than 2"),
        ("mine --images 5", "--images 5: too few for prc, which needs at least 6; give more, or"),
        ("mine mine --images 3", "leave prc out: --metrics fid,is,kid"),
        ("mine --images 5 --metrics prc", "or leave prc out: --metrics fid"),
        ("mine --protocol few.yaml", "--images 4: too few for prc"),
        ("mine --images pictures", "--images 'pictures' is not a whole number"),
        ("mine --against few.npy", "4 real images: too few for prc, which needs at least 6"),
        ("mine --seed -1", "--seed -1 is less than 0"),
        ("mine --size 8", "--size goes with --samples"),
        ("mine --record x", "--record goes with --samples"),
        ("mine --ema --raw", "not allowed with"),
        ("mine --samples 30", "how many a run has is --images 30"),
        ("mine --samples digits.zip", "--samples or runs (mine), not both at once"),
        ("mine --against x --dataset digits", "leave out --dataset, --data-root and"),
        ("mine --against missing", "--against missing: No such file or directory"),
        ("mine --dataset digit", "--dataset: unknown value 'digit' (did you mean 'digits'?)"),
        ("mine --split validation", "digits has no split 'validation'"),
        ("mine --extractor embeded", "did you mean 'embedded'"),
        ("mine --extractor no.safetensors", "no extractor file no.safetensors"),
        ("mine --extractor cut.safetensors", "is not a complete extractor file"),
        ("mine --extractor inception --inception-weights w.pth", "w.pth is not the official Incep"),
        ("mine --device abacus", "--device abacus is not available; use cpu"),
        ("mine --device meta", "--device meta cannot score; use cpu, gpu or gpu:N"),
        ("mine --device cuda:99", "--device cuda:99 is not available"),
        ("mine --device gpu:99", "--device gpu:99 is not available"),
        ("one.npy", "one.npy is not a readable checkpoint"),
        ("--samples digits.zip", "--samples needs real images: --against PATH, or --dataset"),
        ("--samples missing --against digits.zip", "--samples missing: No such file"),
        ("--samples digits.zip --against missing", "--against missing: No such file"),
        ("--samples empty --against digits.zip", "--samples: no images in empty"),
        ("--samples cut.npz --against digits.zip", "--samples cut.npz cannot be read"),
        ("--samples float.npy --against digits.zip", "only you know its range"),
        ("--samples one.npy --against digits.zip", "--samples one.npy holds one image"),
        ("--samples digits.zip --against digits.zip", "--runs 1 --images 60"),
        ("--samples digits.zip --dataset digits --images 20", "of 1x8x8, the reference of 1x32x32"),
        ("--samples wide.npy --against digits.zip", "not square (9x8); set --size"),
        ("--samples digits.zip --dataset digits --size 9", "--size 9 is not a"),
        ("--samples digits.zip --against digits.zip --size 0", "--size 0 is less"),
        ("--samples digits.zip --against digits.zip --seed 1", "--seed is for"),
        ("--samples digits.zip --against digits.zip --raw", "--ema or --raw is for"),
        ("--samples digits.zip --dataset folder", "data set 'folder' needs --data-root"),
        ("--samples x --against x --record mine", "checkpoints/mine is a run trained here"),
        ("--samples x --against x --record ../x", "'../x' is not a run name"),
        ("--samples x --against x --record y --root one.npy", "--record y: one.npy/checkpoints/y"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_bad_input_is_one_line_and_nothing_is_written(refused, arguments, words):
    Path("empty").mkdir()
    Path("w.pth").write_bytes(b"others' weights")
    weights = shipped()["digits"].read_bytes()
    Path("cut.safetensors").write_bytes(weights[: len(weights) // 2])
    np.save("one.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save("few.npy", np.zeros((4, 8, 8, 1), np.uint8))
    Path("few.yaml").write_text("{runs: 1, samples: 4}")
    np.save("float.npy", np.zeros((99, 8, 8, 3), np.float32))
    np.save("wide.npy", np.zeros((99, 8, 9, 1), np.uint8))
    np.savez("cut.npz", np.zeros((99, 8, 8, 3), np.uint8))
    Path("cut.npz").write_bytes(Path("cut.npz").read_bytes()[:500])
    line = refused("evaluate", *shlex.split(arguments))
    assert words in line
    assert "--data." not in line


@pytest.mark.usefixtures("runs")
def test_a_run_whose_scores_cannot_be_written_is_refused_before_it_is_scored(refused, monkeypatch):
    monkeypatch.setattr(evaluate.os, "access", lambda path, mode: False)  # root may do anything
    assert "checkpoints/mine/scores.jsonl cannot be written" in refused("evaluate", "mine", *SHORT)
    given = ["--samples", "digits.zip", "--against", "digits.zip"]
    assert "--record x: checkpoints/x cannot be written" in refused(
        "evaluate", *given, "--record", "x"
    )
