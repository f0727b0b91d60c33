"""dynamics.npz: the measurements of a run in columns, written whole and read without torch.

Plain arrays without pickle, one row for each measurement, so that numpy alone reads the file.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msngan.runs.atomic import replacing
from msngan.runs.safe_read import read_json, read_npz

FORMAT = 1
LARGEST = 2**28  # bytes of all arrays together; a run's file has a few megabytes


@dataclass(frozen=True)
class Dynamics:
    """T measurements of L layers in K networks; NaN where something does not apply.

    step: (T,) int64, ascending, the updates done; the measurement of step 0 is from before the
        first update. layers: names, as "critic.body.0". shapes: of their weights. networks: names.
    threshold: gradient_small counts |g| < threshold * rms. edges: (B + 1,) float64 of |g|.

    (T, L) float32, of the weight's gradient in the step just done: gradient_zero (fraction of exact
    zeros), gradient_small, gradient_rms, gradient_mean, gradient_sd. Of the parameter: weight_mean,
    weight_sd. Of the weight computed with: effective_mean, effective_sd, kernel_singular (mean over
    kernel slices of the largest singular value), matrix_norm and stable_rank (of the matrix
    outputs x rest), operator_norm (of the layer as a map, at its input's size). Of what enters the
    activation after the layer, on a fixed batch: preactivation_mean, preactivation_sd (means over
    channels), offset (mean of |mean| / sd), drift (mean of |mean - first mean| / sd), drift_signed,
    dead (fraction of channels that are nowhere above 0). Of subspaces, mean cosines of principal
    angles: subspace_left and subspace_right (the leading left and right singular vectors of the
    weight computed with, against those at the first measurement), subspace_link (the leading
    directions of what the layer takes from its inputs, against the leading left singular vectors
    of the layer before it; where that has as many outputs).

    histogram: (T, L, 2, B + 1) uint32, counts of negative and of other gradients by |g|: below the
        first edge (exact zeros too), then between two edges each; what is above the last edge is
        in the last bin.
    (T, K) float64, of a network: spectral_complexity; and of its loss along the gradient, where
    that was asked for (see `msngan.training.smoothness`), loss_range, gradient_change and
    beta_smoothness. seconds: (T,) float64, what the measurement took.
    singular: for each layer (T, r) float32, descending. channel_mean, channel_sd: for each layer
        (T, C) float32, of what enters the activation.
    first_left, first_right: for each layer (k, outputs) and (k, inputs * kernel) float32, the
        leading singular vectors at the first measurement; (0, 0) where they are not known.

    An older file has no subspaces and no loss: these columns are then NaN.
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
    subspace_left: NDArray[np.float32]
    subspace_right: NDArray[np.float32]
    subspace_link: NDArray[np.float32]
    histogram: NDArray[np.uint32]
    spectral_complexity: NDArray[np.float64]
    loss_range: NDArray[np.float64]
    gradient_change: NDArray[np.float64]
    beta_smoothness: NDArray[np.float64]
    seconds: NDArray[np.float64]
    singular: tuple[NDArray[np.float32], ...]
    channel_mean: tuple[NDArray[np.float32], ...]
    channel_sd: tuple[NDArray[np.float32], ...]
    first_left: tuple[NDArray[np.float32], ...]
    first_right: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        """How many measurements there are."""
        return len(self.step)


_KINDS = {field.name: str(field.type) for field in fields(Dynamics)}
# One number for each layer and measurement.
PER_LAYER = tuple(name for name, kind in _KINDS.items() if kind == "NDArray[np.float32]")
# One number for each network and measurement.
LOSS = ("loss_range", "gradient_change", "beta_smoothness")
PER_NETWORK = ("spectral_complexity", *LOSS)
# A vector for each layer and measurement; its length differs between layers.
LISTS = ("singular", "channel_mean", "channel_sd")
# Some vectors for each layer, of the first measurement.
FIRST = ("first_left", "first_right")
COLUMNS = ("step", *PER_LAYER, "histogram", *PER_NETWORK, "seconds")
# What older files of this format lack.
ADDED = ("subspace_left", "subspace_right", "subspace_link", *LOSS)


def first_middle_last(steps: NDArray[np.int64]) -> list[int]:
    """The places of the first and the last of these steps, and of the one nearest to half way.

    Of two equally near ones it is the later.
    """
    last = len(steps) - 1
    middle = last - int(np.abs(steps[::-1] - (steps[0] + steps[-1]) / 2).argmin())
    return sorted({0, middle, last})


def appended(dynamics: Dynamics | None, measurement: Dynamics) -> Dynamics:
    """Both, one after the other; the measurement alone if there is nothing before it.

    Raises ValueError if they measure different layers or are not in order of time.
    """
    if dynamics is None or not len(dynamics):
        return measurement
    if _frame(dynamics) != _frame(measurement):
        raise ValueError("the measurement is of other layers than the earlier ones")
    if not len(measurement) or measurement.step[0] <= dynamics.step[-1]:
        raise ValueError(f"the measurement is not from after step {dynamics.step[-1]}; see `until`")
    joined: dict[str, Any] = {}
    for name in COLUMNS:
        joined[name] = np.concatenate([getattr(each, name) for each in (dynamics, measurement)])
    for name in LISTS:
        pairs = zip(getattr(dynamics, name), getattr(measurement, name), strict=True)
        joined[name] = tuple(np.concatenate(pair) for pair in pairs)
    return replace(dynamics, **joined)


def until(dynamics: Dynamics, step: int) -> Dynamics:
    """The measurements up to `step`; a resumed run makes later ones again."""
    count = int(np.searchsorted(dynamics.step, step, side="right"))
    kept: dict[str, Any] = {name: getattr(dynamics, name)[:count] for name in COLUMNS}
    for name in LISTS:
        kept[name] = tuple(array[:count] for array in getattr(dynamics, name))
    return replace(dynamics, **kept)


def _frame(dynamics: Dynamics) -> tuple[Any, ...]:
    """What all measurements of one file have in common."""
    widths = [[array.shape[1] for array in getattr(dynamics, name)] for name in LISTS]
    common = (dynamics.layers, dynamics.shapes, dynamics.networks, dynamics.threshold)
    return (*common, dynamics.edges.tolist(), widths)


def write(path: Path, dynamics: Dynamics) -> None:
    """Write the whole file; at every moment the old or the new one is there."""
    arrays: dict[str, Any] = {name: getattr(dynamics, name) for name in COLUMNS}
    arrays |= {
        "format": np.array(FORMAT),
        "layers": np.array(dynamics.layers, dtype=np.str_),
        "shapes": np.array(json.dumps(dynamics.shapes)),
        "networks": np.array(dynamics.networks, dtype=np.str_),
        "threshold": np.array(dynamics.threshold),
        "edges": dynamics.edges,
    }
    for name in (*LISTS, *FIRST):
        arrays |= {f"{name}/{i}": array for i, array in enumerate(getattr(dynamics, name))}
    # Not np.savez_compressed: level 1 takes a third of its time, and the file is 3 % larger.
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def read(path: Path | str) -> Dynamics:
    """Read a file of `write`; ValueError, in one line, if it is missing, damaged or foreign."""
    path = Path(path)
    try:
        return _checked(read_npz(path, LARGEST))
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as problem:
        raise ValueError(
            f"{path} cannot be read as training dynamics ({' '.join(str(problem).split())});"
            " remove it, and train with --dynamics.every to record it again"
        ) from problem


def _checked(arrays: dict[str, NDArray[Any]]) -> Dynamics:
    if "format" not in arrays or arrays["format"].shape or arrays["format"].dtype.kind != "i":
        raise ValueError("it has no format number")
    if arrays["format"] != FORMAT:
        raise ValueError(f"its format is {int(arrays['format'])}, this version reads {FORMAT}")
    if missing := sorted(_KINDS.keys() - {*LISTS, *FIRST, *ADDED, *arrays}):
        raise ValueError(f"{missing[0]} is missing")
    count, layers, bins = len(arrays["step"]), len(arrays["layers"]), len(arrays["edges"])
    wide = dict.fromkeys(PER_LAYER, layers) | dict.fromkeys(PER_NETWORK, len(arrays["networks"]))
    for name in ADDED:
        arrays.setdefault(name, np.full((count, wide[name]), np.nan, np.float32))
    for name in (f"{each}/{i}" for each in FIRST for i in range(layers)):
        arrays.setdefault(name, np.empty((0, 0), np.float32))
    expected: dict[str, tuple[str, tuple[int, ...]]] = {  # kind and shape
        "step": ("i", (count,)),
        "edges": ("f", (bins,)),
        "histogram": ("u", (count, layers, 2, bins)),
        "seconds": ("f", (count,)),
        **{name: ("f", (count, width)) for name, width in wide.items()},
    }
    for name in (f"{each}/{i}" for each in LISTS for i in range(layers)):
        expected[name] = ("f", (count, *(arrays[name].shape[1:2] or (1,))))
    for name in (f"{each}/{i}" for each in FIRST for i in range(layers)):
        expected[name] = ("f", (*arrays[name].shape, 1, 1)[:2])
    for name, (kind, shape) in expected.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {kind} {shape}")
    shapes = tuple(tuple(map(int, shape)) for shape in read_json(str(arrays["shapes"])))
    if len(shapes) != layers or (np.diff(arrays["step"]) <= 0).any():
        raise ValueError("its columns do not belong together")
    networks, names = tuple(map(str, arrays["networks"])), tuple(map(str, arrays["layers"]))
    if not networks or {name.partition(".")[0] for name in names} - {*networks}:
        raise ValueError("its layers are of no network")
    found: dict[str, Any] = {name: arrays[name] for name in COLUMNS}
    for name in (*LISTS, *FIRST):
        found[name] = tuple(arrays[f"{name}/{i}"] for i in range(layers))
    return Dynamics(
        layers=names,
        shapes=shapes,
        networks=networks,
        threshold=float(arrays["threshold"]),
        edges=arrays["edges"],
        **found,
    )
