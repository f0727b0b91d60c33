"""What the options in a file may be: each task's by name and kind.

A checkpoint or an exported generator may come from anyone. An option that is not here, or is of
another kind, is refused: it is a younger version's, or no option.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Kind = Callable[[Any], bool]

LARGEST = 2**63
LONGEST = 200  # characters of a word


def whole(value: Any) -> bool:  # noqa: ANN401  any plain value, as below
    return type(value) is int and abs(value) < LARGEST


def count(value: Any) -> bool:  # noqa: ANN401
    return whole(value) and 0 < value <= 2**20


def number(value: Any) -> bool:  # noqa: ANN401
    return whole(value) or (type(value) is float and math.isfinite(value))


def flag(value: Any) -> bool:  # noqa: ANN401
    return type(value) is bool


def word(value: Any) -> bool:  # noqa: ANN401
    return type(value) is str and len(value) <= LONGEST


def pair(value: Any) -> bool:  # noqa: ANN401
    return type(value) in (tuple, list) and len(value) == 2 and all(map(number, value))


def scalar(value: Any) -> bool:  # noqa: ANN401
    return flag(value) or number(value) or word(value)


def mapping(value: Any) -> bool:  # noqa: ANN401
    few = type(value) is dict and len(value) <= 100
    return few and all(word(name) and scalar(each) for name, each in value.items())


def places(value: Any) -> bool:  # noqa: ANN401
    return type(value) is list and len(value) <= 1000 and all(whole(x) or word(x) for x in value)


def path(value: Any) -> bool:  # noqa: ANN401
    return type(value) is str and len(value) <= 4096 and "\0" not in value


def maybe(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


NORM: dict[str, Kind] = {
    "norm": word,
    "norm_options": maybe(mapping),
    "norm_layers": maybe(places),
    "other_norm": word,
}
GAN: dict[str, Kind] = {
    **NORM,
    "loss": word,
    "penalty": word,
    "penalty_weight": maybe(number),
    "penalty_statistics": word,
    "critic": word,
    "generator": word,
    "width": count,
    "critic_width": maybe(count),
    "latent_dim": count,
    "slope": number,
    "conv_bias": flag,
    "power_iteration": word,
    "passes": word,
    "generator_statistics": word,
    "critic_steps": count,
    "generator_lr": number,
    "critic_lr": number,
    "generator_betas": pair,
    "critic_betas": pair,
    "lr_decay": word,
    "ema_decay": number,
    "channels_last": flag,
    "compile": flag,
    "seed": whole,
    "steps": whole,
    "channels": count,
    "size": count,
}
CLASSIFIER: dict[str, Kind] = {
    **NORM,
    "network": word,
    "as_released": flag,
    "placement": word,
    "activation": word,
    "slope": number,
    "dropout": number,
    "width": maybe(count),
    "depth": maybe(count),
    "conv_bias": flag,
    "lr": number,
    "betas": pair,
    "weight_decay": number,
    "lr_decay": word,
    "label_smoothing": number,
    "channels_last": flag,
    "compile": flag,
    "seed": whole,
    "steps": whole,
    "channels": count,
    "size": count,
    "classes": count,
}
OPTIONS = {"gan": GAN, "classifier": CLASSIFIER}
DATA: dict[str, Kind] = {
    "dataset": word,
    "root": maybe(path),
    "split": maybe(word),
    "size": maybe(count),
    "channels": maybe(count),
    "mirror": flag,
    "on_bad_image": word,
    "limit": maybe(whole),
    "validation": whole,
    "crop": whole,
    "test_limit": maybe(whole),
}
# What every file has said from the first version on; others had a default when they came.
NEEDED = {
    "gan": ("generator", "latent_dim", "width", "channels", "size", "ema_decay", "channels_last"),
    "classifier": ("network", "norm", "channels", "size", "classes"),
    "data": ("dataset", "root", "split", "size", "channels"),
}


def check_kinds(values: Any, kinds: dict[str, Kind], needed: tuple[str, ...], what: str) -> None:  # noqa: ANN401
    """ValueError for values that are no mapping, or hold another name or kind."""
    if not isinstance(values, dict):
        raise ValueError(f"its {what} are no mapping")
    for name, value in values.items():
        if type(name) is not str or name not in kinds:
            raise ValueError(
                f"its {what} hold {str(name)[:80]!r}, which this version does not know"
            )
        if not kinds[name](value):
            raise ValueError(f"{name} in its {what} is {shown(value)}")
    for name in needed:
        if name not in values:
            raise ValueError(f"its {what} do not say {name}")


def shown(value: Any) -> str:  # noqa: ANN401
    """A value for a message: itself where it is short and plain."""
    if type(value) is int:
        return str(value) if abs(value) < LARGEST else "a number beyond 64 bits"
    plain = value is None or type(value) in (bool, float, str)
    return repr(value)[:80] if plain else f"a {type(value).__name__}"
