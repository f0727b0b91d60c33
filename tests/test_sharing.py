"""Several processes have what one has: rows in their order, bits, scores, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from msngan.scores import distances
from msngan.scores.sharing import gather, share

COUNT = 25  # shares of 13 and 12, or of 9, 8 and 8


def normal(count: int, seed: int, width: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


def odd() -> Tensor:
    """float64 whose bits a sum, a cast or a detour through float32 would change."""
    values = normal(COUNT, 3)
    values[:4, 0] = torch.tensor([torch.nan, -torch.inf, -0.0, 5e-324])
    return values


def images() -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (COUNT, 3, 4, 4), generator=draw, dtype=torch.uint8)


WHOLE: dict[str, Callable[[], Tensor]] = {
    "features": odd,
    "images": images,
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


def by_blocks() -> Tensor:
    """The last process has all but the first rows."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    last = rank == count - 1
    mine = torch.arange(count - 1, COUNT) if last else torch.tensor([rank])
    return gather(odd()[mine], mine, COUNT)


def shared() -> tuple[Tensor, Tensor, Tensor]:
    """Features of samples and of a reference, and logits, each from shares."""
    return own(normal(COUNT, 0) + 0.5), own(normal(40, 1)), own(3 * normal(COUNT, 2))


def measured() -> dict[str, float]:
    fake, real, logits = shared()
    return {
        "frechet": distances.frechet_distance(fake, real),
        "kernel": distances.kernel_distance(fake, real),
        "score": distances.inception_score(logits, 2),
    }


def by_library() -> dict[str, float]:
    """torchmetrics' of the same; a failure if it turns to the other processes."""
    from msngan.scores import evaluation

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it turned to the other processes")

    fake, real, logits = shared()
    known = distances.moments(real)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("barrier", "all_gather", "all_reduce"):
            monkeypatch.setattr(dist, name, refuse)
        return {
            "frechet": evaluation.torchmetrics_frechet(
                fake, known.mean, known.covariance, known.count
            ),
            "score": evaluation.torchmetrics_score(logits, 2),
        }


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


def everything() -> dict[str, Any]:
    return {
        "shares": [share(count) for count in (COUNT, 1)],
        "gathered": {name: own(whole()) for name, whole in WHOLE.items()},
        "backwards": backwards(),
        "by blocks": by_blocks(),
        "measured": measured(),
        "refused": refusals(),
    }


def work(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
    found = everything()
    if count == 2:  # its import takes longer than all the rest
        found["by library"] = by_library()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What everything() is in each of several processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (each.contiguous().reshape(-1).view(torch.uint8) for each in (a, b))
    return torch.equal(a, b)


@pytest.mark.slow
def test_shares_are_disjoint_even_and_everything(processes: list[dict[str, Any]]) -> None:
    many, one = zip(*(found["shares"] for found in processes), strict=True)
    assert torch.equal(torch.cat(many).sort().values, torch.arange(COUNT))
    assert max(map(len, many)) - min(map(len, many)) == 1
    assert [each.tolist() for each in one] == [[0]] + [[]] * (len(processes) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_all_rows_come_back_in_order_bit_for_bit(
    name: str, processes: list[dict[str, Any]]
) -> None:
    for found in processes:
        assert same_bits(found["gathered"][name], WHOLE[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["backwards", "by blocks"])
def test_any_split_will_do(name: str, processes: list[dict[str, Any]]) -> None:
    for found in processes:
        assert same_bits(found[name], odd())


@pytest.mark.slow
def test_scores_are_those_of_one_process(processes: list[dict[str, Any]]) -> None:
    alone = measured()
    for found in processes:
        assert found["measured"] == pytest.approx(alone, rel=1e-10)
        assert found["measured"] == processes[0]["measured"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2], indirect=True)
def test_torchmetrics_does_not_sum_over_processes_what_each_has_whole(
    processes: list[dict[str, Any]],
) -> None:
    alone = by_library()
    assert alone["frechet"] == pytest.approx(measured()["frechet"], rel=1e-8)
    for found in processes:
        assert found["by library"] == pytest.approx(alone, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_every_process_refuses_what_one_got_wrong(
    name: str, processes: list[dict[str, Any]]
) -> None:
    messages = {found["refused"].get(name) for found in processes}
    assert len(messages) == 1
    assert messages != {None}


@pytest.mark.slow
def test_a_replicated_set_is_told_what_is_wrong(processes: list[dict[str, Any]]) -> None:
    rows = len(processes) * COUNT
    assert processes[0]["refused"]["whole"] == (
        f"{rows} rows, {COUNT} of them different, came together for {COUNT}; each process must"
        " hold its own share of them and not the whole"
    )
    assert "process 0 has 25 rows, but indices for" in processes[1]["refused"]["whole rows"]


def test_duplicated_rows_do_not_move_an_average_but_the_kernel_distance() -> None:
    fake, real = normal(COUNT, 0), normal(40, 1)
    twice = torch.cat([real, real])
    assert distances.moments(twice).mean.numpy() == pytest.approx(
        distances.moments(real).mean.numpy()
    )
    assert distances.kernel_distance(fake, twice) > 1.1 * distances.kernel_distance(fake, real)


def test_one_process_has_all_and_gathers_what_it_has() -> None:
    assert torch.equal(share(COUNT), torch.arange(COUNT))
    rows = odd()
    assert gather(rows, share(COUNT), COUNT) is rows
    assert same_bits(backwards(), rows)
    assert same_bits(by_blocks(), rows)


def test_one_process_too_refuses_rows_that_are_not_each_there_once() -> None:
    refused = refusals()
    assert set(refused) == {"a gap", "beyond", "twice"}
    with pytest.raises(ValueError, match="3 rows came with 2 indices"):
        gather(normal(3, 0), torch.arange(2), 3)
