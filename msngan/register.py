"""Your own norms, losses, penalties, networks, data sets, extractors and callbacks, by name.

    from msngan import register

    @register.critic("tiny")
    class Tiny(nn.Module): ...

A registered name is used like one of ours: `--model.critic tiny`, `GAN(critic="tiny")`. A file that
registers is a plug-in: `msngan fit --plugin mine.py --model.critic tiny`. msngan/PLUGINS.md has a
complete one for each kind.

Every function is a decorator, `@register.loss("mine")`, and takes what is registered as a second
argument too, `register.loss("mine", Loss(...))`. It returns what it was given. Raises UserError (a
ValueError) for a name that is taken or that no option can have, and for a parameter that the
command line cannot give.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from msngan import losses, networks
from msngan.data import datasets
from msngan.data import images as convert
from msngan.data.images import Images
from msngan.networks.build import GIVEN
from msngan.norms import Norm, table
from msngan.runs import options
from msngan.runs.folder import UserError, counted
from msngan.runs.option_values import words
from msngan.runs.options import MODULE, Option, Role
from msngan.scores import scorer
from msngan.scores.extractors import Extractor
from msngan.training.tasks import OF_PLUGINS

T = TypeVar("T")

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def norm(name: str, entry: Any = None) -> Callable[[T], T]:
    """A norm: a `msngan.norms.Norm`, or a function that returns one.

    The function's keyword arguments, each with a type and a default, are options of the norm:
    `--model.norm_options.NAME`, `convert(critic, "mine", name=...)`.
    """

    def add(entry: Any) -> None:
        made = _of_kind("norm", name, entry, Norm)
        _add("norm", "ENTRIES", table.NORMS, name, made if made is entry else table.norm_of(entry))

    return _decorator(add, entry)


def loss(name: str, entry: Any = None) -> Callable[[T], T]:
    """A loss: a `msngan.losses.Loss`, or a function without arguments that returns one.

    Its two halves take the logits (N,) of real and of generated images and return a scalar.
    """

    def add(entry: Any) -> None:
        made = _of_kind("loss", name, entry, losses.Loss)
        _add("loss", "LOSSES", losses.LOSSES, name, made)

    return _decorator(add, entry)


def penalty(name: str, entry: Any = None, *, weight: float = 1.0) -> Callable[[T], T]:
    """A penalty: a `msngan.losses.Penalty`, or a function (critic, real, fake, draw) -> scalar.

    See msngan.losses for what such a function is given. weight: of a function's, where
    --model.penalty_weight says nothing.
    """

    def add(entry: Any) -> None:
        is_whole = isinstance(entry, losses.Penalty)
        made = entry if is_whole else losses.Penalty(entry, weight=weight)
        _add("penalty", "PENALTIES", losses.PENALTIES, name, made)

    return _decorator(add, entry)


def generator(name: str, constructor: Callable[..., nn.Module] | None = None) -> Callable[[T], T]:
    """A generator: a constructor of modules from z (N, latent_dim) to images (N, C, H, W).

    Images are in [-1, 1]. The constructor gets by name those of latent_dim, width, channels and
    size that it takes. Its other parameters are options under its name: `--NAME.depth 3`.
    """
    return _network("generator", "GENERATORS", networks.GENERATORS, name, constructor)


def critic(name: str, constructor: Callable[..., nn.Module] | None = None) -> Callable[[T], T]:
    """A critic: a constructor of modules from images (N, C, H, W) to logits (N,) or (N, 1).

    The constructor gets by name those of norm, norm_options, norm_layers, other_norm, conv_bias,
    width, channels, size and slope that it takes. If it does not take `norm`, `msngan.convert` puts
    --model.norm on its layers. Its other parameters are options under its name: `--NAME.depth 3`.
    """
    return _network("critic", "CRITICS", networks.CRITICS, name, constructor)


def classifier(name: str, constructor: Callable[..., nn.Module] | None = None) -> Callable[[T], T]:
    """A classifier: a constructor of modules from images (N, C, H, W) to logits (N, classes).

    Its parameters are as a critic's, and it gets classes, depth, activation and dropout too.
    """
    return _network("classifier", "NETWORKS", networks.CLASSIFIERS, name, constructor)


def _network(
    kind: str,
    names: str,
    known: dict[str, Callable[..., nn.Module]],
    name: str,
    constructor: Callable[..., nn.Module] | None,
) -> Any:
    def add(constructor: Callable[..., nn.Module]) -> None:
        own = own_options(kind, name, constructor, GIVEN[kind], Role.NETWORK)
        _add(kind, names, known, name, constructor, own)

    return _decorator(add, constructor)


def dataset(
    name: str,
    read: Callable[..., Any] | None = None,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    classes: int = 0,
    size: int | None = None,
    channels: int | None = None,
) -> Callable[[T], T]:
    """A data set: a function that returns images, uint8 (N, C, H, W), or (images, labels (N,)).

    It gets by name those of root (a Path), split and download that it takes. Images of another
    size or number of channels than a run asks for are resized (bicubic) and converted.

    splits: their names; a GAN is trained on the first. classes: number of labels; 0: none. size,
    channels: of the images where a run does not say; None: as they are.
    """

    def add(read: Callable[..., Any]) -> None:
        takes = inspect.signature(read).parameters

        def load(
            root: Any, split: str, size: int | None, channels: int | None, download: bool
        ) -> Images:
            given = {"root": root, "split": split, "download": download}
            found = read(**{key: value for key, value in given.items() if key in takes})
            images, labels = found if isinstance(found, tuple) else (found, None)
            return _images(name, images, labels, size, channels)

        made = datasets.Dataset(load, splits, size, channels, classes)
        _add("dataset", "DATASETS", datasets.DATASETS, name, made)

    return _decorator(add, read)


def _images(name: str, images: Any, labels: Any, size: int | None, channels: int | None) -> Images:
    """What a data set's function returned, as Images of this size and these channels."""
    right = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4
    if not right or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        what = f"{images.dtype} {tuple(images.shape)}" if hasattr(images, "shape") else images
        raise datasets.DataError(
            f"data set {name!r} returned {what!s:.80}; images are a uint8 tensor (N, C, S, S) with"
            " 1 or 3 channels"
        )
    if labels is not None:
        labels = torch.as_tensor(labels).long()
        if labels.shape != (len(images),):
            raise datasets.DataError(
                f"data set {name!r} returned {counted(len(images), 'image')} and labels of shape"
                f" {tuple(labels.shape)}; give one label for each image"
            )
    images = convert.resize(images, size or images.shape[-1])
    return Images(convert.with_channels(images, channels or images.shape[1]), labels)


