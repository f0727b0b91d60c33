"""msngan: GANs whose critic is regularised by Mean Spectral Normalization.

`from msngan import GAN, convert` and so on; a name is imported when it is first asked for, so that
importing the package imports nothing heavy.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "GAN": "msngan.gan",
    "Classifier": "msngan.classifier",
    "ImageData": "msngan.data",
    "LabelledData": "msngan.data",
    "DATASETS": "msngan.data.datasets",
    "NORMS": "msngan.norms",
    "SigmaBank": "msngan.norms",
    "convert": "msngan.norms",
    "fold": "msngan.norms",
    "LOSSES": "msngan.losses",
    "PENALTIES": "msngan.losses",
    "GENERATORS": "msngan.networks",
    "CRITICS": "msngan.networks",
    "export": "msngan.networks",
    "load_generator": "msngan.networks",
    "evaluate": "msngan.scores",
    "Samples": "msngan.training.callbacks.progress",
    "Scores": "msngan.training.callbacks.scores",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name == "register":
        return import_module("msngan.register")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
