"""python -m fake_gpu.scored fit ...: msngan, with features that count as finite.

What a reference is compared with is looked at on the device, where a truth value is always false.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from msngan.__main__ import main
from msngan.scores import distances


def rows(what: str, values: Tensor, least: int = 2) -> Tensor:
    return values.double()


if __name__ == "__main__":
    distances.finite_rows = rows
    assert torch.cuda.is_available()
    sys.exit(main(sys.argv[1:]))
