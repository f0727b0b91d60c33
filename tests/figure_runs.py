"""Small synthetic runs, as the callbacks write them, for the tests of figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msngan.training.dynamics import LOSS, PER_LAYER, Dynamics
from msngan.training.dynamics import write as write_dynamics

LAYERS = ("network.body.0", "network.body.2", "network.body.4", "network.head")
SHAPES = ((16, 1, 5, 5), (32, 16, 3, 3), (32, 32, 4, 4), (10, 8192))
EDGES = np.geomspace(1e-10, 1e2, 97)


def synthetic(
    count: int = 40,
    every: int = 50,
    *,
    size: float = 1.0,
    drift: float = 0.3,
    layers: Sequence[str] = LAYERS,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    networks: Sequence[str] = ("network",),
    seed: int = 0,
) -> Dynamics:
    """Gradients of sd `size`, halved over the run; a drift that ends at `drift`.

    As in a real record no gradient is measured at step 0 and no activation follows the last layer.
    """
    rng = np.random.default_rng(seed)
    step = every * np.arange(count)
    time = (step / max(step[-1], 1))[:, None]
    noise = 1 + 0.03 * rng.standard_normal((count, len(layers)))
    deep = np.arange(1, len(layers) + 1)[None]
    columns: dict[str, Any] = {name: time * noise * deep for name in PER_LAYER}
    columns["gradient_sd"] = size * (1 - 0.5 * time) * noise / deep
    columns["gradient_rms"] = columns["gradient_sd"]
    columns["drift"] = drift * time * noise
    columns |= {name: np.exp(-time * np.ones(len(networks))) for name in LOSS}
    columns["operator_norm"] = (1 + time) * noise * size
    columns["matrix_norm"] = (0.5 + time) * noise * size
    for name in ("gradient_zero", "gradient_small", "gradient_sd", "gradient_rms", "gradient_mean"):
        columns[name][0] = np.nan
    for name in ("drift", "dead", "offset", "drift_signed", "preactivation_mean"):
        columns[name][:, -1] = np.nan
    histogram = np.zeros((count, len(layers), 2, len(EDGES)), dtype=np.uint32)
    for t in range(1, count):
        for i in range(len(layers)):
            values = rng.normal(0, columns["gradient_sd"][t, i], 2000)
            for sign, each in enumerate((-values[values < 0], values[values >= 0])):
                histogram[t, i, sign, 0] = (each < EDGES[0]).sum()
                histogram[t, i, sign, 1:] = np.histogram(each, EDGES)[0]
    ranks = [min(shape[0], int(np.prod(shape[1:]))) for shape in shapes]
    channels = [1 if i == len(layers) - 1 else shape[0] for i, shape in enumerate(shapes)]
    means = [drift * time * rng.standard_normal((1, c)) for c in channels]
    means[-1] = np.full_like(means[-1], np.nan)
    return Dynamics(
        layers=tuple(layers),
        shapes=tuple(shapes),
        networks=tuple(networks),
        threshold=0.01,
        edges=EDGES,
        step=step.astype(np.int64),
        histogram=histogram,
        spectral_complexity=np.exp(5 * time + rng.standard_normal((1, len(networks)))),
        seconds=np.full(count, 0.01),
        singular=tuple(
            (size * np.exp(-np.linspace(0, 3, r))[None] * (1 + time)).astype(np.float32)
            for r in ranks
        ),
        channel_mean=tuple(each.astype(np.float32) for each in means),
        channel_sd=tuple(np.ones_like(each).astype(np.float32) for each in means),
        first_left=tuple(np.eye(1, c, dtype=np.float32) for c in channels),
        first_right=tuple(np.eye(1, 9, dtype=np.float32) for _ in channels),
        **{name: value.astype(np.float32) for name, value in columns.items()},
    )


def accuracies(epochs: int = 6, best: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
    """Of 1,000 test images: rising, the best validation accuracy in the last epoch but one."""
    rng = np.random.default_rng(seed)
    lines = []
    for epoch in range(1, epochs + 1):
        right = rng.binomial(100, best * (1 - 0.6 * 0.5**epoch), 10)
        test = float(right.sum() / 1000)
        validation = 0.99 if epoch == epochs - 1 else test - 0.01
        lines.append(
            {"format": 1, "run": "r", "step": 100 * epoch, "epoch": float(epoch)}
            | {"test_accuracy": test, "test_right": right.tolist()}
            | {"validation_accuracy": validation, "train_accuracy": test, "test_loss": 0.1}
        )
    return lines


def make_run(
    root: Path,
    name: str,
    norm: str = "none",
    lr: float = 0.001,
    seed: int = 0,
    *,
    record: Dynamics | None = None,
    lines: Sequence[dict[str, Any]] = (),
    status: str = "done",
    **model: Any,
) -> Path:
    """checkpoints/<name>/ with a config and these records."""
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    config = {"run": name, "task": "classifier", "steps": None, "seed": seed, "epochs": 6}
    config["model"] = {"network": "cnn3", "norm": norm, "lr": lr, **model}
    config["data"] = {"dataset": "mnist", "root": str(root)}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": status}))
    if record is not None:
        write_dynamics(folder / "dynamics.npz", record)
    if lines:
        (folder / "accuracy.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder
