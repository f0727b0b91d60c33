"""GENERATORS and CRITICS: networks by name, and sampling from them."""

from msngan.models.dcgan import CRITICS, GENERATORS, Critic, CriticName, Generator, GeneratorName
from msngan.models.sampling import (
    decode,
    draw_samples,
    evaluating,
    frozen,
    latents,
    load_generator,
    read_checkpoint,
    slerp,
)

__all__ = [
    "CRITICS",
    "GENERATORS",
    "Critic",
    "CriticName",
    "Generator",
    "GeneratorName",
    "decode",
    "draw_samples",
    "evaluating",
    "frozen",
    "latents",
    "load_generator",
    "read_checkpoint",
    "slerp",
]
