"""Several processes: from one command to the processes of a run, and back to one exit code.

Lightning's launchers start the processes before there is a Trainer: the first process decides which
run it is and tells the others, before anything is built.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from subprocess import Popen, TimeoutExpired
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins import ClusterEnvironment
from pytorch_lightning.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer

from msngan.norms import Centring, own_statistics
from msngan.norms import synchronise as synchronise_norms
from msngan.runs import distributed
from msngan.runs.folder import Failure, UserError, counted
from msngan.runs.hardware import refuse_too_many

MEET = timedelta(hours=1)  # the longest that one process may keep the others waiting
LOOK_SECONDS = 1.0  # between looks at the other processes
GRACE_SECONDS = 20.0  # for a process to end by itself after another has died


@dataclass
class World:
    """The processes of a run. devices, nodes: what the Trainer is told.

    one_each: whether each process sees one GPU of its own, as under SLURM's --gpus-per-task=1.
    began: the processes that this one started. started: whether another process of the run started
    this one, whose exit code only that process sees.
    """

    devices: Any = 1
    nodes: int = 1
    environment: ClusterEnvironment | None = None
    one_each: bool = False
    began: list[Popen[bytes]] = field(default_factory=list)
    started: bool = False

    @property
    def size(self) -> int:
        return distributed.count()

    def code(self, code: int) -> int:
        """The exit code of this process if the run ends with `code`."""
        return 0 if self.started else code


@contextmanager
def world(options: dict[str, Any]) -> Iterator[World]:
    """Start the processes that --trainer options ask for, or join existing ones; wait at the end.

    An error that all processes raise is reported by the first.
    """
    found = _asked(options)
    if found.environment is None:
        yield found
        return
    mine = not dist.is_initialized()
    try:
        if mine:
            _meet(found, options)
        with distributed.even():
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
        _wait_for(found.began)


def restarted() -> bool:
    """Whether torchrun started this command again after a process died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _asked(options: dict[str, Any]) -> World:
    """What the options and the environment ask for; `environment` is None for one process."""
    devices, nodes = _parsed(options["devices"]), options["num_nodes"]
    gpus = options["accelerator"] != "cpu" and torch.cuda.is_available()
    there = gpus or torch.backends.mps.is_available()
    if options["accelerator"] in ("gpu", "cuda") and not there:
        raise UserError(
            f"--trainer.accelerator {options['accelerator']}: no GPU is available here; use cpu or"
            " auto"
        )
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
                f"--trainer.devices {devices} and --trainer.num_nodes {nodes} do not match the"
                f" {size} processes that torchrun started; leave both out"
            )
        environment: ClusterEnvironment = TorchElasticEnvironment()
    else:
        devices = 1 if devices == "auto" else devices
        slurm = SLURMEnvironment.detect()
        environment = SLURMEnvironment(auto_requeue=False) if slurm else LightningEnvironment()
    if _count(devices) * nodes == 1:
        return World(devices)
    if options["accelerator"] not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(
            f"--trainer.accelerator {options['accelerator']}: several processes need cpu or gpu"
        )
    own = isinstance(environment, LightningEnvironment)
    if own and not gpus:
        refuse_too_many("--trainer.devices", _count(devices))
    started = own and int(os.environ.get("LOCAL_RANK", "0")) > 0
    return World(devices, nodes, environment, started=started)


def _parsed(devices: Any) -> Any:
    """GPU numbers, as 0,1 or [0, 1], as a list; a number of processes or `auto` unchanged."""
    parts = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if not isinstance(parts, list):
        return devices
    try:
        return [int(part) for part in parts if str(part).strip()]
    except ValueError:
        raise UserError(
            f"--trainer.devices {devices} is not a list of GPU numbers; write it as 0,1"
        ) from None


def _count(devices: Any) -> int:
    """Processes on each machine."""
    if isinstance(devices, list):
        return len(devices)
    try:
        number = int(devices)
    except ValueError:
        raise UserError(f"--trainer.devices {devices!r} is not a number of processes") from None
    if number == -1 and torch.cuda.is_available():
        return torch.cuda.device_count()
    if number < 1:
        raise UserError(f"--trainer.devices {devices} is less than 1")
    return number


def _meet(found: World, options: dict[str, Any]) -> None:
    """Start this machine's other processes unless something else does, and connect to all."""
    environment, number = found.environment, _count(found.devices)
    assert environment is not None
    try:
        environment.validate_settings(num_devices=number, num_nodes=found.nodes)
    except ValueError as problem:
        raise UserError(f"--trainer.devices, --trainer.num_nodes: {problem}") from problem
    gpu = options["accelerator"] != "cpu" and torch.cuda.is_available()
    if gpu:
        index = environment.local_rank()
        index = found.devices[index] if isinstance(found.devices, list) else index
        there = torch.cuda.device_count()
        found.one_each = there == 1 < number and environment.creates_processes_externally
        index = 0 if found.one_each else index
        if index >= there:
            raise UserError(
                f"--trainer.devices {found.devices}: this machine has {counted(there, 'GPU')};"
                " use fewer, or"
                " --trainer.accelerator cpu"
            )
        torch.cuda.set_device(index)
    if not environment.creates_processes_externally:
        found.began = _start_others(environment, number, found.nodes)
    if found.started:
        parent = os.getppid()
        _end_after(lambda: os.getppid() != parent)
    environment.set_global_rank(environment.node_rank() * number + environment.local_rank())
    environment.set_world_size(number * found.nodes)
    setattr(rank_zero_only, "rank", environment.global_rank())  # noqa: B010  as Lightning does
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    rank, size = environment.global_rank(), environment.world_size()
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=MEET))
    # torchrun keeps its store when it starts the command again, and an early process would read the
    # addresses of those that died.
    store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=MEET)


def _for_this_process(problem: BaseException, found: World) -> BaseException:
    """The exception this process ends with: the first reports for all, others only their own."""
    first = distributed.rank() == 0
    if distributed.lost(problem):
        if not first:
            return SystemExit(1)
        return Failure(
            "another process of the run has ended; its own message is above, saved files are intact"
        )
    if first or not isinstance(problem, (UserError, Failure)):
        return problem
    if problem.together:
        return SystemExit(found.code(2 if isinstance(problem, UserError) else 1))
    return type(problem)(f"process {distributed.rank()}: {problem}")


def _start_others(environment: ClusterEnvironment, number: int, nodes: int) -> list[Popen[bytes]]:
    """Start this machine's other processes: Lightning runs this command line again for each."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started_as = [spec.name.partition(".")[0] if spec else "", os.path.basename(sys.argv[0])]
    if not any("msngan" in name for name in started_as):
        raise UserError(
            "--trainer.devices runs this program again for each process, which works from a command"
            " line only; use `msngan`, `python -m msngan` or torchrun"
        )
    launcher = _SubprocessScriptLauncher(environment, number, nodes)
    launcher._call_children_scripts()
    began: list[Popen[bytes]] = launcher.procs
    _end_after(lambda: any(each.poll() not in (None, 0) for each in began), began)
    return began


def _end_after(over: Callable[[], bool], began: Sequence[Popen[bytes]] = ()) -> None:
    """End this process, and those that it began, soon after `over()` is true.

    Processes that are exchanging data notice a failure themselves; one that waits elsewhere does
    not.
    """

    def look() -> None:
        while not over():
            time.sleep(LOOK_SECONDS)
        time.sleep(GRACE_SECONDS)
        for each in began:
            each.kill()
        if began:
            sys.stderr.write("msngan: error: another process of the run has ended\n")
            sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _wait_for(began: list[Popen[bytes]]) -> None:
    end = time.monotonic() + GRACE_SECONDS
    for each in began:
        try:
            each.wait(max(0.1, end - time.monotonic()))
        except TimeoutExpired:
            each.kill()
            each.wait()


class Together(DDPStrategy):
    """Data-parallel training without DistributedDataParallel, in processes that `world` connected.

    DistributedDataParallel assumes one backward pass of one loss through all parameters, which no
    GAN has. Here all processes start with the first one's weights, and before each optimizer step
    the gradients are summed in one exchange; each process then takes the same step, so weights stay
    equal bit for bit. Sums, not means: a loss is that of the global batch, and each process holds
    its own part of the graph.
    """

    strategy_name = "together"

    def __init__(self, world: World) -> None:
        super().__init__(cluster_environment=world.environment)
        self._processes = _count(world.devices)  # on each machine
        self._own: list[Tensor] = []  # statistics that norms do not synchronise

    @property
    def num_processes(self) -> int:
        return self._processes

    @property
    def root_device(self) -> torch.device:
        devices = self.parallel_devices
        assert devices is not None
        return devices[self.local_rank % len(devices)]

    def _configure_launcher(self) -> None:
        """The processes exist already."""

    def configure_ddp(self) -> None:
        """Instead of wrapping the module, copy the first process's weights to all."""
        module = self.lightning_module
        assert module is not None
        distributed.from_first([*module.parameters(), *module.buffers()])
        self._own = list(own_statistics(module))

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Nothing to prepare: there is no wrapper."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Sum the gradients, then step as one process would."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        distributed.sum_gradients(parameters)
        made = super().optimizer_step(optimizer, closure, model, **kwargs)
        # As in DistributedDataParallel: otherwise a checkpoint would hold the first process's and a
        # resumed run would differ.
        distributed.from_first(self._own)
        return made


def synchronise(module: LightningModule, centring: bool) -> None:
    """Make norms use the batches of all processes; centring: also the norms that centre."""
    synchronise_norms(module)
    for part in module.modules():
        if isinstance(part, Centring) and not centring:
            part.sync = False
