"""The measurements of a run, in columns: what is known of each layer at each measured step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One number a layer and measurement.
PER_LAYER = (
    *("gradient_zero", "gradient_small", "gradient_rms", "gradient_mean", "gradient_sd"),
    *("weight_mean", "weight_sd", "effective_mean", "effective_sd", "kernel_singular"),
    *("matrix_norm", "operator_norm", "stable_rank", "preactivation_mean", "preactivation_sd"),
    *("offset", "drift", "drift_signed", "dead"),
)
# A vector a layer and measurement, of another length for each layer.
LISTS = ("singular", "channel_mean", "channel_sd")
COLUMNS = ("step", *PER_LAYER, "histogram", "spectral_complexity", "seconds")


@dataclass(frozen=True)
class Dynamics:
    """T measurements of L layers in K networks; NaN where something does not apply.

    step: (T,) int64, ascending, the updates done; the measurement of step 0 is from before the
        first one. layers: names, as "critic.body.0". shapes: of their weights. networks: names.
    threshold: gradient_small counts |g| < threshold * rms. edges: (B + 1,) float64 of |g|.

    (T, L) float32, of the weight's gradient in the step just done: gradient_zero (fraction of exact
    zeros), gradient_small, gradient_rms, gradient_mean, gradient_sd. Of the parameter: weight_mean,
    weight_sd. Of the weight computed with: effective_mean, effective_sd, kernel_singular (mean over
    kernel slices of the largest singular value), matrix_norm and stable_rank (of the matrix
    outputs x rest), operator_norm (of the layer as a map, at its input's size). Of what enters the
    activation after it, on a fixed batch: preactivation_mean, preactivation_sd (means over
    channels), offset (mean of |mean| / sd), drift (mean of |mean - first mean| / sd), drift_signed,
    dead (fraction of channels that are nowhere above 0).

    histogram: (T, L, 2, B + 1) uint32, counts of negative and of other gradients by |g|: below the
        first edge (exact zeros too), then between two edges each; what is above the last edge is
        in the last bin.
    spectral_complexity: (T, K) float64. seconds: (T,) float64, what the measurement took.
    singular: for each layer (T, r) float32, descending. channel_mean, channel_sd: for each layer
        (T, C) float32, of what enters the activation.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    networks: tuple[str, ...]
    threshold: float
    edges: NDArray[np.float64]
    step: NDArray[np.int64]
    gradient_zero: NDArray[np.float32]
    gradient_small: NDArray[np.float32]
    gradient_rms: NDArray[np.float32]
    gradient_mean: NDArray[np.float32]
    gradient_sd: NDArray[np.float32]
    weight_mean: NDArray[np.float32]
    weight_sd: NDArray[np.float32]
    effective_mean: NDArray[np.float32]
    effective_sd: NDArray[np.float32]
    kernel_singular: NDArray[np.float32]
    matrix_norm: NDArray[np.float32]
    operator_norm: NDArray[np.float32]
    stable_rank: NDArray[np.float32]
    preactivation_mean: NDArray[np.float32]
    preactivation_sd: NDArray[np.float32]
    offset: NDArray[np.float32]
    drift: NDArray[np.float32]
    drift_signed: NDArray[np.float32]
    dead: NDArray[np.float32]
    histogram: NDArray[np.uint32]
    spectral_complexity: NDArray[np.float64]
    seconds: NDArray[np.float64]
    singular: tuple[NDArray[np.float32], ...]
    channel_mean: tuple[NDArray[np.float32], ...]
    channel_sd: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        """How many measurements there are."""
        return len(self.step)

    def layer(self, name: str) -> int:
        """The index of a layer; ValueError that lists the known ones."""
        if name not in self.layers:
            raise ValueError(f"no layer {name!r}; choose one of {', '.join(self.layers)}")
        return self.layers.index(name)


def appended(dynamics: Dynamics | None, measurement: Dynamics) -> Dynamics:
    """Both, one after the other; the measurement alone where there is nothing before.

    Raises ValueError where they are of other layers or not in order of time.
    """
    if dynamics is None or not len(dynamics):
        return measurement
    if _frame(dynamics) != _frame(measurement):
        raise ValueError("the measurement is of other layers than those before it")
    if not len(measurement) or measurement.step[0] <= dynamics.step[-1]:
        raise ValueError(f"no measurement from after step {dynamics.step[-1]}; see `until`")
    joined: dict[str, Any] = {}
    for name in COLUMNS:
        joined[name] = np.concatenate([getattr(each, name) for each in (dynamics, measurement)])
    for name in LISTS:
        pairs = zip(getattr(dynamics, name), getattr(measurement, name), strict=True)
        joined[name] = tuple(np.concatenate(pair) for pair in pairs)
    return replace(dynamics, **joined)


def until(dynamics: Dynamics, step: int) -> Dynamics:
    """Without the measurements later than `step`, which a resumed run makes again."""
    count = int(np.searchsorted(dynamics.step, step, side="right"))
    kept: dict[str, Any] = {name: getattr(dynamics, name)[:count] for name in COLUMNS}
    for name in LISTS:
        kept[name] = tuple(array[:count] for array in getattr(dynamics, name))
    return replace(dynamics, **kept)


def _frame(dynamics: Dynamics) -> tuple[Any, ...]:
    """What the measurements of one file have in common."""
    widths = [[array.shape[1] for array in getattr(dynamics, name)] for name in LISTS]
    common = (dynamics.layers, dynamics.shapes, dynamics.networks, dynamics.threshold)
    return (*common, dynamics.edges.tolist(), widths)
