"""GENERATORS, CRITICS and CLASSIFIERS: networks by name, and sampling from them."""

from msngan.networks.activations import ACTIVATIONS, ActivationName
from msngan.networks.classifiers import CLASSIFIERS, ClassifierName
from msngan.networks.dcgan import CRITICS, GENERATORS, Critic, CriticName, Generator, GeneratorName
from msngan.networks.exported import read_generator
from msngan.networks.sampling import decode, draw_samples, evaluating, frozen, latents, slerp
from msngan.networks.stored import check_gan, load_generator

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
    "read_generator",
    "slerp",
]
