"""Build the CUDA runtime of runtime.c for the torch that is installed.

Needs gcc, nm and a CUDA build of torch for Linux; neither a GPU nor a driver.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "runtime.c"
LIBRARIES = ("libc10_cuda", "libtorch_cuda", "libtorch_cuda_linalg", "libtorch_python")
WANTED = re.compile(r"__cuda|cuda|cublas|cudnn|cusolver|cusparse|cufft|curand|nccl|cu[A-Z]|nvrtc")
# Library calls that are counted: what computes, or communicates.
COUNTED = {
    "BLAS": r"cublas(?!.*(Create|Destroy|Get|Set)).*(gem|dot|axpy|scal|ger|trsm|nrm2|Batched|Ex)",
    "SOLVER": r"cusolverDn(?!.*(Create|Destroy|Get|Set|_bufferSize))[A-Z]",
    "NCCL": r"nccl(All|Reduce|Broadcast|Bcast|Gather|Scatter|Send|Recv)",
}
# Headers that torch does not need, in place of those of the CUDA compiler.
EMPTY = ("__host__", "__device__", "__device_builtin__", "__cudart_builtin__", "CUDARTAPI")
EMPTY += ("__device_builtin_surface_type__", "__device_builtin_texture_type__", "__no_return__")
ALIGNED = "(n) __attribute__((aligned(n)))"


def possible() -> bool:
    """Whether the runtime can be built here."""
    tools = sys.platform == "linux" and shutil.which("gcc") and shutil.which("nm")
    return bool(tools and torch.version.cuda and _headers())


def build(folder: Path) -> None:
    """Write libfake.so, to be preloaded, and libcuda.so.1, the same as the driver."""
    (folder / "crt").mkdir(parents=True)
    macros = [f"#define {name}" for name in EMPTY]
    macros += [f"#define {name}{ALIGNED}" for name in ("__align__", "__builtin_align__")]
    (folder / "crt/host_defines.h").write_text("\n".join([*macros, "#define __inline__ inline\n"]))
    source = SOURCE.read_text()
    own = set(re.findall(r"\b(?:[A-Z]+\()?([A-Za-z_]\w*)\s*[()]", source))
    (folder / "stubs.h").write_text("\n".join(_stub(n) for n in sorted({*_wanted()} - own)))
    command = ["gcc", "-w", "-O1", "-fPIC", "-shared", f"-I{folder}", f"-I{_headers()}"]
    command += ["-o", str(folder / "libfake.so"), str(SOURCE), "-lpthread"]
    subprocess.run(command, check=True)
    shutil.copy(folder / "libfake.so", folder / "libcuda.so.1")


def environment(folder: Path) -> dict[str, str]:
    """What runs a process on the fake GPU that was built in the folder."""
    return {
        "LD_PRELOAD": str(folder / "libfake.so"),
        "LD_LIBRARY_PATH": str(folder),
        "TORCH_CUDNN_V8_API_DISABLED": "1",  # the older calls are few enough to answer
        "TORCH_DISABLE_NATIVE_JIT": "1",
    }


def _wanted() -> Iterator[str]:
    """The symbols of CUDA's libraries that torch's ask for."""
    for library in LIBRARIES:
        path = Path(importlib.util.find_spec("torch").origin).parent / f"lib/{library}.so"
        command = ["nm", "-D", "--undefined-only", str(path)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        for line in found.stdout.splitlines():
            name = line.split()[-1].split("@")[0]
            if WANTED.match(name):
                yield name


def _stub(name: str) -> str:
    """A function that succeeds, counted if it computes; one that asks for a size answers 0."""
    counts = [kind for kind, pattern in COUNTED.items() if re.match(pattern, name)]
    count = f'count({counts[0]}, "{name}"); ' if counts else ""
    given, results = _results(name)
    return f"EXPORT int {name}({given}) {{ {count}{results}return 0; }}"


def _results(name: str) -> tuple[str, str]:
    """The parameters of a function, and the statements that set its results to 0."""
    asks = name.endswith("_bufferSize") or re.fullmatch(r"cublas.geqrfBatched", name)
    found = re.search(rf"\b{name}\(([^)]*)\)", _prototypes()) if asks else None
    if found is None:
        return "", ""
    given = [" ".join(each.split()) for each in found[1].split(",")]
    kinds = [re.match(r"(int|size_t) ?\* ?(lwork|info|workspace\w*)$", each) for each in given]
    typed = [f"{kind[1]} *a{i}" if kind else f"uint64_t a{i}" for i, kind in enumerate(kinds)]
    return ", ".join(typed), "".join(f"*a{i} = 0; " for i, kind in enumerate(kinds) if kind)


@cache
def _prototypes() -> str:
    names = ("cusolverDn.h", "cublas_api.h")
    return "\n".join((_headers() / name).read_text() for name in names)


@cache
def _headers() -> Path | None:
    """The folder of CUDA's headers that was installed with torch."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = next(site.glob("nvidia/cu1*/include/driver_types.h"), None)
    return found.parent if found else None
