"""Several processes on parts of a batch train as one process on the whole batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, TINY_CLASSIFIER, same_bits, under, weights
from together import held, run_together
from torch import Tensor

from msngan.__main__ import main
from msngan.runs import distributed as processes

BATCH = 12  # of all processes together
GAN = ["fit", *TINY, *QUIET, "--steps", "8", "--data.mirror", "true"]
EXACT = ["--trainer.precision", "64-true"]
GRADIENT = ["--model.penalty", "gradient", "--model.loss", "wasserstein"]

# Trained by one process and by several, in double precision: a norm of each kind (batch-coupled,
# sigma, both, per sample, gated, of the weight), labels, penalties, and a classifier.
KINDS = ["batch", "spectral", "mean_spectral", "layer", "optional_spectral", "weight_mean"]
CASES = {norm: [*GAN, *EXACT, *under(norm)] for norm in KINDS}
CASES["weight_mean"] += ["--model.conditional", "true"]
CASES["spectral"] += ["--model.conditional", "true", "--model.conditioning", "acgan"]
CASES["layer"] += ["--model.accumulate", "2", "--model.gradient_clip", "1e-3"]
CASES |= {
    "gradient penalty": [*GAN, *EXACT, *under("batch"), *GRADIENT, "--model.critic_steps", "2"],
    "gradient penalty through the means": [
        *(*GAN, *EXACT, *GRADIENT, "--model.norm", "mean_spectral"),
        *("--model.penalty_statistics", "batch", "--model.critic_batch", "joint"),
    ],
    "augmented": [
        *(*GAN, *EXACT, "--augment.policy", "color,translation,cutout", "--augment.target", "0"),
        *("--model.penalty", "[consistency,lecam]", "--model.penalty_every", "[2,1]"),
        *("--model.critic_lr", "0.01"),
    ],
    "residual": [
        *(*GAN, *EXACT, "--data.size", "32", "--steps", "3", "--model.attention", "8"),
        *("--model.generator", "resnet", "--model.critic", "resnet"),
    ],
    "classifier": ["fit", *TINY_CLASSIFIER, *EXACT, "--steps", "10", "--data.crop", "1"],
}
ON_THREE = ["mean_spectral", "gradient penalty"]


def sized(job: list[str], size: int) -> list[str]:
    return [*job, "--data.batch_size", str(BATCH // size)]


def named(case: str, size: int) -> list[str]:
    return ["--run", f"{case.replace(' ', '-')}-{size}"]


SCORED = [*GAN, "--scores.enabled", "true", "--scores.every", "4", "--scores.samples", "21"]
SCORED += ["--scores.runs", "2", "--samples.every", "4", "--dynamics.every", "4"]
SCORED += ["--data.limit", "null", "--records.every", "1"]
RESUMED = [*GAN, "--model.norm", "mean_spectral", "--records.every", "1"]
APART = [*RESUMED, "--model.norm_options.sync", "false"]
TWO = {
    **{case: [*sized(job, 2), *named(case, 2)] for case, job in CASES.items()},
    "scored": [*sized(SCORED, 2), "--run", "scored-2"],
    "whole": [*sized(RESUMED, 2), "--run", "whole"],
    "half": [*sized(RESUMED, 2), "--run", "half", "--steps", "3"],
    "resumed": ["resume", "half", "--steps", "8"],
    "apart": [*sized(APART, 2), "--run", "apart"],
    "apart half": [*sized(APART, 2), "--run", "apart-half", "--steps", "3"],
    "apart resumed": ["resume", "apart-half", "--steps", "8"],
    "taken": [*sized(RESUMED, 2), "--run", "whole"],
}
THREE = {case: [*sized(CASES[case], 3), *named(case, 3)] for case in ON_THREE}
THREE["of two"] = ["resume", "mean_spectral-2", "--steps", "10"]


@dataclass(frozen=True)
class Together:
    """Exit codes by process and job, and where the processes left what they held."""

    size: int
    jobs: dict[str, list[str]]
    folder: Path
    codes: list[list[int]]

    def held(self, rank: int, job: str) -> dict[str, Tensor]:
        return held(self.folder, rank, list(self.jobs).index(job))

    def said(self, rank: int) -> str:
        return (self.folder / f"{rank}.log").read_text()


def together(size: int, jobs: dict[str, list[str]]) -> Together:
    folder = Path(f"of-{size}")
    folder.mkdir()
    done = Together(size, jobs, folder, run_together(size, list(jobs.values()), folder))
    for job in jobs.keys() - {"taken"}:
        first = done.held(0, job)
        assert all(same_bits(first, done.held(rank, job)) for rank in range(1, size)), job
    return done


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest, over all tensors, of |a - b| relative to |a|.

    Without the blocks of vectors beside the leading one: beyond the rank of a weight, rounding
    alone chooses them.
    """
    assert a.keys() == b.keys()
    kept = [key for key in a if not key.endswith(".block")]
    sizes = [((a[k].double() - b[k].double()).norm(), a[k].double().norm()) for k in kept]
    return max(float(off) / max(float(size), 1e-12) for off, size in sizes)


