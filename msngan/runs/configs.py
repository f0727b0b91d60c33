"""Configs by name, and the config of a run: from a command line and its config files. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_origin

from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.option_values import members, read
from msngan.runs.options import ADDED, FORMER, SOURCES, TASK_OF, flat, named, options_of
from msngan.runs.safe_read import load_yaml, read_config, read_text

STUDY_MARKS = ("arms", "grid")  # what a study has and no run's config


def packaged_folder() -> Path:
    """Where the packaged configs lie: inside an installed wheel, or beside the source."""
    installed = Path(str(resources.files("msngan"))) / "configs"
    return installed if installed.is_dir() else installed.parent.parent / "configs"


def known_configs() -> dict[str, Path]:
    """Every config by bare name; those in ./configs hide packaged ones of the same name."""
    folders = (packaged_folder(), Path("configs"))
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in paths if path.is_file()}


def find_config(name: str) -> Path:
    """`name` as a path, then in ./configs, then among the packaged ones; '.yaml' may be missing."""
    if not name:
        raise UserError("--config needs a name, as --config digits_msn; `msngan configs` lists all")
    with suppress(OSError, ValueError):  # no file has a name that is too long or holds a NUL
        if Path(name).is_file():
            return Path(name)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    known = known_configs()
    if stem in known:
        return known[stem]
    here = [path.name for path in Path().glob("*.yaml")]
    raise UserError(
        f"no config {name!r}{did_you_mean(stem, [*known, *here])}; `msngan configs` lists them"
    )


def top_level(path: Path) -> dict[str, Any]:
    """What a config says at its top level; nothing where it cannot be read as a mapping.

    What is wrong with a config is said by the parser that reads it in earnest.
    """
    try:
        return read_config(path)
    except (OSError, ValueError):
        return {}


def is_study(content: object) -> bool:
    """Whether a file's content is a study, which `msngan study` runs, and no run's config."""
    return isinstance(content, Mapping) and any(mark in content for mark in STUDY_MARKS)


def read_configs(names: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The path and the content of each config of options; UserError for what is not one."""
    found = []
    for path in map(find_config, names):
        try:
            content = load_yaml(read_text(path))
        except OSError as problem:
            raise UserError(f"{path} cannot be read: {problem.strerror}") from problem
        except ValueError as problem:
            raise UserError(f"{path}: {problem}") from problem
        if is_study(content):
            raise UserError(
                f"{path} is a study of many runs; train them with `msngan study {path.stem}`"
            )
        if not isinstance(content, dict):
            raise UserError(f"{path} holds no options; write lines such as `steps: 1000`")
        if "plugin" in content or "plugins" in content:
            raise UserError(
                f"{path}: a config cannot name a plug-in, because whoever wrote it could then run"
                " code here; give --plugin FILE.py on the command line"
            )
        if "config" in content:
            raise UserError(f"{path}: a config cannot name another; give --config once for each")
        found.append((path, content))
    return found


def summary(path: Path) -> str:
    """The first comment line of a config."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as problem:
        return f"cannot be read: {problem}"
    for line in lines:
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
        if line.strip():
            break
    return ""


# Where and how the data are read: no part of a run's name.
UNNAMED = ("data.root", "data.download", "data.cache", "data.on_bad_image")
LONGEST_NAME, LONGEST_CHANGES = 74, 60  # characters of a run's name before its seed
NO_PENALTY = "none"  # a name of --model.penalty
FLAGS = {"--help": "help", "-h": "help"}
FLAGS |= {"--print_config": "print_config", "--print-config": "print_config"}
LONE = object()
COMMAND = {"gan": "msngan fit", "classifier": "msngan fit --task classifier"}


class FitConfig:
    """Every option of a run: config["model.width"], config.seed, config.model.width.

    task: gan or classifier. stem: name of the last config file, or of the data set. name: what a
    run without --run is named, but for its seed: by its config and what the command line changes.
    asked: the options that the command line sets. flags: help, print_config.
    """

    def __init__(
        self,
        options: dict[str, Any],
        stem: str,
        changes: str = "",
        asked: Iterable[str] = (),
        flags: Iterable[str] = (),
    ) -> None:
        self.task: str = options["task"]
        self.options, self.stem, self.asked, self.flags = options, stem, set(asked), set(flags)
        self.name = re.sub(r"[^\w.=-]+", "_", stem)[: LONGEST_NAME - len(changes)] + changes

    def __getitem__(self, name: str) -> Any:
        return self.options[name]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            if name in self.options:
                return self.options[name]
            if group := self.group(name):
                return SimpleNamespace(**group)
        raise AttributeError(name)

    def group(self, name: str) -> dict[str, Any]:
        """The options of a group, by their names in it: keyword arguments of its class."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.options.items() if k.startswith(start)}

    def nested(self, without: Collection[str] = (), **changed: Any) -> dict[str, Any]:
        """The options as config.yaml holds them: a group is a mapping."""
        found: dict[str, Any] = {}
        for name, value in (self.options | changed).items():
            group, _, own = name.rpartition(".")
            if name not in without:
                inside = found.setdefault(group, {}) if group else found
                inside[own] = list(value) if isinstance(value, tuple) else value
        return found

    def to_yaml(self, without: Collection[str] = (), **changed: Any) -> str:
        """The text of config.yaml."""
        import yaml

        return yaml.safe_dump(self.nested(without, **changed), sort_keys=False)


def parse(arguments: list[str]) -> FitConfig:
    """The options of a command line: its words win over its configs, a later one over an earlier.

    UserError, in one line, for an option that does not exist or cannot have its value.
    """
    if not arguments:
        raise UserError("nothing to train; give a config, as `msngan fit --config digits_msn`")
    names, asked, flags = _of_words(arguments)
    layers = []
    for path, content in read_configs(names):
        with named(str(path)):
            layers.append((path, flat(content)))
    task = _task([*((f"{path}: task", layer) for path, layer in layers), ("--task", asked)])
    values = {name: option.default for name, option in options_of(task).items()} | {"task": task}
    for path, layer in layers:
        with named(str(path)):
            values |= _checked(layer, values, task)
    values |= _checked(asked, values, task)
    stem = layers[-1][0].stem if layers else values["data.dataset"]
    return FitConfig(values, stem, _changes(asked), asked, flags)


def refuse_none_among(config: FitConfig) -> None:
    """UserError for penalties of which one is `none`.

    Not part of `parse`, nor of GAN: a run that was begun with such a list can be resumed.
    """
    given = config.options.get("model.penalty")
    if isinstance(given, list) and len(given) > 1 and NO_PENALTY in given:
        raise UserError(
            f"--model.penalty {','.join(given)}: {NO_PENALTY} goes with no other penalty; leave it"
            " out"
        )


def idle(config: FitConfig) -> str | None:
    """What is wrong with an option that the command line sets of a penalty, where there is none.

    Not part of `parse`: an arm of a study may have no penalty where the others have one.
    """
    given = config.options.get("model.penalty", NO_PENALTY)
    if {*([given] if isinstance(given, str) else given)} - {NO_PENALTY}:
        return None
    for name, option in options_of(config.task).items():
        of_penalty = name in config.asked and name.startswith("model.penalty_")
        if of_penalty and config[name] != option.default:
            return (
                f"--{name} {config[name]} without a penalty changes nothing; leave it out, or give"
                " one, as --model.penalty r1"
            )
    return None


def _of_words(words: list[str]) -> tuple[list[str], dict[str, Any], set[str]]:
    """The configs that a command line names, its other options and its flags.

    An option is the text of `--name value` or `--name=value`, or LONE for a lone `--name`.
    """
    configs: list[str] = []
    found: dict[str, Any] = {}
    flags = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, text = word.partition("=")
        if option in ("-c", "--config"):
            configs.append(text if equals else rest.pop(0) if rest else "")
        elif word in FLAGS:
            flags.add(FLAGS[word])
        else:
            name = option.removeprefix("--").replace("-", "_") if word.startswith("--") else word
            name = FORMER.get(name, name)
            value: Any = text if equals else LONE
            if word.startswith("--") and not equals and rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            found.pop(name, None)  # the last one counts, in its place
            found[name] = value
    return configs, found, flags


