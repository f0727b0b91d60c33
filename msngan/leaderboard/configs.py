"""Which runs are one experiment under several seeds: the id of a run's resolved config.

The config.yaml of a run may come from anyone, as its scores may. It is read as data, without
anchors or tags, up to a size and a depth; what cannot be read leaves its run unpooled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from msngan.runs.folder import Run
from msngan.runs.safe_read import clean, read_config

NONE = "–"  # an option that a config does not have

# What a trained network does not depend on: names and places, how often something is recorded, and
# on what it is computed. Whatever is not named here tells two configs apart, new options included.
WITHOUT = {"run", "root", "seed", "threads", "samples", "checkpoint", "records"}
WITHOUT |= {"dynamics", "health", "accuracy", "detect_anomaly"}
WITHOUT_IN = {
    "trainer": {"accelerator"}  # not devices: a batch is of one process
    | {"deterministic", "benchmark", "profiler", "detect_anomaly"},
    "data": {"root", "download"},
    "scores": {"every", "enabled", "protocol", "metrics", "best", "runs", "samples"}
    | {"extractor", "inception_weights", "stop_on_collapse"},
}


@dataclass(frozen=True)
class Setup:
    """A run's config without its seed, by 12 hex digits of a hash, and that seed."""

    config_id: str
    seed: int
    options: dict[str, str] = field(compare=False, repr=False)


def read_setups(runs: list[Run]) -> tuple[dict[str, Setup], list[str]]:
    """The setup of each run by the run's name, and a warning for each config that has none."""
    setups: dict[str, Setup] = {}
    warnings = []
    for run in runs:
        if not (run.config.exists() or run.environment.exists()):
            continue  # not trained here: scores of another tool's samples
        try:
            setups[clean(run.name)] = setup_of(read_config(run.config))
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            warnings.append(
                clean(f"{run.config}") + f": {problem}; the run is pooled with no other"
            )
    return setups, warnings


def setup_of(config: dict[str, Any]) -> Setup:
    """Of a resolved config. ValueError names what it lacks."""
    for name, kind in {"seed": int, "steps": int, "model": dict, "data": dict}.items():
        value = config.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"{name!r} is no {kind.__name__}" if name in config else f"no {name!r}"
            )
    if config["seed"] < 0:
        raise ValueError("'seed' is negative")
    kept = {name: value for name, value in config.items() if name not in WITHOUT}
    if kept.get("task") == "gan":  # older configs do not say it
        del kept["task"]
    for section, names in WITHOUT_IN.items():
        inner = kept.get(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{section!r} is no dict")
        if section == "data" and inner.get("dataset") == "folder":
            names = names - {"root"}  # there the place is the data set
        kept[section] = {name: value for name, value in inner.items() if name not in names}
    kept = _plain(kept)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    config_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Setup(config_id, config["seed"], dict(_flat(kept)))


def differences(one: Setup, other: Setup) -> dict[str, tuple[str, str]]:
    """The options that the two configs have other values of: name -> both, NONE where one lacks it.

    The id tells all options apart, and the names here all that it is made of.
    """
    names = sorted(one.options.keys() | other.options.keys())
    pairs = {name: (one.options.get(name, NONE), other.options.get(name, NONE)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def told_apart(runs: list[str], setups: dict[str, Setup], most: int = 3) -> dict[str, str]:
    """What each run has of the options in which these runs differ: 'norm=batch, lr=0.1'."""
    known = {run: setups[run].options for run in runs if run in setups}
    names = sorted({name for options in known.values() for name in options} - {"steps"})
    varying = [n for n in names if len({options.get(n, NONE) for options in known.values()}) > 1]
    told = {}
    for run, options in known.items():
        words = [
            f"{name.rpartition('.')[2]}={options.get(name, NONE)}".replace('"', "")
            for name in varying
        ]
        more = [f"{len(words) - most} more"] if len(words) > most else []
        told[run] = ", ".join([*words[:most], *more])
    return told


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401  any JSON value
    """Options by their dotted names, each value as JSON."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _flat(each, f"{prefix}.{name}" if prefix else name)
    else:
        yield clean(prefix), clean(json.dumps(value, ensure_ascii=False))


def _plain(value: Any) -> Any:  # noqa: ANN401  any YAML value
    """As JSON can hold it, a whole float as the integer it equals."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is no str")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("it holds an integer beyond 64 bits")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
