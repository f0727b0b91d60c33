"""The table of norms."""

from typing import TYPE_CHECKING, Literal

from msngan.norms.base import Norm
from msngan.norms.batch import BATCH
from msngan.norms.mean_spectral import MEAN_SPECTRAL
from msngan.norms.spectral import SpectralNorm

NORMS: dict[str, Norm] = {
    "none": Norm(),
    "batch": BATCH,
    "spectral": Norm(weight=SpectralNorm.of),
    "mean_spectral": MEAN_SPECTRAL,
}

if TYPE_CHECKING:
    NormName = str
else:
    NormName = Literal[tuple(NORMS)]
