"""NORMS: what a layer's weight and its output go through.

A norm has two parts: what happens to the weight, and what happens to the output. MSN is then
(spectral norm, centring), SN is (spectral norm, nothing), BN is (nothing, batch norm), and no
network needs an `if`. A new norm is one file and one line in the table.
"""

from msngan.norms.bank import SigmaBank
from msngan.norms.base import Norm, is_batch_coupled, own_statistics, statistics, synchronise
from msngan.norms.centring import Centring
from msngan.norms.convert import convert, fold
from msngan.norms.layers import (
    MSNConv2d,
    MSNConvTranspose2d,
    MSNLinear,
    NormLayer,
    normalise,
    parts_of,
    stored,
)
from msngan.norms.mean_spectral import Offset
from msngan.norms.operator import LipschitzProjection, OperatorNorm, SpectralClip
from msngan.norms.optional_spectral import OptionalSpectralNorm, follow, gate_figures
from msngan.norms.parts import WeightPart
from msngan.norms.sample import SampleNorm
from msngan.norms.sequence import FusedSequential
from msngan.norms.spectral import BidirectionalSpectralNorm, SpectralNorm
from msngan.norms.table import NORMS, NormName
from msngan.norms.weight import WeightNorm

__all__ = [
    "NORMS",
    "BidirectionalSpectralNorm",
    "Centring",
    "FusedSequential",
    "LipschitzProjection",
    "MSNConv2d",
    "MSNConvTranspose2d",
    "MSNLinear",
    "Norm",
    "NormLayer",
    "NormName",
    "Offset",
    "OperatorNorm",
    "OptionalSpectralNorm",
    "SampleNorm",
    "SigmaBank",
    "SpectralClip",
    "SpectralNorm",
    "WeightNorm",
    "WeightPart",
    "convert",
    "fold",
    "follow",
    "gate_figures",
    "is_batch_coupled",
    "normalise",
    "own_statistics",
    "parts_of",
    "statistics",
    "stored",
    "synchronise",
]
