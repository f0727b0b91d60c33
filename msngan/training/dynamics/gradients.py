"""What a gradient tells: how sparse it is, how wide, and how its entries spread over magnitudes.

The released code of arXiv:1907.04003 counts exact zeros (its Figure 1) and draws bins of its own
for each network (its Figure 5). Here the exact zeros stand beside the entries that are small
against the rest, and all runs share one set of bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

THRESHOLD = 0.01  # of the root mean square: an entry below it is small
# Of |g|, six a decade: 1e-10 to 1e3, from below Adam's epsilon to a diverging run.
EDGES: NDArray[np.float64] = 10.0 ** (np.arange(-60, 19) / 6)


def gradient_figures(gradient: Tensor) -> dict[str, float]:
    """gradient_zero, gradient_small (|g| < THRESHOLD * rms), _rms, _mean and _sd of the entries.

    The first two are fractions; where all entries are zero both are 1. The sd is the population's.
    """
    wide = gradient.detach().double()
    rms = wide.square().mean().sqrt()
    small = wide.abs() < THRESHOLD * rms
    return {
        "gradient_zero": float((wide == 0).double().mean()),
        "gradient_small": float(small.double().mean()) if rms > 0 else 1.0,
        "gradient_rms": float(rms),
        "gradient_mean": float(wide.mean()),
        "gradient_sd": float(wide.std(correction=0)),
    }


def histogram(gradient: Tensor, edges: NDArray[np.float64] = EDGES) -> NDArray[np.uint32]:
    """Counts (2, len(edges)) of negative and of all other entries by magnitude.

    The first bin of each is what is below the first edge, exact zeros too; bin k is from edge k - 1
    up to below edge k, and the last one has no upper end; NaN counts there as negative.
    """
    wide = gradient.detach().double().flatten().cpu()
    bins = torch.bucketize(wide.abs(), torch.from_numpy(edges), right=True)
    bins.clamp_(max=len(edges) - 1)
    counts: NDArray[Any] = torch.bincount(
        bins + len(edges) * (wide >= 0), minlength=2 * len(edges)
    ).numpy()
    return counts.reshape(2, len(edges)).astype(np.uint32)
