"""An evaluation over several processes has the numbers of one process, in every one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from toy_extractor import METADATA, network, photographs, protocol_of

from msngan.runs.folder import Diverged
from msngan.scores import sharing as processes
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.evaluation import Result, evaluate_sampler
from msngan.scores.reference import Reference

HELD_OUT = photographs(40, seed=1)


def sampler(count: int, seed: int) -> Iterator[Tensor]:
    """This process's share of half-bright noise."""
    yield from (photographs(count, seed=seed) // 2)[processes.share(count)].split(4)


def nan_in_one(count: int, seed: int) -> Iterator[Tensor]:
    if seed == 40 * 2**20 + 1 and dist.is_initialized() and dist.get_rank() == 1:
        raise Diverged("images hold NaN; the generator has diverged")
    yield from sampler(count, seed)


def whole(count: int, seed: int) -> Iterator[Tensor]:
    yield photographs(count, seed=seed)


def scored(folder: Path) -> dict[str, Result | str]:
    toy = EmbeddedExtractor(network(), METADATA, "ab" * 32)
    real = Reference.of(photographs(60), toy, folder / "cache")
    protocol = protocol_of(toy, real, samples=21, splits=2, seed=40)  # 21 is not even
    found: dict[str, Result | str] = {
        backend: evaluate_sampler(sampler, protocol, toy, real, backend=backend, held_out=HELD_OUT)
        for backend in ("own", "torchmetrics")
    }
    found["nan"] = evaluate_sampler(nan_in_one, replace(protocol, runs=2), toy, real)
    try:
        found["whole"] = evaluate_sampler(whole, protocol, toy, real)
    except ValueError as problem:
        found["whole"] = str(problem)
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(scored(Path(folder)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result | str]]:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=2)
    assert len(os.listdir(folder / "cache")) >= 1
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["own", "torchmetrics"])
def test_every_process_has_the_numbers_of_one(
    backend: str, shared: list[dict[str, Result]], tmp_path: Path
) -> None:
    alone = scored(tmp_path)[backend]
    for found in shared:
        assert found[backend] == shared[0][backend]
        for mine, theirs in (
            (alone.scores, found[backend].scores),
            (alone.real_data, found[backend].real_data),
        ):
            assert mine.keys() == theirs.keys()
            for key, score in mine.items():
                # features differ by float32 rounding: convolutions of other batches
                assert theirs[key]["values"] == pytest.approx(score["values"], rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_nan_in_one_process_fails_the_score_in_all(shared: list[dict[str, Result]]) -> None:
    for found in shared:
        assert {score["mean"] for score in found["nan"].scores.values()} == {None}
        for score in found["nan"].scores.values():
            assert "NaN" in score["reason"]


@pytest.mark.slow
def test_a_process_that_draws_the_whole_is_refused_in_all(shared: list[dict[str, str]]) -> None:
    for found in shared:
        assert "gave 21 images, not the 1" in found["whole"]  # 11 in one process, 10 in the other


def race(rank: int, folder: str) -> None:
    """At one moment with the other, and without a process group: two programs that know nothing."""
    torch.set_num_threads(1)
    toy = EmbeddedExtractor(network(), METADATA, "ab" * 32)
    (Path(folder) / f"ready-{rank}").touch()
    while len(list(Path(folder).glob("ready-*"))) < 2:
        time.sleep(0.001)
    for round_ in range(10):
        images = photographs(60, seed=round_)
        real = Reference.of(images, toy, Path(folder) / "cache")
        near = real.neighbours(toy.features(HELD_OUT).pool, (3, 5))
        torch.save((real.mean, real.root, near), f"{folder}/{rank}-{round_}.pt")


@pytest.mark.slow
def test_two_programs_that_fill_one_cache_at_once_leave_it_whole(tmp_path: Path) -> None:
    mp.spawn(race, (str(tmp_path),), nprocs=2)
    toy = EmbeddedExtractor(network(), METADATA, "ab" * 32)
    for round_ in range(10):
        first, second = (torch.load(tmp_path / f"{rank}-{round_}.pt") for rank in range(2))
        again = Reference.of(photographs(60, seed=round_), toy, tmp_path / "cache")
        near = again.neighbours(toy.features(HELD_OUT).pool, (3, 5))
        for mean, root, numbers in (first, second):
            assert torch.equal(mean, again.mean)
            assert torch.equal(root, again.root)
            assert numbers == near
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(names) == 10 * 3  # statistics and two sets of radii each; nothing temporary
    assert not [name for name in names if name.startswith(".")]