@pytest.mark.slow
def test_several_processes_are_one(run: Callable[..., int], monkeypatch: Any) -> None:
    monkeypatch.setattr("msngan.losses.augment.RISE", 50)  # the probability moves within 8 steps
    # One group of processes runs all jobs: starting it takes longer than a job.
    one = {}
    for case, job in CASES.items():
        assert run(*sized(job, 1), *named(case, 1)) == 0
        path = Path("checkpoints") / named(case, 1)[1] / "last.ckpt"
        one[case] = torch.load(path, weights_only=True)["state_dict"]
    two = together(2, TWO)
    three = together(3, THREE)
    differences = {case: difference(one[case], two.held(0, case)) for case in CASES}
    differences |= {f"{c}, three": difference(one[c], three.held(0, c)) for c in ON_THREE}
    assert {case for case, each in differences.items() if not each < 1e-6} == set(), differences
    assert one["augmented"]["augment.p"] > 0
    # Norms that are not synchronised see their own part of the batch alone.
    assert difference(two.held(0, "whole"), two.held(0, "apart")) > 1e-3
    for whole, parts in (("whole", "half"), ("apart", "apart-half")):
        folders = [Path("checkpoints") / name for name in (whole, parts)]
        assert same_bits(*(weights(folder) for folder in folders))
        timeless = [lines(folder / "metrics.jsonl", "steps_per_second") for folder in folders]
        assert timeless[0] == timeless[1]
        assert len(timeless[0]) == 8
    check_scores(run)
    assert {codes[-1] for codes in three.codes} == {0}
    assert "processes: 2 -> 3; the run continues, not exactly" in three.said(0)
    assert "processes:" not in three.said(1)
    # The first process speaks, and all end with an error of all.
    assert [codes[:-1] for codes in two.codes] == [[0] * (len(TWO) - 1)] * 2
    assert [codes[-1] for codes in two.codes] == [2, 2]
    assert "run 'whole' is taken" in two.said(0)
    assert "msngan: error" not in two.said(1)
    assert "Traceback" not in two.said(0) + two.said(1)


def lines(path: Path, *but: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in but} for line in found]


def check_scores(run: Callable[..., int]) -> None:
    """Scores, grids and dynamics of two processes are those of one."""
    assert run(*sized(SCORED, 1), "--run", "scored-1") == 0
    folders = [Path(f"checkpoints/scored-{count}") for count in (1, 2)]
    scores = [lines(folder / "scores.jsonl") for folder in folders]
    assert [line["step"] for line in scores[1]] == [4, 8]
    for alone, shared in zip(*scores, strict=True):
        assert alone["protocol_id"] == shared["protocol_id"]
        for key, score in alone["scores"].items():
            assert shared["scores"][key]["mean"] == pytest.approx(score["mean"], rel=0.03), key
    steps = [np.load(folder / "dynamics.npz")["step"].tolist() for folder in folders]
    assert steps[0] == steps[1]
    names = [{path.name for path in Path("samples", folder.name).iterdir()} for folder in folders]
    assert names[0] == names[1]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_parts_of_all_processes_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: int, parts: int
) -> None:
    monkeypatch.setattr(processes, "count", lambda: size)
    whole, mine = torch.arange(parts * size * 4), []
    for rank in range(size):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        mine.append(processes.own(whole, parts).view(parts, -1))
    # Each critic update, `parts` of them, sees the images of the ranks in order.
    assert torch.equal(torch.cat(mine, 1).flatten(), whole)


def test_one_process_is_told_in_one_line_what_it_cannot_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for devices in ("0", "two", "-3"):
        assert main([*GAN, "--trainer.devices", devices]) == 2
        assert "--trainer.devices" in capsys.readouterr().err
    assert main([*GAN, "--trainer.devices", "2"]) == 2  # this is no command line of msngan
    assert "torchrun" in capsys.readouterr().err
    assert main([*GAN, "--trainer.num_nodes", "0"]) == 2
    assert not (tmp_path / "checkpoints").exists()
