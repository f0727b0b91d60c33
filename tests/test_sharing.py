"""Several processes have what one has: rows in their order, bits, scores, and the same refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from toy_extractor import extractor, photographs, protocol_of

from msngan.runs.distributed import gather, share
from msngan.runs.folder import Diverged
from msngan.scores import distances
from msngan.scores.by_class import ByClass
from msngan.scores.evaluation import Result, evaluate_sampler
from msngan.scores.protocol import METRICS
from msngan.scores.reference import Reference

COUNT = 25  # shares of 13 and 12
HELD_OUT = photographs(40, seed=1)
ROUNDS = 3  # references that two programs compute at once


def normal(count: int, seed: int, width: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


def odd() -> Tensor:
    """float64 whose bits a sum, a cast or a detour through float32 would change."""
    values = normal(COUNT, 3)
    values[:4, 0] = torch.tensor([torch.nan, -torch.inf, -0.0, 5e-324])
    return values


WHOLE: dict[str, Callable[[], Tensor]] = {
    "features": odd,
    "images": lambda: photographs(COUNT, size=4),
    "numbers": lambda: normal(COUNT, 4)[:, 0],
    "one image": lambda: normal(1, 4),
    "halves": lambda: normal(COUNT, 4).bfloat16(),
}


def own(whole: Tensor) -> Tensor:
    """Gathered from this process's share of `whole`."""
    mine = share(len(whole))
    return gather(whole[mine], mine, len(whole))


def backwards() -> Tensor:
    mine = share(COUNT).flip(0)
    return gather(odd()[mine], mine, COUNT)


def first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


