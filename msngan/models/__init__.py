"""GENERATORS, CRITICS and CLASSIFIERS: networks by name, and sampling from them."""

from msngan.models.activations import ACTIVATIONS, ActivationName
from msngan.models.checkpoint import check_gan, load_generator, read_checkpoint
from msngan.models.classifiers import CLASSIFIERS, ClassifierName
from msngan.models.dcgan import CRITICS, GENERATORS, Critic, CriticName, Generator, GeneratorName
from msngan.models.exported import read_generator
from msngan.models.sampling import decode, draw_samples, evaluating, frozen, latents, slerp

__all__ = [
    "ACTIVATIONS",
    "CLASSIFIERS",
    "CRITICS",
    "GENERATORS",
    "ActivationName",
    "ClassifierName",
    "Critic",
    "CriticName",
    "Generator",
    "GeneratorName",
    "check_gan",
    "decode",
    "draw_samples",
    "evaluating",
    "frozen",
    "latents",
    "load_generator",
    "read_checkpoint",
    "read_generator",
    "slerp",
]
