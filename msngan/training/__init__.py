"""A run from its options: build, train, save, say where things are."""

from msngan.training.run import fit, resume

__all__ = ["fit", "resume"]
