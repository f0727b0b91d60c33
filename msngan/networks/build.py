"""GENERATORS and CRITICS; each constructor gets by name those of a run's options that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from msngan.networks.classifiers import CLASSIFIERS
from msngan.networks.dcgan import Critic, Generator
from msngan.networks.norms_and_activations import HEADS, put_norms
from msngan.networks.residual import ResidualCritic, ResidualGenerator
from msngan.networks.sampling import applied, evaluating, labels_in_turn
from msngan.norms import SampleNorm, layers_of
from msngan.runs.options import MODULE, named

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "dcgan": Generator,
    "dcgan_deep": partial(Generator, deep=True),
    "resnet": ResidualGenerator,
}
CRITICS: dict[str, Callable[..., nn.Module]] = {
    "cnn": Critic,
    "cnn_wide": partial(Critic, wide=True),
    "cnn_deep": partial(Critic, deep=True),
    "resnet": ResidualCritic,
}

if TYPE_CHECKING:
    GeneratorName = str | nn.Module
    CriticName = str | nn.Module
else:
    GeneratorName = Literal[tuple(GENERATORS)]
    CriticName = Literal[tuple(CRITICS)]

NORM = ("norm", "norm_options", "norm_layers", "other_norm", "conv_bias")
# What the constructor of each kind of network may take; its other parameters are its own options.
GIVEN: dict[str, frozenset[str]] = {
    "generator": frozenset({"latent_dim", "width", "channels", "size", "classes", "attention"}),
    "critic": frozenset(
        {*NORM, "width", "channels", "size", "slope", "classes", "conditioning", "attention"}
    ),
    "classifier": frozenset(
        {*NORM, "width", "channels", "size", "slope", "classes", "depth", "activation", "dropout"}
        | {"placement", "as_released"}
    ),
}


def build_generator(options: Mapping[str, Any]) -> nn.Module:
    """The generator of a GAN's options, not yet trained."""
    name, own = options["generator"], options.get("generator_options")
    options = {**options, "classes": classes_asked(options)}
    norm = {"norm": options.get("generator_norm", "none")}
    if isinstance(name, nn.Module):
        with named("GAN(generator=...)"):
            network = with_norm(_taking_labels(name, options), norm)
    else:
        with named(f"--model.generator {name}"):
            network = with_norm(_build("generator", GENERATORS, name, options, own), norm)
    if not hasattr(network, "latent_dim"):  # which sampling asks for
        network.latent_dim = options["latent_dim"]
    if not hasattr(network, "classes"):
        network.classes = options["classes"]
    if any(isinstance(part, SampleNorm) and part.over == "space" for part in network.modules()):
        with named(f"--model.generator_norm {norm['norm']}"), evaluating(network):
            z = torch.zeros(2, cast(int, network.latent_dim))
            applied(network, z, labels_in_turn(network, 2))  # refuses one value per channel
    return network


def build_critic(options: Mapping[str, Any]) -> nn.Module:
    """The critic of a GAN's options, with its norm."""
    name = options["critic"]
    given = {**options, "classes": classes_asked(options)}
    if isinstance(name, nn.Module):
        with named("GAN(critic=...)"):
            return with_norm(_taking_labels(name, given), options)
    given["width"] = options["critic_width"] or options["width"]
    with named(f"--model.critic {name}"):
        return _build("critic", CRITICS, name, given, options["critic_options"])


def classes_asked(options: Mapping[str, Any]) -> int:
    """The number of classes that a GAN's networks are given; 0 if it is not conditional.

    ValueError for a conditional one without classes.
    """
    if not options.get("conditional", False):
        return 0
    if not options.get("classes"):
        raise ValueError("conditional needs the number of classes, as GAN(..., classes=10)")
    return int(options["classes"])


def _taking_labels(network: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """The module; ValueError for one that takes no labels in a conditional GAN."""
    try:
        if options["classes"]:
            inspect.signature(network.forward).bind(None, None)
    except TypeError:
        raise ValueError(
            "its forward takes no labels, which a conditional GAN gives beside the input; define"
            " forward(self, x, labels)"
        ) from None
    return network


def build_classifier(options: Mapping[str, Any]) -> nn.Module:
    """The network of a classifier's options, with its norm."""
    name = options["network"]
    with named(f"--model.network {name}"):
        return _build("classifier", CLASSIFIERS, name, options, options["network_options"])


def _build(
    kind: str,
    known: Mapping[str, Callable[..., nn.Module]],
    name: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any] | None,
) -> nn.Module:
    """The network. A norm is put on one whose constructor does not take `norm`.

    Raises ValueError for an unknown name and for options that the constructor does not have.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r:.80} is not a module; give one, such as MyNetwork(...)")
    if name == MODULE:
        raise ValueError(f"it was given as a module; give it again, GAN(..., {kind}=module)")
    if name not in known:
        raise ValueError(
            f"unknown name; known are {', '.join(known)}, and those of a plug-in (--plugin FILE.py)"
        )
    takes = inspect.signature(known[name]).parameters
    for each in own or {}:
        if each not in takes:
            raise ValueError(f"it has no option {each!r}")
    if kind != "classifier" and options.get("classes") and "classes" not in takes:
        raise ValueError("it takes no labels: its constructor has no argument classes")
    if options.get("attention") is not None and "attention" not in takes:
        raise ValueError("it has no self-attention; leave --model.attention out, or take resnet")
    # null is "the network's own", which its signature states; older options lack the newer ones
    given = {each: options.get(each) for each in GIVEN[kind] if each in takes}
    given = {each: value for each, value in given.items() if value is not None}
    network = known[name](**given, **(own or {}))
    if kind != "generator" and "norm" not in takes:
        with_norm(network, options)
    return network


def with_norm(network: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """The network, with the norm that the options name on its layers.

    Its heads are the last layer, an embedding apart, and under conditioning acgan a `classifier`.
    """
    if any(is_lazy(each) for each in network.parameters()):
        raise ValueError("it has lazy layers, without weights yet; pass a batch through it first")
    if options["norm"] != "none":
        layers = {
            name: layer
            for name, layer in layers_of(network).items()
            if not isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
        }
        heads = [*layers][-1:]
        if classes_asked(options) and options["conditioning"] == "acgan":
            heads = [*HEADS, *heads]
        given = {each: options[each] for each in NORM if each in options}
        try:
            put_norms(network, heads=heads, **given)
        except ValueError as problem:
            raise ValueError(f"{problem}; norm 'none' leaves the network as it is") from problem
    return network
