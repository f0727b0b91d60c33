"""A run's folder and its records. No torch here: the leaderboard reads runs without it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msngan.runs.atomic import append, replacing

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")


class UserError(ValueError):
    """Bad input: commands print it in one line and exit with 2."""

    together = False  # whether all processes of the run raise it: the first one then tells it


class Taken(UserError):
    """Another process trains this run."""


class Failure(RuntimeError):
    """What nobody's input is to blame for: commands print it in one line and exit with 1."""

    together = False


class Diverged(Failure):
    """Training produced a NaN or an infinity, in every process of the run.

    step: the one that did, counted from 1, where it is known; figures: that step's numbers.
    """

    together = True
    step: int | None = None
    figures: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """Where a run keeps its things: checkpoints/<name>/ and samples/<name>/ below `root`."""

    name: str
    root: Path = Path()

    @property
    def folder(self) -> Path:
        return self.root / "checkpoints" / self.name

    @property
    def samples(self) -> Path:
        return self.root / "samples" / self.name

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def task(self) -> str:
        """What it trains, as its config says: gan or classifier."""
        try:
            if not self.config.is_file():  # opening a pipe would wait for ever
                return "gan"
            with open(self.config, encoding="utf-8", errors="replace") as file:
                lines = file.read(65536).splitlines()
        except OSError:
            return "gan"
        return "classifier" if "task: classifier" in lines else "gan"

    @property
    def begun(self) -> bool:
        """Whether its folder holds more than `fit` writes before the config, and a kill leaves."""
        if not self.folder.is_dir():
            return self.folder.exists()
        known = (self.environment, self.lock)
        found = self.folder.iterdir()
        return any(path not in known and path.suffix != ".tmp" for path in found)

    @property
    def lock(self) -> Path:
        """Locked by the process that trains the run; the file itself stays."""
        return self.folder / ".lock"

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.folder / "previous.ckpt"

    @property
    def newest(self) -> Path | None:
        """The checkpoint to go on from: the last, or the one before it if that is gone."""
        return next((path for path in (self.last, self.previous) if path.is_file()), None)

    @property
    def best(self) -> Path:
        return self.folder / "best.ckpt"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.jsonl"

    @property
    def accuracy(self) -> Path:
        """A classifier's accuracies, a line an epoch."""
        return self.folder / "accuracy.jsonl"

    @property
    def dynamics(self) -> Path:
        return self.folder / "dynamics.npz"

    @property
    def health(self) -> Path:
        """What is looked at for a collapse, a line a check."""
        return self.folder / "health.jsonl"

    @property
    def result(self) -> Path:
        """How the run ended; there is none while it trains, or after a kill."""
        return self.folder / "result.json"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"


def all_runs(root: Path = Path()) -> list[Run]:
    """Every folder below checkpoints/ that holds a config, in order of name."""
    return [Run(path.parent.name, root) for path in sorted(root.glob("checkpoints/*/config.yaml"))]


def new_run(name: str | None, stem: str, seed: int, root: Path = Path()) -> Run:
    """A run whose folder does not exist yet: `name`, or <stem>-s<seed>-<counter>."""
    if name is not None:
        if not NAME.fullmatch(name):
            raise UserError(
                f"--run {name!r} is no run name; use letters, digits, '.', '_', '=' and '-'"
            )
        run = Run(name, root)
        if run.begun:
            raise UserError(
                f"run {name!r} is taken ({run.folder}); choose another --run, or continue it with"
                f" `msngan resume {name}`"
            )
        return run
    counter = 0
    while (run := Run(f"{stem}-s{seed}-{counter}", root)).folder.exists() or run.samples.exists():
        counter += 1
    return run


def find_checkpoint(target: str, root: Path = Path()) -> tuple[Path, Run | None]:
    """The checkpoint that `target` means: a file, a run's folder, or a run's name (its last).

    Also the run that it belongs to, if its folder has a config.
    """
    path = Path(target)
    run = Run(target, root)
    if path.is_file():
        parent = path.resolve().parent
        known = (parent / "config.yaml").is_file() and parent.parent.name == "checkpoints"
        return path, Run(parent.name, parent.parent.parent) if known else None
    if path.is_dir() and (path / "config.yaml").is_file():
        run = Run(path.resolve().name, path.resolve().parent.parent)
    elif not (NAME.fullmatch(target) and run.folder.is_dir()):
        names = [each.name for each in all_runs(root)]
        known_names = f"; runs here: {', '.join(names)}" if names else ""
        near = did_you_mean(target, names)
        raise UserError(f"no run, folder or checkpoint {target!r}{near}{known_names}")
    try:
        newest = run.newest
    except OSError as problem:
        raise UserError(f"{run.folder} cannot be read: {problem.strerror}") from problem
    if newest is not None:
        return newest, run
    if (run.folder / "study.yaml").is_file():
        raise UserError(
            f"{run.name!r} is a study of many runs; name one of them, {run.name}-... in"
            f" {run.folder.parent}"
        )
    raise UserError(f"run {run.name!r} has no checkpoint yet in {run.folder}")


def did_you_mean(word: str, known: list[str]) -> str:
    """' (did you mean X?)' when something known is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  any JSON value
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line, whole or not at all; NaN and infinity are refused, for JSON has none."""
    append(path, json.dumps(record, allow_nan=False).encode())


def now() -> str:
    """The time for a record, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
