"""How a run uses its machine, and what it says where that is another than before."""

from __future__ import annotations

import sys
from typing import Any

import torch

from msngan.runs import distributed as processes
from msngan.runs.fit_config import FitConfig
from msngan.runs.hardware import cores
from msngan.training.launch import World


def threads_of(config: FitConfig, world: World) -> int:
    """--threads, else the cores of this machine shared among its processes."""
    if config.threads:
        return int(config.threads)
    if world.size == 1:
        return torch.get_num_threads()
    return max(1, cores() // max(1, world.size // world.nodes))


def say_machine(before: dict[str, Any], config: FitConfig, world: World) -> None:
    """What a resumed run's numbers may depend on: `before` is its environment.json."""
    if processes.rank() > 0:
        return
    threads, size = threads_of(config, world), world.size
    had = before.get("processes", 1)
    if had != size:
        batch = config.data.batch_size
        sys.stderr.write(
            f"processes: {had} -> {size}; the run goes on, not exactly: a critic update now takes"
            f" {size} x {batch} images (--data.batch_size is of one process), and other last bits"
            " come of other sums\n"
        )
    if before.get("threads", threads) != threads:
        sys.stderr.write(
            f"threads: {before['threads']} -> {threads}; the run goes on, its last bits may differ"
            f" (--threads {before['threads']} keeps them)\n"
        )
