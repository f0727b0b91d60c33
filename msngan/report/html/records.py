"""A run's records, each read up to a size and checked; what cannot be read is said, not raised."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msngan.runs import safe_read
from msngan.runs.configs import find_config, is_study, top_level
from msngan.runs.folder import NAME, Run, UserError, did_you_mean, some
from msngan.runs.jsonl import Lines, read_thinned
from msngan.runs.safe_read import clean, read_config, read_object
from msngan.runs.score_records import Entry, read_scores

LARGEST_JSON = 4 * 2**20  # bytes of result.json and environment.json
MOST_LINES = 20_000  # of a .jsonl file; a longer one is thinned evenly
MOST_WARNINGS = 20
ANY = ("config.yaml", "metrics.jsonl", "scores.jsonl", "accuracy.jsonl", "environment.json")
STUDY = "study.yaml"

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Records:
    """What a run has left behind, empty where it has not.

    config: resolved. commands: the command lines that trained and scored it, in order. problems:
    sentences about files that are there and cannot be read.
    """

    run: Run
    config: dict[str, Any]
    environment: dict[str, Any]
    commands: list[str]
    result: dict[str, Any]
    metrics: Lines
    accuracy: Lines
    gates: Lines
    scores: list[Entry]
    problems: list[str]

    @property
    def name(self) -> str:
        return str(clean(self.run.name))

    @property
    def task(self) -> str:
        """gan or classifier: as the config has it, else by the records that are there."""
        said = self.config.get("task")
        if said in ("gan", "classifier"):
            return str(said)
        return "classifier" if self.accuracy.records else "gan"

    @property
    def step(self) -> int:
        """The step that the run ended at, else the last that any record tells of."""
        if (ended := whole(self.result.get("step"))) is not None:
            return ended
        last = [*self.metrics.records[-1:], *self.accuracy.records[-1:]]
        found = [whole(record.get("step")) for record in last]
        found += [entry.step for entry in self.scores]
        return max((step for step in found if step is not None), default=0)

    def option(self, name: str) -> Any:  # noqa: ANN401  any YAML value
        """The config's value of a dotted option, None where it has none."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def whole(value: Any) -> int | None:  # noqa: ANN401  any JSON value
    """A whole number from 0, None for anything else."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if good else None


def number(value: Any) -> float:  # noqa: ANN401  any JSON value
    """A finite number, or NaN for anything else."""
    found = safe_read.number(value)
    return math.nan if found is None else float(found)


def read_records(run: Run) -> Records:
    problems: list[str] = []

    def tried(name: str, reader: Callable[[Path], Kind], otherwise: Kind) -> Kind:
        path = run.folder / name
        try:
            return reader(path) if path.exists() else otherwise
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else problem
            problems.append(clean(f"{name} cannot be read: {reason}"))
            return otherwise

    def json_object(name: str) -> dict[str, Any]:
        nothing: dict[str, Any] = {}
        return tried(name, lambda path: read_object(path, LARGEST_JSON), nothing)

    def jsonl(name: str) -> Lines:
        found = tried(name, lambda path: read_thinned(path, MOST_LINES), Lines())
        if found.note:
            problems.append(f"{name}: {found.note}")
        return found

    environment = json_object("environment.json")
    scores, warnings = read_scores([run] if run.scores.is_file() else [])
    problems += warnings[:MOST_WARNINGS]
    return Records(
        run,
        config=tried("config.yaml", read_config, {}),
        environment=clean(environment),
        commands=commands_of(environment),
        result=clean(json_object("result.json")),
        metrics=jsonl("metrics.jsonl"),
        accuracy=jsonl("accuracy.jsonl"),
        gates=jsonl("gates.jsonl"),
        scores=scores,
        problems=problems,
    )


def commands_of(environment: dict[str, Any]) -> list[str]:
    """Those of an environment.json, whole, as they can be long; an older one has only the last."""
    listed = environment.get("commands")
    found = listed if isinstance(listed, list) else [environment]
    texts = [each.get("command") for each in found if isinstance(each, dict)]
    return [text for text in texts if isinstance(text, str) and text]


def find(target: str, root: Path) -> tuple[Run, bool]:
    """The run or study that `target` names, by its name or its folder; whether it is a study.

    A study also by its YAML file, as `msngan study` takes it.
    """
    run, folder, plan = Run(target, root), Path(target), _study_file(target)
    if plan is not None and not run.folder.is_dir():
        own = plan.name == STUDY  # the copy in the study's folder
        run = Run(plan.parent.name, plan.parents[2]) if own else Run(plan.stem, root)
        if not run.folder.is_dir():
            raise UserError(
                f"study {run.name!r} has not begun in {root / 'checkpoints'}; start it: msngan"
                f" study {target}{run.root_option}"
            )
    elif not (NAME.fullmatch(target) and run.folder.is_dir()) and folder.is_dir():
        run = Run(folder.resolve().name, folder.resolve().parent.parent)
    names = known(root)
    if not run.folder.is_dir():
        near = did_you_mean(target, names)
        there = f"; there are {some(names)}" if names else ""
        raise UserError(f"no run or study {target!r} in {root / 'checkpoints'}{near}{there}")
    has_study = (run.folder / STUDY).is_file()
    if not has_study and not any((run.folder / name).is_file() for name in ANY):
        raise UserError(f"{run.folder} holds no record of a run or a study")
    return run, has_study


def _study_file(target: str) -> Path | None:
    """The whole path of the YAML file that `target` names, if that is a study."""
    if not target.endswith((".yaml", ".yml")):
        return None
    try:
        path = find_config(target).resolve()
    except UserError:
        return None
    return path if is_study(top_level(path)) else None


def known(root: Path) -> list[str]:
    """The names of all runs and studies, in order."""
    paths = [path for name in (STUDY, *ANY) for path in root.glob(f"checkpoints/*/{name}")]
    return sorted({path.parent.name for path in paths})
