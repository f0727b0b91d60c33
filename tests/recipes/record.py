"""What the recipes share: their numbers on the screen, a picture and a record beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from msngan.norms.layers import weights_of
from msngan.runs.hardware import hardware, software

Results = dict[str, dict[str, list[float]]]  # arm -> measure -> values by seed


def largest_sigma(layers: Iterable[nn.Module]) -> float:
    """The largest singular value of the weights that the layers compute with.

    A convolution's matrix is (outputs, inputs * k * k).
    """
    weights = [getattr(layer, name) for layer in layers for name in weights_of(layer)]
    return max(torch.linalg.matrix_norm(weight.flatten(1), 2).item() for weight in weights)


def by_seed(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    return {measure: [run[measure] for run in runs] for measure in runs[0]}


def save(
    folder: str, recipe: str, figure: Figure, settings: dict[str, Any], found: Results
) -> None:
    """Print mean and sd over the seeds; write recipe_NAME.png and recipe_NAME.json."""
    for arm, measures in found.items():
        for measure, values in measures.items():
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            print(f"{arm}: {measure} {mean(values):.3f}{spread}")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"recipe_{recipe}.png", dpi=120)
    record = {**software(), "command": f"python tests/recipes/{recipe}.py", "hardware": hardware()}
    if "gymnasium" in sys.modules:
        record["versions"]["gymnasium"] = version("gymnasium")
    record |= {"settings": settings, "results": found}
    (out / f"recipe_{recipe}.json").write_text(json.dumps(record, indent=2) + "\n")
