"""A study's runs as tasks of a Ray cluster, which has the study's folder on all its machines.

Ray says where a run is trained and when; what a run is, and how far it is, is in its folder. So a
run whose worker or machine is lost goes on elsewhere from its last checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from msngan.runs import plugins
from msngan.runs.folder import Failure, UserError
from msngan.study.plan import Child
from msngan.study.scheduler import LOST, train
from msngan.study.study_files import Place

STOPPED = 130  # exit code of a run that was asked to leave


@dataclass(eq=False)
class Task:
    """A run that Ray has been given."""

    ray: Any
    reference: Any

    def code(self) -> int | None:
        errors = self.ray.exceptions
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return int(self.ray.get(self.reference))
        except errors.TaskCancelledError:
            return STOPPED
        except errors.RayTaskError as problem:
            last = str(problem).strip().splitlines()[-1]
            raise Failure(f"a worker of Ray cannot train: {last}") from None
        except errors.RayError:  # of a worker or a machine that is no more
            return LOST

    def stop(self, at_once: bool) -> None:
        self.ray.cancel(self.reference, force=at_once)


class OnRay:
    """Trains each run in a worker of a Ray cluster.

    address: of the cluster, `auto` for the one that there is; None: begin one on this machine.
    cpus, gpus: of each run; a part of a GPU is shared.
    """

    def __init__(
        self,
        place: Place,
        address: str | None,
        cpus: float,
        gpus: float,
        threads: int | None,
        retry: bool,
    ) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise UserError("--on ray needs Ray: pip install 'msngan[ray]'") from None
        try:
            ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError) as problem:
            said = " ".join(str(problem).split())[:200]
            raise UserError(f"--address {address}: no Ray cluster is there ({said})") from None
        self._ray = ray
        threads = threads or max(1, int(cpus))
        place = replace(place, root=place.root.resolve())
        self._given = (plugins.carrying(train), place, threads, retry, Path.cwd())
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work)

    def start(self, child: Child) -> Task:
        made = self._task.options(name=child.name).remote(child, *self._given)
        return Task(self._ray, made)

    def wait(self, jobs: Sequence[Task], seconds: float) -> None:
        if jobs:
            self._ray.wait([each.reference for each in jobs], timeout=seconds)


def work(child: Child, target: Any, place: Place, threads: int, retry: bool, where: Path) -> int:
    """In a worker: train one run in a process of its own; returns its exit code.

    The process gets SIGTERM, and saves, when the worker is asked to stop and when it is no more.
    """
    os.chdir(where)  # configs and data may be named from there
    process = multiprocessing.get_context("spawn").Process(
        target=target, args=(child, place, threads, 1, retry)
    )
    process.start()
    try:
        while process.is_alive():
            process.join(0.5)
    except KeyboardInterrupt:  # of ray.cancel
        process.terminate()
        process.join()
        return STOPPED
    return process.exitcode or 0
