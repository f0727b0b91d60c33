"""dynamics.npz: a run's measurements on disk, written whole and read without torch.

Plain arrays without pickle, one row a measurement, so that numpy alone reads the file.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msngan.runs.atomic import replacing
from msngan.runs.safe_read import read_json, read_npz
from msngan.training.dynamics.record import COLUMNS, LISTS, PER_LAYER, Dynamics

FORMAT = 1
LARGEST = 2**28  # bytes of all arrays together that are read; a run's file has some megabytes


def write(path: Path, dynamics: Dynamics) -> None:
    """The whole file; at every moment the old or the new one is there."""
    arrays: dict[str, Any] = {name: getattr(dynamics, name) for name in COLUMNS}
    arrays |= {
        "format": np.array(FORMAT),
        "layers": np.array(dynamics.layers, dtype=np.str_),
        "shapes": np.array(json.dumps(dynamics.shapes)),
        "networks": np.array(dynamics.networks, dtype=np.str_),
        "threshold": np.array(dynamics.threshold),
        "edges": dynamics.edges,
    }
    for name in LISTS:
        arrays |= {f"{name}/{i}": array for i, array in enumerate(getattr(dynamics, name))}
    # By hand for the level: a third of the time of numpy's own, and the file is 3 % larger.
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def read(path: Path | str) -> Dynamics:
    """A file of `write`; ValueError, in one line, for one that is missing, damaged or foreign."""
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
        raise ValueError("no format number")
    if arrays["format"] != FORMAT:
        raise ValueError(f"its format is {int(arrays['format'])}, this version reads {FORMAT}")
    names = {field.name for field in fields(Dynamics)} - set(LISTS)
    if missing := sorted(names - set(arrays)):
        raise ValueError(f"{missing[0]} is missing")
    shapes = read_json(str(arrays["shapes"]))
    found: dict[str, Any] = {
        "layers": tuple(map(str, arrays["layers"])),
        "shapes": tuple(tuple(map(int, shape)) for shape in shapes),
        "networks": tuple(map(str, arrays["networks"])),
        "threshold": float(arrays["threshold"]),
        "edges": arrays["edges"],
        **{name: arrays[name] for name in COLUMNS},
    }
    count, layers = len(arrays["step"]), range(len(found["layers"]))
    for name in LISTS:
        found[name] = tuple(arrays[f"{name}/{i}"] for i in layers)
        for i, array in enumerate(found[name]):
            _expect(f"{name}/{i}", array, "f", (count, *(array.shape[1:2] or (1,))))
    for name, kind, shape in _expected(count, found):
        _expect(name, found[name], kind, shape)
    if len(found["shapes"]) != len(layers) or (np.diff(found["step"]) <= 0).any():
        raise ValueError("its columns do not belong together")
    return Dynamics(**found)


def _expected(count: int, found: dict[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """The name, kind and shape of each column."""
    layers, networks, bins = len(found["layers"]), len(found["networks"]), len(found["edges"])
    expected: list[tuple[str, str, tuple[int, ...]]] = [
        ("step", "i", (count,)),
        ("edges", "f", (bins,)),
        ("histogram", "u", (count, layers, 2, bins)),
        ("spectral_complexity", "f", (count, networks)),
        ("seconds", "f", (count,)),
    ]
    return expected + [(name, "f", (count, layers)) for name in PER_LAYER]


def _expect(name: str, array: NDArray[Any], kind: str, shape: tuple[int, ...]) -> None:
    if array.dtype.kind != kind or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not {kind} {shape}")
