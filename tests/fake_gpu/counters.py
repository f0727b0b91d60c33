"""What a process asked of the fake GPU: launches, library calls, copies, waits, allocations."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections import Counter

LIBRARY = ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0])
LIBRARY.fake_kinds.restype = ctypes.c_char_p
KINDS = LIBRARY.fake_kinds().decode().split()
# What a GPU is given to do, one after the other.
WORK = ("LAUNCH", "BLAS", "CUDNN", "SOLVER", "NCCL", "MEMSET", "D2D", "H2D", "D2H")
_counts = (ctypes.c_long * len(KINDS)).in_dll(LIBRARY, "fake_counts")
_logging = ctypes.c_int.in_dll(LIBRARY, "fake_logging")
_logged = ctypes.c_long.in_dll(LIBRARY, "fake_logged")
_names = (ctypes.c_char_p * 200_000).in_dll(LIBRARY, "fake_names")


def counts() -> Counter[str]:
    return Counter(dict(zip(KINDS, _counts, strict=True)))


def work(found: Counter[str]) -> int:
    """How many kernels, library calls and copies."""
    return sum(found[kind] for kind in WORK)


def log(on: bool) -> None:
    _logged.value = 0 if on else _logged.value
    _logging.value = int(on)


def logged() -> Counter[str]:
    """The names of what was counted since `log(True)`, with how often each was."""
    names = "\n".join((_names[index] or b"?").decode() for index in range(_logged.value))
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    shown = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, env=clean)
    return Counter(shown.stdout.splitlines())
