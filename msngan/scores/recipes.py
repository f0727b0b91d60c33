"""RECIPES: how the extractor of each data set is trained unless the command says otherwise."""

from __future__ import annotations

from dataclasses import replace

from msngan.scores.fitting import Recipe

PHOTOGRAPHS = Recipe(epochs=16, mirror=True)
STROKES = Recipe(widths=(16, 32, 64, 128), epochs=5, shift=2)

RECIPES: dict[str, Recipe] = {
    "cifar10": PHOTOGRAPHS,
    "svhn": replace(PHOTOGRAPHS, mirror=False),
    "mnist": STROKES,
    "fashion": STROKES,
    "digits": Recipe(widths=(8, 16, 32, 64), epochs=60, batch_size=64, shift=2),
    "folder": replace(PHOTOGRAPHS, mirror=False),  # its images may hold text
}
