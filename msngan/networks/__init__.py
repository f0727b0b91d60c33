"""GENERATORS, CRITICS and CLASSIFIERS: networks by name, and sampling from them."""

from msngan.networks.build import CRITICS, GENERATORS, CriticName, GeneratorName
from msngan.networks.classifiers import CLASSIFIERS, ClassifierName
from msngan.networks.dcgan import Critic, Generator
from msngan.networks.generator_files import export, load_generator, read_generator
from msngan.networks.norms_and_activations import ACTIVATIONS, ActivationName
from msngan.networks.sampling import decode, draw_samples, evaluating, frozen, latents, slerp
