"""From one command to the processes of a run, and back to one exit code.

Lightning's launchers are used by themselves, before there is a Trainer: which run it is, is decided
by the first process, and told to the others, before anything is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from subprocess import Popen
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins import ClusterEnvironment
from pytorch_lightning.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from msngan.runs import distributed as processes
from msngan.runs.folder import Failure, UserError
from msngan.training.children import leave_with, start_others, wait_for

MEET = timedelta(hours=1)  # the longest that one process may keep the others waiting


@dataclass
class World:
    """The processes of a run. devices, nodes: what the Trainer is told.

    began: the processes that this one has started; started: whether another of a run's has started
    this one, which then answers to it alone.
    """

    devices: Any = 1
    nodes: int = 1
    environment: ClusterEnvironment | None = None
    began: list[Popen[bytes]] = field(default_factory=list)
    started: bool = False

    @property
    def size(self) -> int:
        return processes.count()

    def code(self, code: int) -> int:
        """The exit code of this process where the run ends with `code`."""
        return 0 if self.started else code


@contextmanager
def world(options: dict[str, Any]) -> Iterator[World]:
    """Start the processes that --trainer options ask for, or join those that are there.

    At the end wait for them. An error that all processes have is the first one's to tell.
    """
    found = _asked(options)
    if found.environment is None:
        yield found
        return
    mine = not dist.is_initialized()
    try:
        if mine:
            _meet(found, options)
        yield found
        if mine:
            dist.barrier()
    except BaseException as problem:
        told = _for_this_process(problem, found)
        if told is problem:
            raise
        raise told from problem
    finally:
        if mine and dist.is_initialized():
            dist.destroy_process_group()
        wait_for(found.began)


def restarted() -> bool:
    """Whether torchrun has started this command again, after a process had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _asked(options: dict[str, Any]) -> World:
    """What the options and the environment ask for; no environment where it is one process."""
    devices, nodes = _parsed(options["devices"]), options["num_nodes"]
    gpus = options["accelerator"] != "cpu" and torch.cuda.is_available()
    if isinstance(devices, list) and not gpus:
        raise UserError(
            f"--trainer.devices {options['devices']} names GPUs, and training is on the CPU; give a"
            f" number of processes, as --trainer.devices {len(devices)}"
        )
    if nodes < 1:
        raise UserError(f"--trainer.num_nodes {nodes} is less than 1")
    if TorchElasticEnvironment.detect():
        size, local = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if devices == "auto":
            devices, nodes = local, size // local
        if _count(devices) * nodes != size:
            raise UserError(
                f"--trainer.devices {devices} on --trainer.num_nodes {nodes} is not what torchrun"
                f" has started, {size} processes; leave both out"
            )
        environment: ClusterEnvironment = TorchElasticEnvironment()
    else:
        devices = 1 if devices == "auto" else devices
        slurm = SLURMEnvironment.detect()
        environment = SLURMEnvironment(auto_requeue=False) if slurm else LightningEnvironment()
    one = _count(devices) * nodes == 1
    if one:
        return World(devices)
    if options["accelerator"] not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(
            f"--trainer.accelerator {options['accelerator']}: several processes are for cpu or gpu"
        )
    own = isinstance(environment, LightningEnvironment)
    started = own and int(os.environ.get("LOCAL_RANK", "0")) > 0
    return World(devices, nodes, environment, started=started)


def _parsed(devices: Any) -> Any:
    """A number of processes or `auto` as it is; GPUs by number, as 0,1 or [0, 1], as a list."""
    parts = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if not isinstance(parts, list):
        return devices
    try:
        return [int(part) for part in parts if str(part).strip()]
    except ValueError:
        raise UserError(
            f"--trainer.devices {devices} is no list of GPU numbers; write it as 0,1"
        ) from None


def _count(devices: Any) -> int:
    """How many processes a machine has."""
    if isinstance(devices, list):
        return len(devices)
    try:
        number = int(devices)
    except ValueError:
        raise UserError(f"--trainer.devices {devices!r} is no number of processes") from None
    if number == -1 and torch.cuda.is_available():
        return torch.cuda.device_count()
    if number < 1:
        raise UserError(f"--trainer.devices {devices} is less than 1")
    return number


def _device(options: dict[str, Any], found: World, local_rank: int) -> torch.device:
    if options["accelerator"] == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    listed = found.devices
    index = listed[local_rank] if isinstance(listed, list) else local_rank
    if index >= torch.cuda.device_count():
        raise UserError(
            f"--trainer.devices {found.devices}: there are {torch.cuda.device_count()} GPUs; use"
            " fewer, or --trainer.accelerator cpu"
        )
    return torch.device("cuda", index)


def _meet(found: World, options: dict[str, Any]) -> None:
    """Start this machine's other processes where nobody else does, and connect with all."""
    environment, number = found.environment, _count(found.devices)
    assert environment is not None
    try:
        environment.validate_settings(num_devices=number, num_nodes=found.nodes)
    except ValueError as problem:
        raise UserError(f"--trainer.devices, --trainer.num_nodes: {problem}") from problem
    device = _device(options, found, environment.local_rank())
    if not environment.creates_processes_externally:
        found.began = start_others(environment, number, found.nodes)
    if found.started:
        leave_with(os.getppid())
    environment.set_global_rank(environment.node_rank() * number + environment.local_rank())
    environment.set_world_size(number * found.nodes)
    setattr(rank_zero_only, "rank", environment.global_rank())  # noqa: B010  as Lightning does
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    rank, size = environment.global_rank(), environment.world_size()
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=MEET))
    # torchrun keeps its store when it starts the command again, and a process that is early would
    # read the addresses of those that have died.
    store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=MEET,
    )


def _for_this_process(problem: BaseException, found: World) -> BaseException:
    """What this process ends with: the first one speaks for all, others only of their own."""
    first = processes.rank() == 0
    if processes.lost(problem):
        if not first:
            return SystemExit(1)
        return Failure(
            "another process of the run has ended, its own words are above; what was saved is whole"
        )
    if first or not isinstance(problem, (UserError, Failure)):
        return problem
    if problem.together:
        return SystemExit(found.code(2 if isinstance(problem, UserError) else 1))
    return type(problem)(f"process {processes.rank()}: {problem}")