def _task(layers: list[tuple[str, dict[str, Any]]]) -> str:
    said = [(layer["task"], place) for place, layer in layers if "task" in layer]
    task, where = said[-1] if said else ("gan", "")
    if task is LONE:
        raise UserError(f"--task needs a value: {' or '.join(SOURCES)}")
    if not isinstance(task, str) or task not in SOURCES:
        near = did_you_mean(str(task), list(SOURCES))
        raise UserError(f"{where} {task!r} is not known{near}; use {' or '.join(SOURCES)}")
    return task


def refuse_unknown(names: Iterable[str], task: str) -> None:
    """UserError for a name that is no option of the task, nor inside one that is a mapping."""
    options, mappings = options_of(task), _mappings(task)
    for name in names:
        whole, _, inner = name.rpartition(".")
        if name not in options and not (inner and whole in mappings):
            raise UserError(_unknown(name, [*options], task))


def _mappings(task: str) -> set[str]:
    return {
        name
        for name, option in options_of(task).items()
        if any(get_origin(kind) is dict for kind in members(option.type))
    }


def _checked(layer: dict[str, Any], before: dict[str, Any], task: str) -> dict[str, Any]:
    """The layer's options in their types; one of a mapping, as norm_options.gain, joins it."""
    options = options_of(task)
    if (own := layer.get("task", task)) != task:
        raise UserError(f"--task {task} does not fit: this config trains a {own}")
    mappings = _mappings(task)
    found: dict[str, Any] = {}
    for name, value in layer.items():
        whole, _, inner = name.rpartition(".")
        is_flag = name in options and options[name].type is bool  # --detect-anomaly
        if value is LONE and not is_flag and (name in options or whole in mappings):
            raise UserError(f"--{name}: a value is needed; this one is blank")
        if name in options:
            found[name] = read(options[name], True if value is LONE else value)
        elif whole in mappings and inner:
            mapping = found.get(whole, before[whole]) or {}
            found[whole] = read(options[whole], {**mapping, inner: value})
        else:
            raise UserError(_unknown(name, [*options], task))
    return found


def _unknown(word: str, known: list[str], task: str) -> str:
    if word.removesuffix(".yaml") in known_configs():
        return f"unknown option {word!r}; a config is given as --config {word}"
    last = {name.rpartition(".")[2]: name for name in known if "." in name}
    groups = {name.partition(".")[0] for name in known}
    names = {name: name for name in (*known, *groups)}
    near = [(names | last)[x] for x in difflib.get_close_matches(word, [*names, *last], n=1)]
    near = near or [name for name in known if word in re.split(r"[._]", name)]  # lr of critic_lr
    if word in groups:
        near = [name for name in known if name.startswith(f"{word}.")]  # model is model.norm, ...
    others = [other for other in SOURCES if other != task and word in options_of(other)]
    if others:
        own = word.rpartition(".")[2]
        near = ["steps"] if own == "epochs" else [x for x in known if own in re.split(r"[._]", x)]
    hint = f" (did you mean {' or '.join(map(repr, near[:3]))}?)" if near else ""
    for other in others:
        one, its = (each.replace("gan", "GAN") for each in (task, other))
        hint += f"; only a {its} has it, and this is a {one}"
    return f"unknown option {word!r}{hint}; `{COMMAND[task]} --help` lists all"


def _changes(asked: dict[str, Any]) -> str:
    """What a run's name says of the options that shape training: -norm=spectral-lr=0.1."""
    said = ""
    added = {name for table in TASK_OF for name in ADDED.get(table, ())}  # networks of plug-ins
    for name, value in asked.items():
        of_plugin = name.partition(".")[0] in added
        if (of_plugin or name.startswith(("model.", "data.", "augment."))) and name not in UNNAMED:
            text = re.sub(r"[^\w.]+", "_", "true" if value is LONE else value)
            said += f"-{name.rpartition('.')[2]}={text}"
    return said if len(said) <= LONGEST_CHANGES else ""