# what a process may do wrong; each must be refused by all, also by those that were right
WRONG: dict[str, Callable[[], Tensor]] = {
    "whole": lambda: gather(odd(), torch.arange(COUNT), COUNT),
    "whole rows": lambda: gather(odd(), share(COUNT), COUNT),
    "whole in one": lambda: gather(odd(), torch.arange(COUNT), COUNT) if first() else own(odd()),
    "a gap": lambda: gather(odd()[share(COUNT - 1)], share(COUNT - 1), COUNT),
    "beyond": lambda: gather(odd()[share(COUNT)], share(COUNT) + 1, COUNT),
    "twice": lambda: gather(odd()[share(COUNT)], share(COUNT) // 2, COUNT),
    "another width": lambda: own(odd()[:, :5] if first() else odd()),
    "another dtype": lambda: own(odd().float() if first() else odd()),
}


def refusals() -> dict[str, str]:
    found = {}
    for name, mistake in WRONG.items():
        try:
            mistake()
        except ValueError as error:
            found[name] = str(error)
    return found


def sampler(count: int, seed: int) -> Iterator[Tensor]:
    """This process's share of half-bright noise."""
    yield from (photographs(count, seed=seed) // 2)[share(count)].split(4)


def nan_in_one(count: int, seed: int) -> Iterator[Tensor]:
    if seed == 40 * 2**20 + 1 and dist.is_initialized() and dist.get_rank() == 1:
        raise Diverged("images hold NaN; the generator has diverged")
    yield from sampler(count, seed)


def whole_sampler(count: int, seed: int) -> Iterator[Tensor]:
    yield photographs(count, seed=seed)


def scored(folder: Path) -> dict[str, Result | str]:
    toy = extractor()
    real = Reference.of(photographs(60), toy, folder / "shared")
    protocol = protocol_of(toy, real, samples=21, splits=2, seed=40)  # 21 is not even
    halves = (Reference.of(photographs(60)[at::2], toy, folder / "shared") for at in (0, 1))
    classes: dict[str, Any] = {
        "metrics": METRICS,
        "by_class": ByClass(0.5, tuple(halves)),
        "labels": lambda count, seed: (torch.arange(count) + seed) % 3 % 2,
    }
    found: dict[str, Result | str] = {
        backend: evaluate_sampler(
            sampler, protocol, toy, real, backend=backend, held_out=HELD_OUT, **classes
        )
        for backend in ("own", "torchmetrics")
    }
    found["nan"] = evaluate_sampler(nan_in_one, replace(protocol, runs=2), toy, real)
    try:
        found["whole"] = evaluate_sampler(whole_sampler, protocol, toy, real)
    except ValueError as problem:
        found["whole"] = str(problem)
    return found


def race(rank: int, folder: Path) -> list[tuple[Tensor, Tensor, dict[str, float]]]:
    """References, computed at the same time as by another program that shares only the cache."""
    toy = extractor()
    (folder / f"ready-{rank}").touch()
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.001)
    found = []
    for seed in range(ROUNDS):
        real = Reference.of(photographs(60, seed=seed), toy, folder / "raced")
        near = real.neighbours(toy.features(HELD_OUT).pool, (3, 5))
        found.append((real.mean, real.root, near))
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {
        "shares": [share(count) for count in (COUNT, 1)],
        "gathered": {name: own(whole()) for name, whole in WHOLE.items()},
        "backwards": backwards(),
        "refused": refusals(),
        "scored": scored(Path(folder)),
    }
    dist.destroy_process_group()
    found["raced"] = race(rank, Path(folder))
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processes")
    # Forked, and not spawned, because importing torch takes longer than the work.
    mp.start_processes(work, (str(made),), nprocs=2, start_method="fork")
    return made


@pytest.fixture(scope="module")
def processes(folder: Path) -> list[dict[str, Any]]:
    """What work() found in each of two processes."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (each.contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return torch.equal(a, b)


@pytest.mark.slow
def test_shares_are_disjoint_even_and_everything(processes):
    many, one = zip(*(found["shares"] for found in processes), strict=True)
    assert torch.equal(torch.cat(many).sort().values, torch.arange(COUNT))
    assert [len(each) for each in many] == [13, 12]
    assert [each.tolist() for each in one] == [[0], []]


@pytest.mark.slow
def test_all_rows_come_back_in_order_bit_for_bit(processes):
    for found in processes:
        for name, whole in WHOLE.items():
            assert same_bits(found["gathered"][name], whole()), name
        assert same_bits(found["backwards"], odd())


@pytest.mark.slow
def test_every_process_refuses_what_one_got_wrong(processes):
    one, other = (found["refused"] for found in processes)
    assert one == other
    assert one.keys() == WRONG.keys()
    assert one["whole"] == (
        f"{2 * COUNT} rows, {COUNT} of them different, came together for {COUNT}; each process must"
        " hold its own share of them and not the whole"
    )
    assert "process 0 has 25 rows, but indices for" in one["whole rows"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["own", "torchmetrics"])
def test_every_process_has_the_scores_of_one(backend, processes, tmp_path):
    alone = scored(tmp_path)[backend]
    one, other = (found["scored"][backend] for found in processes)
    assert one == other
    for mine, theirs in ((alone.scores, one.scores), (alone.real_data, one.real_data)):
        assert mine.keys() == theirs.keys()
        for key, score in mine.items():
            # features differ by float32 rounding: convolutions of other batches
            assert theirs[key]["values"] == pytest.approx(score["values"], rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_a_failure_in_one_process_fails_all(processes):
    for found in processes:
        for score in found["scored"]["nan"].scores.values():
            assert score["mean"] is None
            assert "NaN" in score["reason"]
        assert found["scored"]["whole"] == "process 0 has 21 rows, but indices for 11"


@pytest.mark.slow
def test_two_programs_that_fill_one_cache_at_once_leave_it_whole(folder, processes):
    names = sorted(path.name for path in (folder / "raced").iterdir())
    assert len(names) == 3 * ROUNDS  # statistics and two sets of radii each; nothing temporary
    toy = extractor()
    for seed in range(ROUNDS):
        again = Reference.of(photographs(60, seed=seed), toy, folder / "raced")
        near = again.neighbours(toy.features(HELD_OUT).pool, (3, 5))
        for mean, root, numbers in (found["raced"][seed] for found in processes):
            assert torch.equal(mean, again.mean)
            assert torch.equal(root, again.root)
            assert numbers == near


def test_duplicated_rows_do_not_move_an_average_but_the_kernel_distance():
    fake, real = normal(COUNT, 0), normal(40, 1)
    twice = torch.cat([real, real])
    torch.testing.assert_close(distances.moments(twice).mean, distances.moments(real).mean)
    assert distances.kernel_distance(fake, twice) > 1.1 * distances.kernel_distance(fake, real)


def test_one_process_has_all_and_gathers_what_it_has():
    assert torch.equal(share(COUNT), torch.arange(COUNT))
    rows = odd()
    assert same_bits(gather(rows, share(COUNT), COUNT), rows)
    assert same_bits(backwards(), rows)
    assert set(refusals()) == {"a gap", "beyond", "twice"}
    with pytest.raises(ValueError, match="process 0 has 3 rows, but indices for 2"):
        gather(normal(3, 0), torch.arange(2), 3)
