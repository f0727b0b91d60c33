"""Several processes on parts of a batch are one process on the whole of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from classifier_runs import TINY_CLASSIFIER
from conftest import QUIET, TINY, same_bits, under, weights
from together import held, run_together
from torch import Tensor

from msngan.__main__ import main
from msngan.norms import NORMS
from msngan.runs import distributed as processes

BATCH = 12  # of all processes together
GAN = ["fit", *TINY, *QUIET, "--steps", "20", "--data.mirror", "true", "--dynamics.every", "0"]
EXACT = ["--trainer.precision", "64-true"]
GRADIENT = ["--model.penalty", "gradient", "--model.loss", "wasserstein"]

# What is trained by one process and by several, in double precision: see the README on single.
CASES = {norm: [*GAN, *EXACT, *under(norm)] for norm in sorted(NORMS)}
CASES |= {
    "gradient penalty": [*GAN, *EXACT, *under("batch"), *GRADIENT, "--model.critic_steps", "2"],
    "gradient penalty through the means": [
        *(*GAN, *EXACT, *GRADIENT, "--model.norm", "mean_spectral"),
        *("--model.penalty_statistics", "batch", "--model.critic_batch", "joint"),
    ],
    "classifier": ["fit", *TINY_CLASSIFIER, *EXACT, "--steps", "10", "--data.crop", "1"],
}
ON_THREE = ["mean_spectral", "batch", "gradient penalty"]


def sized(job: list[str], size: int) -> list[str]:
    return [*job, "--data.batch_size", str(BATCH // size)]


def named(case: str, size: int) -> list[str]:
    return ["--run", f"{case.replace(' ', '-')}-{size}"]


SCORED = [*GAN, "--scores.enabled", "true", "--scores.every", "10", "--scores.samples", "21"]
SCORED += ["--scores.runs", "2", "--samples.every", "10", "--dynamics.every", "10"]
SCORED += ["--data.limit", "null", "--records.every", "1"]
RESUMED = [*GAN, "--model.norm", "mean_spectral", "--records.every", "1"]
APART = [*RESUMED, "--model.norm_options.sync", "false"]
TWO = {
    **{case: [*sized(job, 2), *named(case, 2)] for case, job in CASES.items()},
    "scored": [*sized(SCORED, 2), "--run", "scored-2"],
    "whole": [*sized(RESUMED, 2), "--run", "whole"],
    "half": [*sized(RESUMED, 2), "--run", "half", "--steps", "9"],
    "resumed": ["resume", "half", "--steps", "20"],
    "apart": [*sized(APART, 2), "--run", "apart"],
    "apart half": [*sized(APART, 2), "--run", "apart-half", "--steps", "9"],
    "apart resumed": ["resume", "apart-half", "--steps", "20"],
    "taken": [*sized(RESUMED, 2), "--run", "whole"],
}
THREE = {case: [*sized(CASES[case], 3), *named(case, 3)] for case in ON_THREE}
THREE["of two"] = ["resume", "mean_spectral-2", "--steps", "22"]


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before, folder = Path.cwd(), tmp_path_factory.mktemp("runs")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def together(place: Path, size: int, jobs: dict[str, list[str]]) -> Together:
    folder = place / f"of-{size}"
    folder.mkdir()
    return Together(size, jobs, folder, run_together(size, list(jobs.values()), folder))


@pytest.fixture(scope="module")
def two(place: Path) -> Together:
    return together(place, 2, TWO)


@pytest.fixture(scope="module")
def three(place: Path, two: Together) -> Together:
    return together(place, 3, THREE)


@pytest.fixture(scope="module")
def one(place: Path) -> dict[str, dict[str, Tensor]]:
    """What one process ends with."""
    found = {}
    for case, job in CASES.items():
        assert main([*sized(job, 1), *named(case, 1)]) == 0
        path = place / "checkpoints" / named(case, 1)[1] / "last.ckpt"
        found[case] = torch.load(path, weights_only=True)["state_dict"]
    return found


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
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_of_one(
    one: dict[str, dict[str, Tensor]], two: Together, case: str
) -> None:
    assert difference(one[case], two.held(0, case)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", ON_THREE)
def test_three_processes_end_with_the_weights_of_one(
    one: dict[str, dict[str, Tensor]], three: Together, case: str
) -> None:
    assert difference(one[case], three.held(0, case)) < 1e-6


@pytest.mark.slow
def test_all_processes_hold_the_same_bits(two: Together, three: Together) -> None:
    for run in (two, three):
        for job in run.jobs:
            if job == "taken":
                continue
            first = run.held(0, job)
            assert all(same_bits(first, run.held(rank, job)) for rank in range(1, run.size)), job


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "parts"), [("whole", "half"), ("apart", "apart-half")])
def test_a_run_of_two_processes_resumes_exactly(two: Together, whole: str, parts: str) -> None:
    folders = [Path("checkpoints") / name for name in (whole, parts)]
    assert same_bits(*(weights(folder) for folder in folders))
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    timeless = [
        [{k: v for k, v in json.loads(x).items() if k != "steps_per_second"} for x in each]
        for each in lines
    ]
    assert timeless[0] == timeless[1]
    assert len(timeless[0]) == 20


@pytest.mark.slow
def test_norms_that_are_not_synchronised_see_their_own_part_alone(two: Together) -> None:
    assert difference(two.held(0, "whole"), two.held(0, "apart")) > 1e-3


@pytest.mark.slow
def test_scores_grids_and_dynamics_are_those_of_one_process(two: Together, place: Path) -> None:
    assert main([*sized(SCORED, 1), "--run", "scored-1"]) == 0
    lines = [
        [
            json.loads(x)
            for x in Path(f"checkpoints/scored-{n}/scores.jsonl").read_text().split("\n")[:-1]
        ]
        for n in (1, 2)
    ]
    assert [line["step"] for line in lines[1]] == [10, 20]
    for alone, shared in zip(*lines, strict=True):
        assert alone["protocol_id"] == shared["protocol_id"]
        for key, score in alone["scores"].items():
            assert shared["scores"][key]["mean"] == pytest.approx(score["mean"], rel=0.03), key
    records = [np.load(f"checkpoints/scored-{n}/dynamics.npz") for n in (1, 2)]
    assert records[0]["step"].tolist() == records[1]["step"].tolist()
    assert {p.name for p in Path("samples/scored-1").iterdir()} == {
        p.name for p in Path("samples/scored-2").iterdir()
    }


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_says_that_it_is_not_exact(
    three: Together,
) -> None:
    assert {codes[-1] for codes in three.codes} == {0}
    assert "processes: 2 -> 3; the run continues, not exactly" in three.said(0)
    assert "processes:" not in three.said(1)


@pytest.mark.slow
def test_the_first_process_speaks_and_all_know_of_an_error(two: Together) -> None:
    assert [codes[:-1] for codes in two.codes] == [[0] * (len(TWO) - 1)] * 2
    assert [codes[-1] for codes in two.codes] == [2, 2]
    assert "run 'whole' is taken" in two.said(0)
    assert "msngan: error" not in two.said(1)
    assert "Traceback" not in two.said(0) + two.said(1)


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
