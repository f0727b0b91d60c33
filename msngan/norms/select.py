"""Which norm, with which options, on which layers of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, get_args, get_type_hints

from torch import nn

from msngan.norms.base import Norm
from msngan.norms.layers import NormLayer, weights_of
from msngan.norms.table import NORMS
from msngan.runs.folder import did_you_mean

SHOWN = 12  # names of layers in a message


def configured(norm: str, options: Mapping[str, Any]) -> Norm:
    """The entry of NORMS, with these options.

    Raises ValueError for an unknown norm, an option that it does not have, and a value that it
    cannot have.
    """
    if norm not in NORMS:
        near = did_you_mean(norm, list(NORMS))
        raise ValueError(f"unknown norm {norm!r}{near}; choose one of {', '.join(sorted(NORMS))}")
    make = NORMS[norm].options
    hints = get_type_hints(make) if make else {}
    kinds = {name: hints.get(name) for name in signature(make).parameters} if make else {}
    for name, value in options.items():
        if name not in kinds:
            has = f"its options are {', '.join(kinds)}" if kinds else "it has none"
            near = did_you_mean(name, list(kinds))
            raise ValueError(f"norm {norm!r} has no option {name!r}{near}; {has}")
        if not _fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", str(kinds[name]))
            raise ValueError(f"norm {norm!r}: option {name} is of type {kind}, not {value!r}")
    try:
        return NORMS[norm].configured(**options)
    except ValueError as problem:
        raise ValueError(f"norm {norm!r}: {problem}") from problem


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a plain kind; true for kinds that are not plain."""
    if kind in (int, float):
        allowed = (int, float) if kind is float else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    plain = set(get_args(kind)) - {type(None)}
    if plain and plain <= {bool, int, float, str}:
        return (value is None and type(None) in get_args(kind)) or any(
            _fits(value, each) for each in plain
        )
    return True


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """The layers with weight matrices, with a norm or without, by qualified name and in order.

    Those of torch's and their subclasses; see `msngan.norms.layers.weights_of`. A layer with
    several names goes by its first.
    """
    return {name: part for name, part in module.named_modules() if weights_of(part)}


def select(module: nn.Module, layers: Sequence[int | str] | None = None) -> dict[str, nn.Module]:
    """The layers that any item selects, by name, in the order of `layers_of`; all of them for None.

    An item is an index among the layers (negative from the end), a pattern of names ("body.*", with
    any of a layer's names) or the name of a kind ("Conv2d"). An item "!..." takes out what the rest
    of it selects; where all items do, they take out of all layers. Raises ValueError for an item
    that selects nothing, and where nothing is left.
    """
    found = layers_of(module)
    if not found:
        raise ValueError(
            f"{type(module).__name__} has no layer to put a norm on: none with a weight matrix"
        )
    if layers is None:
        return found
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers {layers!r}: give a list, as [0, 'body.*', 'Linear'], or None")
    names = _all_names(module, found)
    wanted = [_matching(item, names, found) for item in layers if not _excludes(item)]
    unwanted = [_matching(item, names, found) for item in layers if _excludes(item)]
    kept = (set().union(*wanted) if wanted else set(found)) - set().union(*unwanted)
    if not kept:
        raise ValueError(f"layers {list(layers)} leave no layer")
    return {name: layer for name, layer in found.items() if name in kept}


def _excludes(item: int | str) -> bool:
    return isinstance(item, str) and item.startswith("!")


def _matching(
    item: int | str, names: dict[str, list[str]], found: dict[str, nn.Module]
) -> set[str]:
    """The layers, by first name, that one item speaks of."""
    if isinstance(item, str):
        word = item.removeprefix("!")
        matched = {
            name
            for name, layer in found.items()
            if word in _kinds(layer) or any(fnmatchcase(each, word) for each in names[name])
        }
        if not matched:
            raise ValueError(_nothing_matches(item, word, names, found))
        return matched
    if not isinstance(item, int) or isinstance(item, bool):
        raise ValueError(f"layers: {item!r} is no index, no pattern of names and no kind")
    count = len(found)
    if not -count <= item < count:
        raise ValueError(
            f"there is no layer {item}: the layers are 0 to {count - 1}, or -{count} to -1 from the"
            " end"
        )
    return {list(found)[item]}


def _nothing_matches(
    item: str, word: str, names: dict[str, list[str]], found: dict[str, nn.Module]
) -> str:
    known = [each for group in names.values() for each in group]
    if any(each.startswith(f"{word}.") for each in known):
        near = f" (did you mean {word + '.*'!r}?)"
    else:
        near = did_you_mean(word, [*known, "Conv2d", "Linear"])
    kinds = dict.fromkeys(_kinds(layer)[0] for layer in found.values())
    return (
        f"no layer matches {item!r}{near}; the layers are {listed(found)};"
        f" their kinds are {', '.join(kinds)}"
    )


def listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    """Names for a message, the first of them where there are many."""
    shown = [name or "(the module itself)" for name in names]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def _kinds(layer: nn.Module) -> list[str]:
    """The names of the layer's class without the norm and of the classes that this one is of."""
    plain = layer.plain if isinstance(layer, NormLayer) else type(layer)
    return [kind.__name__ for kind in plain.__mro__ if issubclass(kind, nn.Module)][:-1]


def _all_names(module: nn.Module, found: dict[str, nn.Module]) -> dict[str, list[str]]:
    """Each layer's names, by its first."""
    first = {id(layer): name for name, layer in found.items()}
    names: dict[str, list[str]] = {name: [] for name in found}
    for name, part in module.named_modules(remove_duplicate=False):
        if id(part) in first:
            names[first[id(part)]].append(name)
    return names
