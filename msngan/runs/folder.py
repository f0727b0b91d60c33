"""A run's folder: its files, its lock, and how it is found. No torch here."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from msngan.runs.safe_read import read_config

try:
    import fcntl
except ImportError:  # not POSIX: two processes on one run are not kept apart
    fcntl = None  # type: ignore[assignment]

ZOO = "zoo/"  # begins the name of a generator that comes with the package
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")


class UserError(ValueError):
    """Bad input: commands print it in one line and exit with 2."""

    together = False  # whether all processes of the run raise it: then only the first prints it


class Taken(UserError):
    """Another process trains this run."""


class Failure(RuntimeError):
    """A failure that is not the input's fault: commands print it in one line and exit with 1."""

    together = False


class Diverged(Failure):
    """Training produced a NaN or an infinity, in every process of the run.

    step: the one that did, counted from 1, where it is known; figures: that step's numbers.
    """

    together = True
    step: int | None = None
    figures: Mapping[str, float] = MappingProxyType({})


class HasFolder(Protocol):
    @property
    def folder(self) -> Path: ...


class Inside:
    """The path of a file in the folder of a run or a study, as an attribute of that."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: HasFolder, kind: type[HasFolder]) -> Path:
        return owner.folder / self.name


@dataclass(frozen=True)
class Run:
    """Where a run keeps its things: checkpoints/<name>/ and samples/<name>/ below `root`."""

    name: str
    root: Path = Path()

    config = Inside("config.yaml")
    environment = Inside("environment.json")
    lock = Inside(".lock")  # locked by the process that trains the run; the file itself stays
    last = Inside("last.ckpt")
    previous = Inside("previous.ckpt")
    best = Inside("best.ckpt")
    metrics = Inside("metrics.jsonl")
    scores = Inside("scores.jsonl")
    accuracy = Inside("accuracy.jsonl")  # of a classifier, a line an epoch
    gates = Inside("gates.jsonl")  # changes of the gates of optional_spectral
    health = Inside("health.jsonl")  # collapse checks
    dynamics = Inside("dynamics.npz")
    wandb = Inside("wandb.json")  # id and project at Weights & Biases
    result = Inside("result.json")  # how the run ended; absent while it trains, or after a kill

    @property
    def folder(self) -> Path:
        return self.root / "checkpoints" / self.name

    @property
    def samples(self) -> Path:
        return self.root / "samples" / self.name

    @property
    def root_option(self) -> str:
        """What a command line needs to find the run again; empty in the current folder."""
        return "" if self.root == Path() else f" --root {shlex.quote(str(self.root))}"

    @property
    def task(self) -> str:
        """What it trains, as its config says: gan or classifier."""
        try:
            return "classifier" if read_config(self.config).get("task") == "classifier" else "gan"
        except (OSError, ValueError):
            return "gan"

    @property
    def begun(self) -> bool:
        """Whether its folder holds more than `fit` writes before the config, and a kill leaves."""
        if not self.folder.is_dir():
            return self.folder.exists()
        known = (self.environment, self.lock)
        found = self.folder.iterdir()
        return any(path not in known and path.suffix != ".tmp" for path in found)

    @property
    def newest(self) -> Path | None:
        """The checkpoint to continue from: the last, or the one before it if that is gone."""
        return next((path for path in (self.last, self.previous) if path.is_file()), None)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to continue from; False for a folder that cannot be read."""
        try:
            return self.newest is not None
        except OSError:
            return False


def all_runs(root: Path = Path()) -> list[Run]:
    """Every folder below checkpoints/ that holds a config, in order of name."""
    return [Run(path.parent.name, root) for path in sorted(root.glob("checkpoints/*/config.yaml"))]


def new_run(name: str | None, stem: str, seed: int, root: Path = Path()) -> Run:
    """A run whose folder does not exist yet: `name`, or <stem>-s<seed>-<counter>."""
    if name is not None:
        if not NAME.fullmatch(name):
            raise UserError(
                f"--run {name!r} is not a run name; use letters, digits, '.', '_', '=' and '-'"
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
    """The checkpoint that `target` names: a file, a run's folder, or a run's name (its last).

    zoo/NAME is a generator that comes with the package. And the run that the checkpoint belongs to,
    if its folder has a config.
    """
    path = Path(target)
    run = Run(target, root)
    if target.startswith(ZOO) and not path.exists():
        return shipped(target.removeprefix(ZOO)), None
    if path.is_file():
        parent = path.resolve().parent
        known = (parent / "config.yaml").is_file() and parent.parent.name == "checkpoints"
        return path, Run(parent.name, parent.parent.parent) if known else None
    if path.is_dir() and (path / "config.yaml").is_file():
        run = Run(path.resolve().name, path.resolve().parent.parent)
    elif not (NAME.fullmatch(target) and run.folder.is_dir()):
        names = [each.name for each in all_runs(root)]
        known_names = f"; runs here: {some(names)}" if names else ""
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
    more = (
        "" if run.config.is_file() else "; a Trainer of your own has them elsewhere: give the file"
    )
    raise UserError(f"run {run.name!r} has no checkpoint yet in {run.folder}{more}")


def zoo() -> dict[str, Path]:
    """The generators that come with the package, inside an installed wheel or beside the source."""
    package = Path(__file__).parents[1]
    folder = package / "zoo" if (package / "zoo").is_dir() else package.parent / "checkpoints/zoo"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def shipped(name: str) -> Path:
    """The file of a generator of the zoo; UserError for a name that it does not have."""
    files = zoo()
    if name not in files:
        near = did_you_mean(name, list(files))
        raise UserError(f"no generator {ZOO + name!r}{near}; the zoo has {some(list(files))}")
    return files[name]


def did_you_mean(word: str, known: list[str]) -> str:
    """' (did you mean X?)' when something known is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def some(names: list[str], most: int = 8) -> str:
    """'a, b and 12 more': names for a message, which stays a line."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def plural(count: float | None, one: str, many: str = "") -> str:
    """The word for so many: 'run' for 1, else 'runs', or `many` where an s is not enough."""
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str = "") -> str:
    """'1 run', '1,234 runs'."""
    return f"{count:,} {plural(count, one, many)}"


def now() -> str:
    """The time for a record, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def lock(path: Path) -> int | None:
    """A descriptor that holds the lock until it is closed or the process ends; None if taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    if _take(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks; a run on it is better than none
        return True
    return True
