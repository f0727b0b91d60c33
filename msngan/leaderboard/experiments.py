"""Which runs are one experiment under several seeds: the id of a run's resolved config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msngan.runs.folder import Run
from msngan.runs.options import FORMER, flat, is_free, options_of
from msngan.runs.safe_read import clean, read_config

NONE = "–"  # an option that a config does not have

# What is always in an id. An option that came later is in it where it is not at its default, so
# that older runs, which lack it, keep their ids.
_FIRST = """
    task steps epochs trainer.devices trainer.num_nodes trainer.precision
    data.dataset data.root data.split data.size data.channels data.batch_size data.mirror data.limit
    data.validation data.crop data.mean data.sd data.test_limit
    model.norm model.norm_options model.norm_layers model.other_norm model.width model.slope
    model.conv_bias model.lr_decay model.channels_last model.compile
    model.loss model.penalty model.penalty_weight model.penalty_statistics model.critic
    model.generator model.critic_width model.latent_dim model.power_iteration model.critic_batch
    model.generator_statistics model.critic_steps model.generator_lr model.critic_lr
    model.generator_betas model.critic_betas model.ema_decay
    model.network model.as_released model.placement model.activation model.dropout model.depth
    model.lr model.betas model.label_smoothing
"""
FIRST = frozenset(_FIRST.split())
FIRST_OF = {"gan": FIRST, "classifier": FIRST | {"model.weight_decay"}}  # a GAN has it later


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
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else problem
            place = clean(str(run.config))
            warnings.append(f"{place}: {reason}; the run is not pooled with others")
    return setups, warnings


def setup_of(config: dict[str, Any]) -> Setup:
    """The setup of a resolved config; ValueError names what it lacks."""
    length = "epochs" if config.get("task") == "classifier" else "steps"
    for name, kind in {"seed": int, length: int, "model": dict, "data": dict}.items():
        if name not in config:
            raise ValueError(f"no {name!r}")
        if type(config[name]) is not kind:
            raise ValueError(f"{name!r} is not a {kind.__name__}")
    if config["seed"] < 0:
        raise ValueError("'seed' is negative")
    present, task = flat(config), "classifier" if config.get("task") == "classifier" else "gan"
    known = options_of(task)
    former = {new: old for old, new in FORMER.items()}  # with these names older runs keep their ids
    nested: dict[str, Any] = {"trainer": {}, "data": {}, "scores": {}, "model": {}}
    for name, value in present.items():
        section, _, own = former.get(name, name).rpartition(".")
        later = name in known and name not in FIRST_OF[task]
        later = later and _plain(value) == _plain(known[name].default)
        if not (later or is_free(name, present)) and (name, value) != ("task", "gan"):
            (nested.setdefault(section, {}) if section else nested)[own] = value
    kept = _plain(nested)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    config_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    options = {FORMER.get(name, name): value for name, value in sorted(flat_json(kept))}
    return Setup(config_id, config["seed"], options)


def differences(setups: Sequence[Setup]) -> dict[str, tuple[str, ...]]:
    """The options that differ, in order of name, each with the value in every setup.

    NONE stands for an option that a config does not have. Two setups of different ids differ in at
    least one option here.
    """
    names = sorted({name for setup in setups for name in setup.options})
    values = {name: tuple(setup.options.get(name, NONE) for setup in setups) for name in names}
    return {name: each for name, each in values.items() if len({*each}) > 1}


def in_words(differing: dict[str, tuple[str, ...]], most: int = 8) -> str:
    """'model.norm ("batch", "spectral"), steps (100, 200)', the first few of them."""
    return _listed([f"{name} ({', '.join(values)})" for name, values in differing.items()], most)


def told_apart(runs: list[str], setups: dict[str, Setup], most: int = 3) -> dict[str, str]:
    """What each run has of the options in which these runs differ: 'norm=batch, lr=0.1'."""
    known = [run for run in runs if run in setups]
    differing = differences([setups[run] for run in known])
    differing.pop("steps", None)
    short = [(name.rpartition(".")[2], values) for name, values in differing.items()]
    return {
        run: _listed([f"{name}={values[i]}".replace('"', "") for name, values in short], most)
        for i, run in enumerate(known)
    }


def _listed(words: list[str], most: int) -> str:
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return ", ".join([*words[:most], *more])


def flat_json(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401  any JSON value
    """Options by their dotted names, each value as JSON."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from flat_json(each, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield clean(prefix), clean(json.dumps(value, ensure_ascii=False, default=str))


def _plain(value: Any) -> Any:  # noqa: ANN401  any YAML value
    """As JSON can hold it, a whole float as the integer it equals."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a word")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
