"""Scores: protocols, extractors, references and the arithmetic.

Names are imported when they are first used, so that protocols can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msngan.scores.core import frechet_distance, inception_score, kernel_distance
    from msngan.scores.evaluation import Result, Sampler, evaluate
    from msngan.scores.extractors import choose
    from msngan.scores.interface import Extractor
    from msngan.scores.protocol import PRESETS, Protocol
    from msngan.scores.reference import Reference

__all__ = [
    "PRESETS",
    "Extractor",
    "Protocol",
    "Reference",
    "Result",
    "Sampler",
    "choose",
    "evaluate",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
]

# no module may bear the name of something exported: once imported it would hide it
_HOMES = {
    "core": ("frechet_distance", "inception_score", "kernel_distance"),
    "evaluation": ("Result", "Sampler", "evaluate"),
    "extractors": ("choose",),
    "interface": ("Extractor",),
    "protocol": ("PRESETS", "Protocol"),
    "reference": ("Reference",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
