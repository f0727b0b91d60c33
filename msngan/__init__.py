"""msngan: GANs whose critic is regularised by Mean Spectral Normalization.

`from msngan import GAN, convert` and so on; a name is imported when it is first asked for, so that
importing the package imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from msngan import register as register
    from msngan.classifier import Classifier as Classifier
    from msngan.data import ImageData as ImageData
    from msngan.data import LabelledData as LabelledData
    from msngan.data.datasets import DATASETS as DATASETS
    from msngan.gan import GAN as GAN
    from msngan.losses import LOSSES as LOSSES
    from msngan.losses import PENALTIES as PENALTIES
    from msngan.networks import CRITICS as CRITICS
    from msngan.networks import GENERATORS as GENERATORS
    from msngan.networks import export as export
    from msngan.networks import load_generator as load_generator
    from msngan.norms import NORMS as NORMS
    from msngan.norms import SigmaBank as SigmaBank
    from msngan.norms import convert as convert
    from msngan.norms import fold as fold
    from msngan.scores import evaluate as evaluate
    from msngan.training.callbacks.progress import Samples as Samples
    from msngan.training.callbacks.scores import Scores as Scores

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
