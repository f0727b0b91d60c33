"""Scores: protocols, extractors, references and the arithmetic.

Names are imported when they are first used, so that protocols can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msngan.scores.distances import frechet_distance, inception_score, kernel_distance
    from msngan.scores.extractors import Extractor
    from msngan.scores.protocol import PRESETS, Protocol
    from msngan.scores.reference import Reference
    from msngan.scores.scorer import Scored, Scorer, evaluate

__all__ = [
    "PRESETS",
    "Extractor",
    "Protocol",
    "Reference",
    "Scored",
    "Scorer",
    "evaluate",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
]

# no module may have the name of something exported: once imported it would hide it
_HOMES = {
    "distances": ("frechet_distance", "inception_score", "kernel_distance"),
    "extractors": ("Extractor",),
    "protocol": ("PRESETS", "Protocol"),
    "reference": ("Reference",),
    "scorer": ("Scored", "Scorer", "evaluate"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
