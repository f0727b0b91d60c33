"""Scores: protocols, extractors, references and the arithmetic.

Names are imported when they are first used, so that protocols can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msngan.scores.distances import frechet_distance as frechet_distance
    from msngan.scores.distances import inception_score as inception_score
    from msngan.scores.distances import kernel_distance as kernel_distance
    from msngan.scores.extractors import Extractor as Extractor
    from msngan.scores.protocol import PRESETS as PRESETS
    from msngan.scores.protocol import Protocol as Protocol
    from msngan.scores.reference import Reference as Reference
    from msngan.scores.scorer import Scored as Scored
    from msngan.scores.scorer import Scorer as Scorer
    from msngan.scores.scorer import evaluate as evaluate

# no module may have the name of something exported: once imported it would hide it
_PLACES = {
    "PRESETS": "protocol",
    "Protocol": "protocol",
    "Extractor": "extractors",
    "Reference": "reference",
    "Scored": "scorer",
    "Scorer": "scorer",
    "evaluate": "scorer",
    "frechet_distance": "distances",
    "inception_score": "distances",
    "kernel_distance": "distances",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
