"""Runs commands one after the other in this process, under a bound of memory: what each came to.

Reads {"limit": bytes of address space, "commands": [[word, ...], ...]} from its input; writes one
JSON line a command.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
import traceback


def peak() -> int:
    """Bytes that this program has had in memory at most; getrusage would count its parent's too."""
    with open("/proc/self/status") as file:
        found = next(line for line in file if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


def main() -> None:
    asked = json.load(sys.stdin)
    import torch

    from msngan.__main__ import main as command

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (asked["limit"], asked["limit"]))

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
        sys.__stdout__.write(json.dumps(told) + "\n")
        sys.__stdout__.flush()


if __name__ == "__main__":
    main()
