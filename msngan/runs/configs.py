"""Configs by name. No torch here: a missing config is answered at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from msngan.runs.folder import UserError, did_you_mean
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
    if is_file(name):
        return Path(name)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    known = known_configs()
    if stem in known:
        return known[stem]
    raise UserError(
        f"no config {name!r}{did_you_mean(stem, list(known))}; `msngan configs` lists them"
    )


def is_file(name: str) -> bool:
    """Whether there is such a file; no system has one of a name too long or with a NUL in it."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


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


def split_configs(words: list[str]) -> tuple[list[str], list[str]]:
    """The names that a command line gives by --config, and its other words."""
    names, rest, index = [], [], 0
    while index < len(words):
        option, equals, value = words[index].partition("=")
        index += 1
        if option not in ("-c", "--config"):
            rest.append(words[index - 1])
            continue
        if not equals:
            value = words[index] if index < len(words) else ""
            index += 1
        names.append(value)
    return names, rest


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
