"""Scores in training: what they cost, which checkpoint they choose, and what they warn of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, Patch, Shown, resumed_from_previous, same_bits, weights
from torch import nn

from msngan.gan import GAN
from msngan.runs.folder import UserError
from msngan.runs.score_records import BETTER, better, parse
from msngan.scores.extractors import Extractor, Features
from msngan.scores.protocol import METRICS
from msngan.scores.scorer import Scored, Scorer
from msngan.training.callbacks import scores as rules
from msngan.training.callbacks.scores import SHARE, Scores, least_every

Script = list[dict[str, float | None]]

SCORED = ["--scores.enabled", "true", "--scores.runs", "2", "--scores.samples", "8"]
EACH = [*SCORED, "--scores.every", "1"]


def line(step: int, **scores: float | None) -> dict[str, Any]:
    """A score line; None is a failed score."""
    failed = {"mean": None, "reason": "NaN images"}
    entries = {
        key: failed if value is None else {"mean": value, "sd": None}
        for key, value in scores.items()
    }
    common = {"protocol_id": "a", "weights": "ema", "source": "fit"}
    return {"step": step, "scores": entries, **common}


def said(key: str, values: list[float | None], *shares: str) -> list[str]:
    """For each evaluation in turn, steps 1, 2, ...: its signs, joined; '' for none."""
    history = [line(step, **{"fid": 5, key: value}) for step, value in enumerate(values, start=1)]
    named = "fid" if shares else key
    return [
        "; ".join(sign.text for sign in rules.signs(history[:end], named, shares))
        for end in range(1, len(history) + 1)
    ]


SINCE = "near 0 in 3 evaluations since the best score, at step 1"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("key", "values", "at", "text"),
    [  # the third in a row, once; a recovery starts the count again; at the bound is not beyond it
        ("fid", [10, 5, 11, 12, 13, 14], [5], "more than twice its best (5 at step 2) in 3 eval"),
        ("fid", [10, 5, 11, 12, 6, 11, 12], [], ""),
        ("fid", [5, 11, 12, 13, 9, 11, 12, 13], [4, 8], "fid is 13 at step 4, more than twice"),
        ("fid", [5, 10, 10, 10], [], ""),
        ("is", [8, 4, 4, 4], [], ""),
        (
            "is",
            [8, 3.9, 3.9, 3.9],
            [4],
            "is is 3.9 at step 4, less than half its best (8 at step 1)",
        ),
        # a share near zero: at once if it had been more, else the third time
        (
            "recall",
            [0.3, 0.0, 0.0, 0.2, 0.001],
            [2, 5],
            "is 0 at step 2 (was 0.3 at step 1): hardly a",
        ),
        (
            "recall",
            [0.09, 0.009, 0.0, 0.0, 0.0],
            [4],
            f"is 0 at step 4 ({SINCE}): hardly a real image",
        ),
        ("precision", [0.3, 0.0], [2], "(was 0.3 at step 1): hardly a sample"),
        ("precision", [0.01, 0.01, 0.01, 0.01], [], ""),
    ],
)
def test_what_is_far_from_the_best_or_near_zero_is_reported(key, values, at, text):
    texts = said(key, values, *([key] if key in rules.MEANING else []))
    assert [step for step, each in enumerate(texts, start=1) if each] == at
    assert not at or text in texts[at[0] - 1]


def test_a_kernel_distance_within_its_noise_is_no_collapse():
    for value, count in ((0.0009, 0), (0.0011, 1)):
        first = line(1, kid=-0.0001)
        first["scores"]["kid"]["sd"] = 0.0005
        history = [first, *(line(step, kid=value) for step in (2, 3, 4))]
        assert len(rules.signs(history, "kid", ())) == count


def test_a_run_that_starts_without_recall_and_gets_better_is_no_collapse():
    history: list[rules.Line] = []
    for step, fid in enumerate([28, 17, 10, 6, 4, 4.5, 4.2, 4.1], start=1):
        history.append(line(step, fid=fid, recall=0.0))
        assert bool(rules.signs(history, "fid", ["recall"])) == (step == 8)  # third after the best


def test_a_failed_score_is_reported_once_and_neither_makes_a_row_nor_breaks_one():
    texts = said("fid", [5, 11, None, None, 12, 13, None])
    failed = "no fid at step {}: NaN images"
    assert [*texts[:5], texts[6]] == ["", "", failed.format(3), "", "", failed.format(7)]
    assert texts[5].startswith("fid is 13 at step 6")
    both = rules.signs([line(1, fid=None, recall=None)], "fid", ["recall"])
    assert both == [rules.Sign("no fid, recall at step 1: NaN images", False)]


def test_both_a_bad_score_and_a_vanished_share_are_reported():
    history = [line(1, fid=5, recall=0.5), line(2, fid=11, recall=0.4)]
    history += [line(3, fid=11, recall=0.3), line(4, fid=11, recall=0)]
    signs = rules.signs(history, "fid", ["precision", "recall"])
    assert [(sign.text.split()[0], sign.collapse) for sign in signs] == [
        ("fid", True),
        ("recall", True),
    ]


@pytest.mark.parametrize("family", BETTER)
def test_the_best_is_by_the_family_s_direction_and_the_earliest_of_equals(family):
    key = f"{family}/embed-x"
    series = [rules.Point(step, value) for step, value in ((1, 2), (2, 1), (3, 3), (4, 1), (5, 3))]
    top = rules.best_of(series, key)
    assert top is not None
    assert top.step == (2 if better(key) == "lower" else 3)
    assert rules.best_of([], key) is None


def test_only_comparable_and_undamaged_lines_are_evidence():
    others = [line(1, fid=1) | each for each in ({"protocol_id": "b"}, {"weights": "raw"})]
    others.append(line(1, fid=1) | {"source": "evaluate"})
    newest = line(2, fid=5)
    assert rules.comparable([*others, newest], newest) == [newest]
    spoilt: list[dict[str, Any]] = [{"step": 1}, {"step": 2, "scores": [3]}]
    spoilt += [{"step": 3, "scores": {"fid": each}} for each in (3, {"mean": "3"}, {})]
    spoilt.append({"step": 4, "scores": {"fid": {"mean": float("nan")}}})
    assert rules.points([*spoilt, newest], "fid") == [rules.Point(2, 5)]
    assert rules.signs([*spoilt, newest], "fid", ["recall"]) == []


@pytest.mark.parametrize(
    ("per_score", "per_step", "least"),
    [(5, 0.1, 950), (1, 0.19, 100), (1, 100, 1), (1, 0.57, 34)],
)
def test_the_steps_between_scores_are_the_least_that_hold_the_share(per_score, per_step, least):
    found = least_every(per_score, per_step)
    assert found == least  # 19 scores' time between them
    assert per_score / (per_score + found * per_step) <= SHARE + 1e-9


def step_of(folder: Path, name: str = "last.ckpt") -> int:
    return int(torch.load(folder / name, weights_only=True)["global_step"])


def scores_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "scores.jsonl").read_text().splitlines()]


@pytest.fixture
def script(monkeypatch: Patch) -> Script:
    """What the next evaluations find, by role, in place of their numbers; first in, first out."""
    wanted: Script = []
    original = Scorer.score

    def scripted(self: Scorer, generator: nn.Module) -> Scored:
        scored = original(self, generator)
        if not wanted:
            return scored
        scores = dict(scored.scores)
        for role, value in ({"precision": 0.5, "recall": 0.5} | wanted.pop(0)).items():
            failed = {"mean": None, "reason": "NaN images"}
            sound = {"mean": value, "sd": 0.1, "values": [value]}
            scores[self.extractor.keys[role]] = failed if value is None else sound
        return replace(scored, result=replace(scored.result, scores=scores))

    monkeypatch.setattr(Scorer, "score", scripted)
    return wanted


def test_a_best_that_needs_more_samples_is_refused_before_training(run, capfd):
    few = ["--scores.best", "density", "--scores.samples", "5"]
    assert run("fit", *TINY, *QUIET, *SCORED, *few) == 2
    assert "--scores.best density needs more than 5 samples" in capfd.readouterr().err
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize("best", ["fid", "is", "kid", "precision", "recall", "density", "coverage"])
def test_each_best_needs_its_own_metric_and_no_other(best):
    made = [name for name in METRICS if _accepted(best, name)]
    assert made == [best if best in METRICS else "prc"]


def _accepted(best: Any, metric: str) -> bool:
    try:
        Scores(best=best, metrics=[metric])
    except UserError:
        return False
    return True


@pytest.mark.parametrize("written", ["fid,kid", " kid , fid ", ["kid", "fid"]])
def test_metrics_are_a_list_or_a_text_with_commas(written):
    assert sorted(Scores(metrics=written).metrics) == ["fid", "kid"]


def test_a_protocol_of_one_s_own_is_read_from_its_file_and_metrics_are_chosen(tiny):
    Path("mine.yaml").write_text("runs: 1\nsamples: 9\n")
    own = ["--scores.protocol", "mine.yaml", "--scores.metrics", "[kid, fid]"]
    (only,) = scores_of(tiny("mine", "--scores.enabled", "true", *own))
    protocol = only["protocol"]
    assert (protocol["name"], protocol["runs"], protocol["samples"]) == ("mine", 1, 9)
    assert [key.split("/")[0] for key in only["scores"]] == ["fd", "kd"]


def test_best_is_by_the_named_score_and_says_so(tiny, script):
    script += [{"recall": 0.2, "frechet": 3}, {"recall": 0.1, "frechet": 2}]
    script += [{"recall": 0.5, "frechet": 4}]
    folder = tiny("mine", *EACH, "--steps", "3", "--scores.best", "recall")
    found = scores_of(folder)
    key = next(key for key in found[0]["scores"] if key.startswith("recall/"))
    assert [entry["step"] for entry in found if entry.get("best")] == [1, 3]
    assert {entry["best_by"] for entry in found if "best_by" in entry} == {key}
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint["msngan"]["best"] == {"score": key, "value": 0.5}
    assert "best" not in torch.load(folder / "last.ckpt", weights_only=True)["msngan"]


def test_lines_are_read_by_the_leaderboard_costs_are_said_and_no_checkpoint_has_the_extractor(
    tiny, capfd
):
    folder = tiny("mine", *EACH, "--steps", "2")
    shown = capfd.readouterr().err
    entries = [parse(entry, "mine") for entry in scores_of(folder)]
    assert [entry.step for entry in entries] == [1, 2]
    assert all(len(entry.scores) == 7 for entry in entries)
    assert scores_of(folder)[0]["best"] is True
    assert len(re.findall(r"step \d: fd .*\(embed-digits-\w+, \d+\.\d s.*\)\n", shown)) == 2
    assert len(re.findall(r"scores took \d+:\d\d, \d+\.\d % of \d+:\d\d;", shown)) == 1
    assert len(re.findall(r"time +\d+:\d\d, of which scores \d+\.\d %, ", shown)) == 1
    assert len(re.findall(r"--scores\.every \d+ would keep it within 5 %", shown)) == 1
    tiny("ends", *EACH, "--scores.every", "500", "--steps", "2")  # scored at the end only
    assert "would keep it within" not in capfd.readouterr().err
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(folder / name, weights_only=True)
        kinds = {key.split(".")[0] for key in checkpoint["state_dict"]}
        assert kinds == {"generator", "critic", "ema"}
        assert not checkpoint["callbacks"]


COLLAPSE = [{"frechet": value} for value in (10.0, 5.0, 11.0, 12.0, 13.0, 14.0)]


@pytest.mark.parametrize(
    ("values", "stopped", "best"),
    [
        (COLLAPSE, 5, 2),
        ([{"recall": value, "frechet": 1.0} for value in (0.3, 0.0)], 2, 1),
        ([{"precision": value, "frechet": 1.0} for value in (0.0, 0.0, 0.0, 0.0)], 4, 1),
    ],
    ids=["far from the best", "recall gone", "precision never there"],
)
def test_a_collapse_is_said_once_and_stops_the_run_when_asked_and_a_resume_goes_on(
    tiny, run, script, capfd, values, stopped, best
):
    values = [*values, *[{"frechet": 1.0}] * 4]
    script += values
    whole = tiny("whole", *EACH, "--steps", "6")
    shown = capfd.readouterr().err
    assert shown.count("warning: ") == 1
    assert f" at step {stopped}" in shown
    assert "--model.critic_lr" in shown
    script[:] = values
    folder = tiny("mine", *EACH, "--steps", "6", "--scores.stop_on_collapse", "true")
    shown = capfd.readouterr().err
    assert f"stopped at step {stopped}, as --scores.stop_on_collapse asks: " in shown
    assert f"(step {best}: the one to use)" in shown
    assert "msngan resume mine --scores.stop_on_collapse false" in shown
    assert "done: run" not in shown
    assert [step_of(folder, name) for name in ("last.ckpt", "best.ckpt")] == [stopped, best]
    assert run("resume", "mine", "--scores.stop_on_collapse", "false") == 0
    assert same_bits(weights(whole), weights(folder))


def test_a_best_by_another_score_or_protocol_is_chosen_anew_and_said(tiny, run, script, capfd):
    script += [{"frechet": 1.0, "kernel": 1.0}, {"frechet": 2.0, "kernel": 3.0}]
    script += [{"frechet": 5.0, "kernel": 4.0}, {"frechet": 6.0, "kernel": 5.0}]
    folder = tiny("mine", *EACH, "--steps", "2")
    assert chosen(folder)[1] == 1.0
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "4", "--scores.best", "kid") == 0
    shown = capfd.readouterr().err
    assert "best.ckpt was chosen by fd/embed-digits-" in shown
    assert "it is chosen anew, by kd/embed-digits-" in shown
    key, value = chosen(folder)
    assert key.startswith("kd/")
    assert value == 4.0  # of step 3, though earlier ones were better
    capfd.readouterr()
    script += [{"frechet": 9.0, "kernel": 9.0}]
    assert run("resume", "mine", "--steps", "5", "--scores.best", "kid") == 0
    assert "chosen anew" not in capfd.readouterr().err
    for steps, said in (("6", True), ("7", False)):
        other = ["--scores.best", "kid", "--scores.samples", "9"]
        assert run("resume", "mine", "--steps", steps, *other) == 0
        anew = "of another protocol; the best is chosen anew" in capfd.readouterr().err
        assert anew == said
        assert scores_of(folder)[5].get("best") is True


def chosen(folder: Path) -> tuple[str, float]:
    best = torch.load(folder / "best.ckpt", weights_only=True)["msngan"]["best"]
    return best["score"], best["value"]


def test_failed_scores_are_said_and_leave_no_best(tiny, script, capfd):
    script += [{"frechet": None, "recall": None}] * 2
    folder = tiny("mine", *EACH, "--steps", "2", "--scores.stop_on_collapse", "true")
    shown = capfd.readouterr().err
    assert shown.count("warning: no fd/embed-digits") == 1
    assert "at step 1: NaN images" in shown
    assert not (folder / "best.ckpt").exists()
    assert not any("best" in entry for entry in scores_of(folder))
    assert step_of(folder) == 2


def lasting(entry: dict[str, Any]) -> dict[str, Any]:
    """A line without what differs between a run and the same run again."""
    return {name: value for name, value in entry.items() if name not in ("time", "seconds", "run")}


def test_a_resumed_run_writes_and_says_what_an_undisturbed_one_does(tiny, run, script, capfd):
    values: Script = [*COLLAPSE, {"frechet": 4.0}, {"recall": 0.0}]
    script += values
    folder = tiny("whole", *EACH, "--steps", "8", "--checkpoint.every", "4")
    warnings = _warnings(capfd)
    whole, best = list(map(lasting, scores_of(folder))), weights(folder, "best.ckpt")
    script[:] = values[4:]
    resumed_from_previous(folder, run)  # from step 4
    assert _warnings(capfd) == warnings
    assert len(warnings) == 2
    assert list(map(lasting, scores_of(folder))) == whole
    assert [entry["step"] for entry in scores_of(folder) if "best" in entry] == [1, 2, 7]
    assert same_bits(best, weights(folder, "best.ckpt"))


def _warnings(capfd: Shown) -> list[str]:
    return [text for text in capfd.readouterr().err.splitlines() if text.startswith("warning:")]


def test_scores_restore_every_mode_and_every_wish_for_a_gradient(tiny, monkeypatch):
    seen: list[bool] = []
    original = Scores.on_train_batch_end

    def watched(self: Scores, trainer: Any, gan: GAN, *rest: Any) -> None:
        for network in (gan.generator, gan.ema):
            network.body[0].eval()  # one that is not as the others
        next(gan.critic.parameters()).requires_grad_(False)
        before = _flags(gan), torch.is_grad_enabled(), torch.get_default_dtype()
        original(self, trainer, gan, *rest)
        seen.append((_flags(gan), torch.is_grad_enabled(), torch.get_default_dtype()) == before)

    monkeypatch.setattr(Scores, "on_train_batch_end", watched)
    tiny("mine", *EACH, "--steps", "2")
    assert seen == [True, True]


def _flags(gan: GAN) -> list[bool]:
    return [part.training for part in gan.modules()] + [p.requires_grad for p in gan.parameters()]


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_features_are_float64_and_the_same_bits_in_every_precision_of_training(
    tiny, monkeypatch, precision
):
    kinds: set[torch.dtype] = set()
    real: list[torch.Tensor] = []
    features, score, prepare = Extractor.features, Scorer.score, Scores.prepare

    def watched(self: Extractor, images: torch.Tensor) -> Features:
        found = features(self, images)
        kinds.update([found.pool.dtype, found.logits.dtype])
        return found

    def before(self: Scores, *arguments: Any) -> None:
        prepare(self, *arguments)
        assert self._scorer is not None
        real.append(features(self._scorer.extractor, self._scorer.real.images[:8]).pool)

    def within(self: Scorer, generator: nn.Module) -> Scored:
        real.append(features(self.extractor, self.real.images[:8]).pool)
        return score(self, generator)

    monkeypatch.setattr(Extractor, "features", watched)
    monkeypatch.setattr(Scores, "prepare", before)
    monkeypatch.setattr(Scorer, "score", within)
    folder = tiny("mine", *EACH, "--steps", "1", "--trainer.precision", precision)
    assert kinds == {torch.float64}
    assert torch.equal(*real)
    assert all(score["mean"] is not None for score in scores_of(folder)[-1]["scores"].values())
