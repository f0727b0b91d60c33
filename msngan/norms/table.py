"""The table of norms."""

from typing import TYPE_CHECKING, Literal

from msngan.norms.base import Norm
from msngan.norms.batch import BATCH, BATCH_NO_GAIN
from msngan.norms.mean_spectral import MEAN_ONLY, MEAN_SPECTRAL, SPECTRAL_BIAS
from msngan.norms.operator import LIPSCHITZ_PROJECTION, SPECTRAL_CLIP
from msngan.norms.optional_spectral import OPTIONAL_SPECTRAL
from msngan.norms.released_spectral import RELEASED_SPECTRAL
from msngan.norms.sample import INSTANCE, LAYER
from msngan.norms.spectral import BIDIRECTIONAL, BIDIRECTIONAL_SCALED, SCALED, SPECTRAL
from msngan.norms.weight import WEIGHT, WEIGHT_MEAN

NORMS: dict[str, Norm] = {
    "none": Norm(),
    "batch": BATCH,
    "batch_no_gain": BATCH_NO_GAIN,
    "spectral": SPECTRAL,
    "mean_spectral": MEAN_SPECTRAL,
    "weight": WEIGHT,
    "weight_mean": WEIGHT_MEAN,
    "layer": LAYER,
    "instance": INSTANCE,
    "mean_only": MEAN_ONLY,
    "spectral_bias": SPECTRAL_BIAS,
    "bidirectional": BIDIRECTIONAL,
    "scaled": SCALED,
    "bidirectional_scaled": BIDIRECTIONAL_SCALED,
    "spectral_clip": SPECTRAL_CLIP,
    "lipschitz_projection": LIPSCHITZ_PROJECTION,
    "optional_spectral": OPTIONAL_SPECTRAL,
    "released_spectral": RELEASED_SPECTRAL,
}

if TYPE_CHECKING:
    NormName = str
else:
    NormName = Literal[tuple(NORMS)]
