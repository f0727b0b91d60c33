"""A study's files: the one that a person writes, the copy in its folder, how far its runs are.

The latter is read from the runs' folders and nowhere else, so that a kill loses nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from msngan.runs.atomic import replacing
from msngan.runs.configs import find_config, refuse_unknown, top_level
from msngan.runs.folder import NAME, Inside, Run, UserError, is_locked
from msngan.runs.jsonl import newest
from msngan.runs.options import is_free, named
from msngan.runs.safe_read import load_yaml, number, object_or_empty, read_config
from msngan.study.plan import LETTERS, OWN, SEED, Child, Options, Study, flat, make_study

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
    folder = Path(word) if Path(word).is_dir() else Place(word, root).folder
    try:
        path = find_config(word)
    except UserError:
        path = folder / "study.yaml"
        if not path.is_file():
            raise
    stem = path.parent.name if path.name == "study.yaml" else path.stem
    changed = read_changes(changes)
    study = _study_in(path, name or stem, changed)
    if changed:
        refuse_unknown_options(study, changed)
    return study


def refuse_unknown_options(study: Study, changes: Collection[str] | None = None) -> None:
    """UserError for an option, one of `--set` or any, that the runs' task does not have."""
    where = f"study {study.name}" if changes is None else "--set"
    for config in dict.fromkeys(child.config for child in study.children):
        task = top_level(find_config(config)).get("task", "gan")
        of = (child.options for child in study.children if child.config == config)
        found = dict.fromkeys(name for options in of for name in options)
        with named(where):
            refuse_unknown((name for name in found if changes is None or name in changes), task)


def started_study(place: Place) -> Study | None:
    """The study as it was last started in `place`, None if it never was."""
    if not place.copy.is_file():
        return None
    try:
        return _study_in(place.copy, place.name)
    except UserError as problem:
        raise UserError(
            f"{problem}; it is only a copy of the study as it was started: remove it to continue"
            " without it"
        ) from problem


def _study_in(path: Path, name: str, changes: Options | None = None) -> Study:
    content = read_yaml(path)
    try:
        return make_study(name, content, changes)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem


def save_study(study: Study, place: Place) -> None:
    """Write the copy, if it says something new."""
    text = yaml.safe_dump(study.source, sort_keys=False)
    if not (place.copy.is_file() and place.copy.read_text() == text):
        with replacing(place.copy) as temporary:
            temporary.write_text(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, numbers like 1e-4 as numbers; UserError for anything else."""
    try:
        return {name: _numbered(value) for name, value in read_config(path).items()}
    except OSError as problem:
        raise UserError(f"{path}: it cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from problem


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


def options_of(path: Path) -> Options:
    """What a run's config says, by dotted names."""
    return flat({key: value for key, value in read_yaml(path).items() if key not in OWN}, str(path))


BUDGET = ("steps", "epochs")  # may grow: the run is resumed with more
FINISHED = ("done", "collapsed", "diverged")


@dataclass(frozen=True)
class State:
    """word: 'to do', 'part' (to be resumed), 'running', or one of FINISHED.

    step and total: of training; total is None while it is not known. speed: steps a second. newest:
    the newest accuracy or score in words. reason: of a divergence or collapse.
    """

    word: str
    step: int = 0
    total: int | None = None
    speed: float | None = None
    newest: str = ""
    reason: str | None = None

    def ended(self, retry: bool = False) -> bool:
        """retry: a run that diverged is to be trained again."""
        return self.word in FINISHED and not (retry and self.word == "diverged")


def steps(state: State) -> str:
    """'38/190': how many are done, and of how many."""
    if state.word == "to do":
        return ""
    return f"{state.step}/{'?' if state.total is None else state.total}"


class Reader:
    """Looks at runs of one place; a base config is read once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._bases: dict[str, Options] = {}
        self._epochs: dict[str, float] = {}  # steps of one, by the data

    def run(self, child: Child) -> Run:
        return Run(child.name, self.place.root)

    def look(self, child: Child, own: bool = False) -> State:
        """own: this process holds the run's lock. UserError for a folder of another config."""
        run = self.run(child)
        locks = (self.place.log(child.name), run.lock)
        running = not own and any(map(is_locked, locks))
        if not run.config.is_file():
            return State("running" if running else "to do")
        config = options_of(run.config)
        grown = self.grown(child, config)
        result = object_or_empty(run.result)
        word = result.get("status")
        if running or word not in FINISHED or (grown and word == "done"):
            word = "running" if running else "part"
        return self._progress(run, config | grown, word, result)

    def grown(self, child: Child, config: Options | None = None) -> Options:
        """The steps or epochs that the study asks for beyond those of the run's config.

        UserError where the two differ in anything that the trained network depends on.
        """
        config = config or options_of(self.run(child).config)
        if child.config not in self._bases:
            self._bases[child.config] = options_of(find_config(child.config))
        grown, different = {}, []
        for name, wanted in (self._bases[child.config] | child.options).items():
            have = config.get(name, wanted)  # an older run lacks a newer option
            if have == wanted or (name != SEED and is_free(name, config)):
                continue
            whole = isinstance(have, int) and isinstance(wanted, int)
            if name in BUDGET and whole and wanted > have:
                grown[name] = wanted
                continue
            there, asked = (json.dumps(each, default=str) for each in (have, wanted))
            different.append(f"{name} {there} there, {asked} asked")
        if different:
            raise UserError(
                f"{self.run(child).folder} holds another run: {', '.join(different)}; give the"
                " study another name with --name, or move that folder away"
            )
        return grown

    def _progress(self, run: Run, config: Options, word: str, result: dict[str, Any]) -> State:
        metrics, accuracy = map(newest, (run.metrics, run.accuracy))
        data = repr({name: config[name] for name in config if name.startswith("data.")})
        at, epoch = number(accuracy.get("step")), number(accuracy.get("epoch"))
        if at and epoch:
            self._epochs[data] = at / epoch
        total = config["steps"] if isinstance(config.get("steps"), int) else None
        if total is None and data in self._epochs and isinstance(config.get("epochs"), int):
            total = round(config["epochs"] * self._epochs[data])
        steps = [number(each.get("step")) or 0 for each in (metrics, accuracy, result)]
        step, speed = int(max(steps)), number(metrics.get("steps_per_second"))
        return State(word, step, total, speed, _in_words(run, accuracy), result.get("reason"))


def _in_words(run: Run, accuracy: dict[str, Any]) -> str:
    """The newest accuracy, of the validation images where there are any; else the newest score."""
    for part in ("validation", "test"):
        if (value := number(accuracy.get(f"{part}_accuracy"))) is not None:
            return f"{part} {100 * value:.2f} %"
    scores = newest(run.scores).get("scores")
    for name, score in scores.items() if isinstance(scores, dict) else ():
        if isinstance(score, dict) and (mean := number(score.get("mean"))) is not None:
            return f"{name.partition('/')[0]} {mean:.4g}"
    return ""
