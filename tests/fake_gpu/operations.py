"""Runs `msngan ARGUMENTS`; prints JSON: what it did on the GPU that Apple's MPS cannot do.

float64: operations that make a tensor of float64 there, with their places. missing: operations
without a kernel for MPS, nor one for all devices, in torch's own table.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torchgen
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msngan.__main__ import main
from msngan.runs import hardware

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
# Of kernels that run on any device, by other operations.
ANY = {"CompositeExplicitAutograd", "CompositeImplicitAutograd"}
ANY |= {"CompositeExplicitAutogradNonFunctional"}
CUDA_ONLY = ("aten.cudnn_", "aten._cudnn_")  # chosen by torch where there is cuDNN


class Watch(TorchDispatchMode):
    """Notes the operations on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.wide: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        there = [each for each in tree_leaves((args, kwargs, made)) if is_there(each)]
        if there:
            self.operations.add(str(function))
        if any(is_there(each) and each.dtype == torch.float64 for each in tree_leaves(made)):
            lines = [each for each in traceback.extract_stack() if "/msngan/" in each.filename]
            place = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "?"
            self.wide.add(f"{function} at {place}")
        return made


def is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cuda


def without_a_kernel(operations: set[str]) -> list[str]:
    table = {each["func"].split("(")[0]: each for each in yaml.safe_load(TABLE.read_text())}

    def kernels(entry: dict[str, Any]) -> set[str]:
        found = {name.strip() for names in entry.get("dispatch") or {} for name in names.split(",")}
        delegate = entry.get("structured_delegate")
        return found | (kernels(table[delegate]) if delegate else set())

    missing = []
    for operation in sorted(operations):
        name = operation.removeprefix("aten.").removesuffix(".default")
        found = kernels(table[name]) if name in table else ANY
        if found and not found & {"MPS", *ANY} and not operation.startswith(CUDA_ONLY):
            missing.append(operation)
    return missing


if __name__ == "__main__":
    hardware.WITHOUT_FLOAT64 = ("mps", "cuda")
    with Watch() as watch:
        code = main(sys.argv[1:])
    found = {"float64": sorted(watch.wide), "missing": without_a_kernel(watch.operations)}
    print(json.dumps(found))
    sys.exit(code)
