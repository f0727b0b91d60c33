"""Weight normalisation: the length of each output's weights is a parameter of its own.

Salimans & Kingma 2016, arXiv:1602.07868: W' = g v / |v| per output (equation 2), and mean-only
batch norm of the output (section 4).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from msngan.norms.centring import Centring
from msngan.norms.parts import MatrixPart, Norm, full_precision, widened


class WeightNorm(MatrixPart):
    """Map a weight v to g v / |v|, where the length is over all weights of one output.

    gain: parameter (outputs,), g, initially |v|, so that the layer computes the same as before.
    Without a gain each output's weights have length 1, as in the comparison of Miyato et al. 2018.
    An output whose weights are all zero keeps them, with a finite gradient. All of this is computed
    in float32 or above.
    """

    gain: nn.Parameter | None

    def __init__(
        self, weight: Tensor, *, output_axis: int = 0, groups: int = 1, gain: bool = True
    ) -> None:
        super().__init__(weight, output_axis=output_axis, groups=groups)
        with torch.no_grad():
            lengths = self.lengths(weight).flatten().to(weight.dtype)
        self.gain = nn.Parameter(lengths) if gain else None

    def extra_repr(self) -> str:
        return "" if self.gain is not None else "gain=False"

    def normalised(self, weight: Tensor) -> Tensor:
        """g v / |v|, differentiable in v and g."""
        with full_precision(weight):
            lengths = self.lengths(weight)
            wanted = 1 if self.gain is None else self.gain.view(lengths.shape)
            made = self._grouped(weight) * (wanted / lengths)
            return made.reshape(weight.shape).to(weight.dtype)

    def state_of(self, weight: Tensor) -> dict[str, Any]:
        lengths = {} if self.gain is None else {"gain": self.lengths(weight).flatten()}
        return {**self.state_dict(), **lengths}

    def lengths(self, weight: Tensor) -> Tensor:
        """|v| of each output in float32 or above, 1 where v is zero.

        (groups, 1, outputs / groups, 1, ...) for a transposed convolution, else (outputs, 1, ...).
        """
        grouped = widened(self._grouped(weight))
        kept = (0, 2) if self.output_axis else (0,)
        others = [axis for axis in range(grouped.dim()) if axis not in kept]
        lengths = torch.linalg.vector_norm(grouped, dim=others, keepdim=True)
        return lengths.masked_fill(lengths == 0, 1)

    def _grouped(self, weight: Tensor) -> Tensor:
        """The weight; for a transposed convolution with an axis of groups in front."""
        return weight.unflatten(0, (self.groups, -1)) if self.output_axis else weight


def weight_norm(gain: bool = True) -> Norm:
    """Weight normalisation. gain: whether the lengths are learned, else they are 1."""
    return Norm(weight=partial(WeightNorm.of, gain=gain))


def weight_mean(gain: bool = True, sync: bool = False, momentum: float | None = 0.1) -> Norm:
    """Weight normalisation, then mean-only batch norm, whose offset replaces the layer's bias.

    gain: as in weight normalisation; sync, momentum: of the mean, as in `mean_spectral`.
    """
    return Norm(
        weight=partial(WeightNorm.of, gain=gain),
        output=partial(Centring.of, sync=sync, momentum=momentum),
        cancels_bias=True,
    )
