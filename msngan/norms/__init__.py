"""NORMS: what happens to the weight of a layer and to its output.

See msngan/norms/README.md: what each norm does, how to add one, accuracy and speed.
"""

from msngan.norms.bank import SigmaBank
from msngan.norms.classic import (
    SampleNorm,
    is_batch_coupled,
    own_statistics,
    statistics,
    synchronise,
)
from msngan.norms.convert import convert, fold, layers_of, select
from msngan.norms.layers import NormLayer, normalise, parts_of, stored
from msngan.norms.mean_spectral import (
    Centring,
    FusedSequential,
    MSNConv2d,
    MSNConvTranspose2d,
    MSNLinear,
)
from msngan.norms.operator import LipschitzProjection, OperatorNorm, SpectralClip
from msngan.norms.optional_spectral import OptionalSpectralNorm, follow, gate_figures
from msngan.norms.parts import Norm, WeightPart
from msngan.norms.spectral import BidirectionalSpectralNorm, SpectralNorm
from msngan.norms.table import NORMS, NormName, configured

__all__ = [
    "BidirectionalSpectralNorm",
    "Centring",
    "FusedSequential",
    "LipschitzProjection",
    "MSNConv2d",
    "MSNConvTranspose2d",
    "MSNLinear",
    "NORMS",
    "Norm",
    "NormLayer",
    "NormName",
    "OperatorNorm",
    "OptionalSpectralNorm",
    "SampleNorm",
    "SigmaBank",
    "SpectralClip",
    "SpectralNorm",
    "WeightPart",
    "configured",
    "convert",
    "fold",
    "follow",
    "gate_figures",
    "is_batch_coupled",
    "layers_of",
    "normalise",
    "own_statistics",
    "parts_of",
    "select",
    "statistics",
    "stored",
    "synchronise",
]
