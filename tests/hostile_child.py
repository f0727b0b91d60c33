"""Runs commands in forks of this process, under a bound of memory: what each came to.

Importing what the commands need takes longer than most of them, so it is done once. Each line of
input is {"limit": bytes of address space, "seconds": of a command, "folder": ..., "commands":
[[word, ...], ...]}. It is answered by one JSON line a command and the exit status of the fork.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from importlib import import_module
from typing import Any

ALL_SECONDS = 300  # of CPU time, of one line of input


def peak() -> int:
    """Bytes that this process has had in memory at most; getrusage would count its parent's too."""
    with open("/proc/self/status") as file:
        found = next(line for line in file if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


# What a command prints past sys.stdout goes to this process's errors, and not among the answers.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def say(told: object) -> None:
    ANSWERS.write(json.dumps(told) + "\n")


def work(asked: dict[str, Any]) -> None:
    from msngan.__main__ import main as command

    os.chdir(asked["folder"])
    os.environ["MSNGAN_CACHE"] = os.path.join(asked["folder"], "cache")
    resource.setrlimit(resource.RLIMIT_AS, (asked["limit"], asked["limit"]))
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_SECONDS, ALL_SECONDS))

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, late)
    for words in asked["commands"]:
        out, err, began, before = io.StringIO(), io.StringIO(), time.monotonic(), peak()
        signal.alarm(asked["seconds"])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = command(words)
            except SystemExit as ending:
                code = ending.code
            except BaseException:
                code = "raised"
                traceback.print_exc()
        signal.alarm(0)
        told = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
        told |= {"seconds": time.monotonic() - began, "peak": peak(), "grown": peak() - before}
        say(told)


def main() -> None:
    import sklearn.datasets  # noqa: F401
    import torch

    import msngan

    for module in pkgutil.walk_packages(msngan.__path__, "msngan."):
        import_module(module.name)
    torch.set_num_threads(1)
    for line in sys.stdin:
        if not (child := os.fork()):
            work(json.loads(line))
            os._exit(0)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
