"""One measurement of a run: every measure of every layer of its networks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msngan.norms import layers_of, stored
from msngan.norms.parts import outputs_of
from msngan.training.dynamics.dynamics_file import PER_LAYER, Dynamics
from msngan.training.dynamics.step_measures import (
    EDGES,
    THRESHOLD,
    Seen,
    figures,
    gradient_figures,
    histogram,
    look,
)
from msngan.training.dynamics.weight_measures import (
    effective_weight,
    kernel_singular,
    lipschitz_of,
    matrix_of,
    operator_norm,
    output_lengths,
    singular_values,
    spectral_complexity,
    stable_rank,
)


@dataclass(frozen=True)
class Subject:
    """A named network, and the batch (N, ...) on which its activations are measured."""

    name: str
    network: nn.Module
    probe: Tensor


@dataclass
class _Layer:
    """All measures of one layer."""

    figures: dict[str, float]
    histogram: NDArray[np.uint32]
    singular: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_sd: NDArray[np.float32]
    length: float  # the (2, 1) norm in the spectral complexity


@torch.no_grad()
def measure(subjects: Sequence[Subject], step: int, first: Dynamics | None) -> Dynamics:
    """One measurement. It leaves the networks, their gradients and all random streams as they are.

    first: earlier measurements of the run, the first of which the drift is measured from; None:
    this is the first. Gradients are the parameters' .grad; without one their measures are NaN.
    """
    start = time.monotonic()
    with np.errstate(all="ignore"):  # the numbers of a diverging run overflow
        return _measure(subjects, step, first, start)


def _measure(
    subjects: Sequence[Subject], step: int, first: Dynamics | None, start: float
) -> Dynamics:
    found: dict[str, _Layer] = {}
    shapes, complexities = [], []
    for subject in subjects:
        layers = layers_of(subject.network)
        seen = look(subject.network, layers, subject.probe)
        own: dict[str, _Layer] = {}
        for name, layer in layers.items():
            index = len(found) + len(own)
            mean = first.channel_mean[index][0] if first is not None and len(first) else None
            own[f"{subject.name}.{name}"] = _measured(layer, seen.get(name), mean)
            shapes.append(tuple(stored(layer).shape))
        complexities.append(_complexity(subject.network, list(own.values())))
        found |= own
    one = list(found.values())
    columns: dict[str, Any] = {
        name: np.array([[layer.figures.get(name, nan) for layer in one]], np.float32)
        for name in PER_LAYER
    }
    return Dynamics(
        layers=tuple(found),
        shapes=tuple(shapes),
        networks=tuple(subject.name for subject in subjects),
        threshold=THRESHOLD,
        edges=EDGES,
        step=np.array([step], np.int64),
        histogram=np.stack([layer.histogram for layer in one])[None],
        spectral_complexity=np.array([complexities], np.float64),
        singular=tuple(layer.singular[None] for layer in one),
        channel_mean=tuple(layer.channel_mean[None] for layer in one),
        channel_sd=tuple(layer.channel_sd[None] for layer in one),
        seconds=np.array([time.monotonic() - start]),
        **columns,
    )


def _measured(
    layer: nn.Module, seen: Seen | None, first_mean: NDArray[np.float32] | None
) -> _Layer:
    parameter, weight = stored(layer), effective_weight(layer)
    values = singular_values(matrix_of(layer, weight))
    found = {
        "weight_mean": float(parameter.double().mean()),
        "weight_sd": float(parameter.double().std(correction=0)),
        "effective_mean": float(weight.double().mean()),
        "effective_sd": float(weight.double().std(correction=0)),
        "kernel_singular": kernel_singular(weight),
        "matrix_norm": float(values[0]),
        "stable_rank": stable_rank(values),
    }
    nothing = np.full(outputs_of(layer)[0], nan, np.float32)
    mean = sd = nothing
    length = nan
    if seen is not None:
        found["operator_norm"] = operator_norm(layer, weight, seen.size, known=float(values[0]))
        found |= figures(seen, first_mean)
        length = output_lengths(layer, weight, seen.size)
        if seen.mean is not None and seen.sd is not None:
            mean, sd = seen.mean, seen.sd
    counts = np.zeros((2, len(EDGES)), np.uint32)
    if parameter.grad is not None:
        found |= gradient_figures(parameter.grad)
        counts = histogram(parameter.grad)
    return _Layer(found, counts, values.numpy().astype(np.float32), mean, sd, length)


def _complexity(network: nn.Module, layers: Sequence[_Layer]) -> float:
    norms = [layer.figures.get("operator_norm", nan) for layer in layers]
    return spectral_complexity(norms, [layer.length for layer in layers], lipschitz_of(network))
