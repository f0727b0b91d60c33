"""NORMS: what a layer's weight and its output go through.

A norm has two parts: what happens to the weight, and what happens to the output. MSN is then
(spectral norm, centring), SN is (spectral norm, nothing), BN is (nothing, batch norm), and no
network needs an `if`. A new norm is one file and one line in the table.
"""

from msngan.norms.base import Norm, is_batch_coupled, statistics
from msngan.norms.centring import Centring
from msngan.norms.convert import convert, fold
from msngan.norms.layers import (
    MSNConv2d,
    MSNConvTranspose2d,
    MSNLinear,
    NormConv1d,
    NormConv2d,
    NormConv3d,
    NormConvTranspose2d,
    NormLayer,
    NormLinear,
    normalise,
)
from msngan.norms.spectral import SigmaBank, SpectralNorm
from msngan.norms.table import NORMS, NormName

__all__ = [
    "NORMS",
    "Centring",
    "MSNConv2d",
    "MSNConvTranspose2d",
    "MSNLinear",
    "Norm",
    "NormConv1d",
    "NormConv2d",
    "NormConv3d",
    "NormConvTranspose2d",
    "NormLayer",
    "NormLinear",
    "NormName",
    "SigmaBank",
    "SpectralNorm",
    "convert",
    "fold",
    "is_batch_coupled",
    "normalise",
    "statistics",
]
