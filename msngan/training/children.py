"""The other processes of this machine: begun by Lightning's launcher, watched, waited for."""

from __future__ import annotations

import os
import sys
import threading
import time
from subprocess import Popen, TimeoutExpired

from pytorch_lightning.plugins import ClusterEnvironment
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from msngan.runs.folder import UserError

LOOK_SECONDS = 1.0  # between looks at the other processes
GRACE_SECONDS = 20.0  # for a process to end by itself where another has died


def start_others(environment: ClusterEnvironment, number: int, nodes: int) -> list[Popen[bytes]]:
    """By Lightning's launcher, which runs this command line again for each."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not (spec and spec.name.startswith("msngan")) and "msngan" not in os.path.basename(
        sys.argv[0]
    ):
        raise UserError(
            "--trainer.devices starts this program anew for each process, which works from a"
            " command line alone; use `msngan`, `python -m msngan` or torchrun"
        )
    launcher = _SubprocessScriptLauncher(environment, number, nodes)
    launcher._call_children_scripts()
    began: list[Popen[bytes]] = launcher.procs
    threading.Thread(target=_watch, args=(began,), daemon=True).start()
    return began


def _watch(began: list[Popen[bytes]]) -> None:
    """End this process and all others soon after one of them has failed.

    Those that exchange something notice by themselves; one that waits elsewhere does not.
    """
    while all(each.poll() in (None, 0) for each in began):
        time.sleep(LOOK_SECONDS)
    time.sleep(GRACE_SECONDS)
    for each in began:
        each.kill()
    sys.stderr.write("msngan: error: another process of the run has ended\n")
    sys.stderr.flush()
    os._exit(1)


def leave_with(parent: int) -> None:
    """End this process soon after the one that started it."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def wait_for(began: list[Popen[bytes]]) -> None:
    end = time.monotonic() + GRACE_SECONDS
    for each in began:
        try:
            each.wait(max(0.1, end - time.monotonic()))
        except TimeoutExpired:
            each.kill()
            each.wait()
