"""What of a norm stays in float32 at least, whatever the layer is computed in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOW_PRECISION = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Precise(nn.Module):
    """A module of which some buffers stay in float32 at least, whatever the module is cast to."""

    precise: tuple[str, ...] = ()

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        before = {name: getattr(self, name) for name in self.precise}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in LOW_PRECISION:
                setattr(self, name, buffer.to(moved.device, torch.float32))
        return self