def extractor(name: str, make: Callable[..., Extractor] | None = None) -> Callable[[T], T]:
    """A feature extractor: a function of `device` that returns a `msngan.scores.Extractor`.

    Its scores carry the extractor's own name, and are never called FID.
    """

    def add(make: Callable[..., Extractor]) -> None:
        _add("extractor", "EXTRACTORS", scorer.EXTRACTORS, name, make)

    return _decorator(add, make)


def callback(name: str, kind: type[Callback] | None = None) -> Callable[[T], T]:
    """A callback of Lightning's, made for every run of `fit` and `resume` that has the plug-in.

    Its constructor's parameters, each with a type and a default, are options: `--NAME.every 5`.
    """

    def add(kind: type[Callback]) -> None:
        own = own_options("callback", name, kind, frozenset(), Role.TRAINING)
        _add("callback", "OF_PLUGINS", OF_PLUGINS, name, kind, own)

    return _decorator(add, kind)


# Names and options


def _decorator(add: Callable[[T], None], thing: T | None) -> Any:
    """What `@register.kind(name)` is; with a thing, which is added at once, the thing."""

    def decorate(thing: T) -> T:
        add(thing)
        return thing

    return decorate if thing is None else decorate(thing)


def _of_kind(kind: str, name: str, entry: Any, wanted: type[T]) -> T:
    """The entry, or what it returns, which must be of the wanted type."""
    made = entry if isinstance(entry, wanted) or not callable(entry) else entry()
    if not isinstance(made, wanted):
        raise UserError(
            f"{kind} {name!r} is of type {type(made).__name__}; give a"
            f" {wanted.__module__.removesuffix('.parts')}.{wanted.__name__}"
        )
    return made


def _add(
    kind: str,
    names: str,
    known: dict[str, Any],
    name: str,
    made: Any,
    own: list[Option] | None = None,
) -> None:
    """Put `made` into a table, `names` in its module; UserError for a name that cannot be."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{kind} {name!r}: a name is a lower-case letter, then lower-case letters, digits and"
            " _, 40 in all at most"
        )
    taken = {*known, MODULE, *(each for added in options.ADDED.values() for each in added)}
    for task, sources in options.SOURCES.items():
        taken |= {*sources, *options.options_of(task)}
    if name in taken:
        raise UserError(f"{kind} {name!r}: the name is taken; choose another")
    known[name] = made
    options.add(names, name, own or [])


def own_options(
    kind: str, name: str, constructor: Callable[..., Any], given: frozenset[str], role: Role
) -> list[Option]:
    """The parameters of a constructor that it is not given otherwise, as options under a name."""
    of = constructor.__init__ if inspect.isclass(constructor) else constructor  # type: ignore[misc]
    try:
        hints = get_type_hints(of, include_extras=True)
    except NameError as problem:
        raise UserError(f"{kind} {name!r}: {problem} (in an annotation)") from problem
    text = inspect.getdoc(constructor) or ""
    helps = options.helps(text) | options.helps(inspect.getdoc(of) or "")
    found = []
    for each in inspect.signature(constructor).parameters.values():
        if each.name in given or each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
            continue
        if each.default is each.empty:
            known = f" is none of {', '.join(sorted(given))}, and" if given else ""
            raise UserError(
                f"{kind} {name!r}: its parameter {each.name}{known} has no default; give it one"
            )
        type_, _ = options.without_marks(hints.get(each.name, type(each.default)))
        try:
            words(type_)
        except (KeyError, IndexError, TypeError) as problem:
            raise UserError(
                f"{kind} {name!r}: its parameter {each.name} is of type {type_}; an option is an"
                " int, float, bool, str, Literal, or one of these or None"
            ) from problem
        help_ = helps.get(each.name, f"{each.name} of {kind} {name}")
        found.append(Option(f"{name}.{each.name}", type_, each.default, help_, role))
    return found
