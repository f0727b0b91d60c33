"""The machine, the software and the commands that a number was measured with."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from msngan import __version__
from msngan.runs import distributed, plugins
from msngan.runs.atomic import write_json
from msngan.runs.folder import Run, UserError, now
from msngan.runs.safe_read import object_or_empty

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "torch-fidelity", "numpy")
WITHOUT_FLOAT64 = ("mps",)  # kinds of device
MOST_FOR_A_CORE = 4  # processes of training
MOST_COMMANDS = 50  # of one run
LONGEST_COMMAND = 10_000  # characters
# Environment variables that change what a GPU computes, or how fast.
GPU = re.compile("CUDA_|CUDNN_|CUBLAS_|NVIDIA_TF32_|PYTORCH_|TORCH_")


def environment(config_name: str, run: Run, device: torch.device) -> dict[str, Any]:
    """What the numbers of a run may depend on besides its config, and its commands so far."""
    return {
        **software(),
        "config": config_name,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "processes": distributed.count(),
        "device": device.type,
        "gpu": gpu(device) if device.type == "cuda" else None,
        "cuda": cuda(device) if device.type == "cuda" else None,
        "commands": commands_after(object_or_empty(run.environment)),
        "plugins": plugins.loaded(),
    }


def software() -> dict[str, Any]:
    """Versions, the command line and the time."""
    return {
        "msngan": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "command": command_line(),
        "time": now(),
    }


def record_command(run: Run) -> None:
    """Add this process's command line to those that the run's environment.json lists.

    Where that file is damaged or cannot be written, the command is not recorded.
    """
    if before := object_or_empty(run.environment):
        with suppress(OSError):
            write_json(run.environment, {**before, "commands": commands_after(before)})


def commands_after(before: dict[str, Any]) -> list[dict[str, Any]]:
    """The command lines that a run's environment.json lists, and this process's.

    An older version recorded only the last one. The first is kept, and of many the last ones.
    """
    known = before.get("commands")
    if not isinstance(known, list):
        known = [{name: before[name] for name in ("time", "command") if name in before}]
    known = [each for each in known if isinstance(each, dict) and "command" in each]
    own = {"time": now(), "command": command_line()[:LONGEST_COMMAND]}
    return [*known[:1], *known[1:][2 - MOST_COMMANDS :], own]


def command_line() -> str:
    """What was typed to start this process, as a shell takes it."""
    return shlex.join(["msngan", *sys.argv[1:]])


def hardware() -> dict[str, Any]:
    """Processor, the cores that this process may use, memory in bytes, GPU."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory": memory(),
        "gpu": gpu(),
        "platform": platform.platform(),
    }


def processor() -> str:
    return _said("/proc/cpuinfo", "model name") or platform.processor()


def _said(path: str, name: str) -> str | None:
    """What the system says of something; None where it does not."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def refuse_too_many(option: str, processes: int) -> None:
    """UserError for so many that they would fill the memory before any could say so."""
    most = MOST_FOR_A_CORE * cores()
    if processes > most:
        raise UserError(
            f"{option} {processes} would be more than {MOST_FOR_A_CORE} processes for each CPU core"
            f" ({cores()} here), of about a GB each; give at most {most}"
        )


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of main memory; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def for_float64(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def free_memory(device: torch.device) -> int | None:
    """Bytes available for a tensor on `device`; None if the system does not say."""
    if device.type == "cuda":
        # memory that torch has reserved and does not use is available too
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type != "cpu":
        return None
    said = _said("/proc/meminfo", "MemAvailable")
    return int(said.split()[0]) * 1024 if said else None  # the unit there is kB


def gpu(device: torch.device | None = None) -> str | None:
    """The name of a GPU, of the one in use where no device is given; None if there is none."""
    return torch.cuda.get_device_name(device) if torch.cuda.is_available() else None


def cuda(device: torch.device | None = None) -> dict[str, Any]:
    """What the speed and the rounding of a GPU depend on, of the one in use if none is given.

    Versions (cudnn: as 1000 or 10000 times the major one; driver: None if the system does not say),
    compute capability, memory in bytes, torch's settings, and environment variables.
    """
    about = torch.cuda.get_device_properties(device)
    backends = torch.backends
    return {
        "cuda": torch.version.cuda,
        "cudnn": backends.cudnn.version(),
        "driver": _said("/proc/driver/nvidia/version", "NVRM version"),
        "capability": f"{about.major}.{about.minor}",
        "memory": about.total_memory,
        "float32_convolutions": backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "float32_products": backends.cuda.matmul.fp32_precision,
        "cudnn_benchmark": backends.cudnn.benchmark,
        "cudnn_deterministic": backends.cudnn.deterministic,
        "variables": {name: os.environ[name] for name in sorted(os.environ) if GPU.match(name)},
    }


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next step; return whether it does.

    It returns each freed block above 32 MB to the system, and each page of the next block is then a
    fault: with the activations of a joint batch that is some per cent of a step on a CPU. Only
    glibc has this setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
