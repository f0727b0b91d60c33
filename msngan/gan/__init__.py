"""GAN: a generator and a critic that are trained against each other."""

from msngan.gan.allowed import scale_free, weighted_penalties
from msngan.gan.module import GAN

__all__ = ["GAN", "scale_free", "weighted_penalties"]
