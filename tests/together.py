"""Command lines run by several processes, forked from this one as torchrun would start them.

A fork need not import torch again. It is sound only where torch computes in one thread, as in all
tests.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer

from msngan.__main__ import main

Job = Sequence[str]


def fork(work: Callable[[], object], log: Path) -> int:
    """The process id of a child that does the work, writes to `log` and ends with sys.exit's code.

    The code is 99 if the work raises anything else.
    """
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w", 1, closefd=False), open(2, "w", 1, closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_together(
    size: int, jobs: Sequence[Job], folder: Path, prepare: Callable[[], None] | None = None
) -> list[list[int]]:
    """The exit codes of each process for the command lines, one after the other.

    Each leaves what its network holds at the end in <folder>/<rank>-<job>.pt, and what it says in
    <folder>/<rank>.log. prepare: called in each process first.
    """
    started = [
        fork(partial(_work, rank, size, jobs, folder, prepare), folder / f"{rank}.log")
        for rank in range(size)
    ]
    for child in started:
        wait(child)
    codes = []
    for rank in range(size):
        path = folder / f"{rank}.codes"
        assert path.is_file(), (folder / f"{rank}.log").read_text()
        codes.append([int(code) for code in path.read_text().split()])
    return codes


def held(folder: Path, rank: int, job: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"{rank}-{job}.pt", weights_only=True)
    return found


def _work(
    rank: int, size: int, jobs: Sequence[Job], folder: Path, prepare: Callable[[], None] | None
) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder.resolve()}/meet", rank=rank, world_size=size
    )
    if prepare is not None:
        prepare()
    codes = []
    for index, job in enumerate(jobs):
        seen = _seen()
        try:
            codes.append(main([str(word) for word in job]))
        except SystemExit as ending:  # of a process that leaves the word to the first
            codes.append(int(ending.code or 0))
        if seen:
            torch.save(seen[-1].state_dict(), folder / f"{rank}-{index}.pt")
    (folder / f"{rank}.codes").write_text(" ".join(map(str, codes)))


_fit = Trainer.fit


def _seen() -> list[LightningModule]:
    """The modules that are trained from now on."""
    found: list[LightningModule] = []

    def fit(self: Trainer, model: LightningModule, *given: object, **named: object) -> None:
        found.append(model)
        _fit(self, model, *given, **named)  # type: ignore[arg-type]

    Trainer.fit = fit  # type: ignore[method-assign,assignment]
    return found
