"""Centring over several processes is centring of the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from msngan.norms import convert, synchronise
from msngan.norms.classic import BatchNorm2d

SHARDS = (5, 3)  # images of each process: unequal, so that a mean of means would be wrong
Found = dict[tuple[str, bool], dict[str, Tensor]]  # by norm, and whether a penalty was taken
NORMS = ["mean_spectral", "batch", "batch_no_gain"]
KINDS = [*NORMS, "gain alone", "scaled by constants"]


def network(norm: str, sync: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.1, inplace=True), nn.Flatten()]
    plain = nn.Sequential(*layers, nn.Linear(16, 1)).double()
    normed = convert(plain, norm if norm in NORMS else "batch", head="3")
    if norm not in NORMS:
        part = normed[0].output_norm
        nn.init.constant_(part.weight, 5.0)
        part.requires_grad_(norm == "gain alone")
        if norm == "gain alone":
            part.bias = None
    if sync:
        synchronise(normed)
    return normed


def images() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(sum(SHARDS), 3, 4, 4, generator=draw, dtype=torch.float64)


def measured(module: nn.Module, x: Tensor, penalty: bool) -> dict[str, Tensor]:
    """Logits, the gradient at the images, that of every parameter, and the running mean."""
    x = x.clone().requires_grad_()
    logits = module(x)
    loss = logits.square().sum()
    if penalty:  # the gradient of a gradient goes through the mean as well
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        loss = slope.square().sum()
    loss.backward()
    found = {"logits": logits.detach(), "images": x.grad}
    found |= {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {f"moving {name}": each for name, each in module[0].output_norm.named_buffers()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(SHARDS)
    )
    part = images().split(SHARDS)[rank]
    found = {
        (norm, penalty): measured(network(norm, sync=True), part, penalty)
        for norm in KINDS
        for penalty in (False, True)
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("processes")
    # Forked, and not spawned, because importing torch takes longer than the work.
    mp.start_processes(work, (str(folder),), nprocs=len(SHARDS), start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARDS))]


@pytest.mark.slow
@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("penalty", [False, True])
def test_two_processes_give_what_one_gives_on_both_batches(parts, norm, penalty):
    for name, expected in measured(network(norm, sync=False), images(), penalty).items():
        mine = [part[norm, penalty][name] for part in parts]
        if name in ("logits", "images"):
            found = torch.cat(mine)
        elif name.startswith("moving"):
            assert torch.equal(*mine)
            found = mine[0]
        else:
            found = mine[0] + mine[1]  # as the sum over processes has it
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_bfloat16_parameters_and_an_empty_part_are_met(tmp_path, monkeypatch):
    monkeypatch.setattr("msngan.runs.distributed.count", lambda: 2)
    monkeypatch.setattr("msngan.runs.distributed.of_each", lambda x: torch.stack([x, x]))
    monkeypatch.setattr("msngan.runs.distributed.mean_of", lambda total, size: total / size)
    part = BatchNorm2d(3).bfloat16()
    part.sync = True
    x = torch.randn(4, 3, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    y = part(x)
    y.square().sum().backward()
    assert (y.dtype, part.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert x.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"needs values in every process, got \(0, 3, 2, 2\)"):
        part(x[:0])


def test_without_several_processes_sync_changes_nothing():
    pair = (measured(network("mean_spectral", sync), images(), False) for sync in (False, True))
    alone, synced = pair
    torch.testing.assert_close(synced, alone, rtol=0, atol=0)
