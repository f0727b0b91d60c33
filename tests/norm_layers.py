"""Layers of each kind, norms of each kind, and pairs of them, for what every norm promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from msngan.norms import NORMS

# A layer and the shape of an input whose output has several values per channel.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (5, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (5, 4, 6, 6)),
    "conv2d, 2 groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (5, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (3, 4, 3, 3, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (5, 4, 3, 3)),
    "conv_transpose2d, 2 groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (5, 4, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear on tokens": (lambda: nn.Linear(4, 6), (5, 3, 4)),
    "linear on as many tokens as outputs": (lambda: nn.Linear(4, 6), (5, 6, 4)),
}
# Norms of one kind have the same code where layers and networks are concerned.
KINDS = [
    ["none"],
    ["spectral", "bidirectional", "scaled", "bidirectional_scaled"],
    ["spectral_clip", "lipschitz_projection"],
    ["optional_spectral", "released_spectral"],
    ["weight"],
    ["mean_spectral", "spectral_bias", "weight_mean"],
    ["mean_only"],
    ["batch", "batch_no_gain"],
    ["layer", "instance"],
]
# A norm that is not named above is a kind of its own.
KINDS += [[norm] for norm in NORMS if not any(norm in kind for kind in KINDS)]
ONE_OF_EACH_KIND = [kind[0] for kind in KINDS]


def pairs(things: Iterable[str], norms: Iterable[str] = NORMS) -> list[tuple[str, str]]:
    """Each thing with one norm of each kind, in turns, and each norm with one thing at least.

    Without an instance norm on (N, C), where it has nothing to average over.
    """
    things, found = list(things), []
    for kind in KINDS:
        names = [norm for norm in kind if norm in set(norms)]
        count = max(len(things), len(names)) if names else 0
        found += [(things[i % len(things)], names[i % len(names)]) for i in range(count)]
    return [pair for pair in found if pair != ("linear", "instance")]


def some(found: list[tuple[str, str]]) -> list[Any]:
    """Pairs as parameters: each thing with one norm of each form in turns, the others for a soak.

    The forms: a part for weights, for outputs, both, and none. Each norm is there at least once.
    """
    groups: dict[str, dict[tuple[bool, bool], list[tuple[str, str]]]] = {}
    for thing, norm in found:
        form = (NORMS[norm].weight is None, NORMS[norm].output is None)
        groups.setdefault(thing, {}).setdefault(form, []).append((thing, norm))
    kept = {norm: pair for pair in found for norm in pair[1:]}.values()
    short = {*kept} | {g[i % len(g)] for i, of in enumerate(groups.values()) for g in of.values()}
    return [pytest.param(*p, marks=[] if p in short else pytest.mark.soak) for p in found]


def exact_sigma(layer: nn.Module, weight: Tensor, both: bool = False) -> Tensor:
    """The largest singular value of the weight as (outputs) x (the rest), the largest over groups.

    both: the mean with that of (inputs) x (the rest), as bidirectional norms take it.
    """
    transposed = isinstance(layer, _ConvTransposeNd)  # which stores the inputs first
    found = []
    for by_inputs in (False, True)[: 1 + both]:
        swap = transposed != by_inputs
        groups = weight.chunk(getattr(layer, "groups", 1))
        matrices = [(g.transpose(0, 1) if swap else g).flatten(1) for g in groups]
        found.append(torch.stack([torch.linalg.svdvals(matrix)[0] for matrix in matrices]).max())
    return torch.stack(found).mean()
