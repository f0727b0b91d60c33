"""Study files: the one that a person writes, and the copy that a study keeps in its own folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from msngan.runs.atomic import replacing
from msngan.runs.configs import find_config
from msngan.runs.folder import NAME, Inside, UserError
from msngan.runs.safe_read import load_yaml, read_config
from msngan.study.plan import LETTERS, OWN, Options, Study, flat, make_study

# What YAML 1.2 and people take for a number, and YAML 1.1 for text: it has no dot.
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass(frozen=True)
class Place:
    """Where a study keeps its things: checkpoints/<name>/ below `root`, beside its runs."""

    name: str
    root: Path = Path()

    copy = Inside("study.yaml")
    results = Inside("results.json")

    @property
    def folder(self) -> Path:
        return self.root / "checkpoints" / self.name

    def log(self, run: str) -> Path:
        """What a run of the study prints; locked by the process that trains it."""
        return self.folder / "logs" / f"{run}.txt"


def open_study(word: str, root: Path, name: str | None, changes: list[str]) -> Study:
    """The study that `word` names: a file, a known config, or the copy of one started here."""
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"--name {name!r} is not a name of a study; use {LETTERS}")
    path, options = _find(word, root), read_changes(changes)
    stem = path.parent.name if path.name == "study.yaml" else path.stem
    try:
        return make_study(name or stem, read_yaml(path), options)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem


def started_study(place: Place) -> Study | None:
    """The study as it was last started in `place`, None if it never was."""
    if not place.copy.is_file():
        return None
    try:
        return make_study(place.name, read_yaml(place.copy))
    except UserError as problem:
        raise UserError(
            f"{place.copy}: {problem}; it is only a copy of the study as it was started: remove it"
            " to continue without it"
        ) from problem


def save_study(study: Study, place: Place) -> None:
    """Write the copy, if it says something new."""
    text = yaml.safe_dump(study.source, sort_keys=False)
    if not (place.copy.is_file() and place.copy.read_text() == text):
        with replacing(place.copy) as temporary:
            temporary.write_text(text)


def _find(word: str, root: Path) -> Path:
    folder = Path(word) if Path(word).is_dir() else Place(word, root).folder
    try:
        return find_config(word)
    except UserError:
        if (folder / "study.yaml").is_file():
            return folder / "study.yaml"
        raise


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, numbers like 1e-4 as numbers; UserError for anything else."""
    try:
        return {name: _numbered(value) for name, value in read_config(path).items()}
    except OSError as problem:
        raise UserError(f"it cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise UserError(str(problem)) from problem


def _numbered(value: Any) -> Any:  # noqa: ANN401  any YAML value
    if isinstance(value, dict):
        return {key: _numbered(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_numbered(each) for each in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def read_changes(changes: list[str]) -> Options:
    """`--set name=value` as options."""
    found: Options = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not (equals and name):
            raise UserError(f"--set {change!r}: write option=value, epochs=5 for instance")
        try:
            value = _numbered(load_yaml(text))
        except ValueError:
            value = text
        found |= flat({name: value}, "--set")
    return found


def base_options(path: Path) -> Options:
    """What a run's config says, by dotted names."""
    try:
        content = read_yaml(path)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem
    return flat({key: value for key, value in content.items() if key not in OWN}, str(path))
