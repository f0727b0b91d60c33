"""A study's results, read from its runs: what each recorded, and results.json."""

from __future__ import annotations

import statistics
from typing import Any

from msngan.runs.atomic import write_json
from msngan.runs.configs import find_config, top_level
from msngan.runs.folder import Run, now
from msngan.runs.jsonl import read_lines
from msngan.runs.safe_read import number, object_or_empty
from msngan.study.arguments import command as command_of
from msngan.study.plan import Child, Study
from msngan.study.state import FINISHED, Reader
from msngan.study.study_files import Place
from msngan.study.summaries import cells, comparisons

# Of an environment, what differs between two runs of one version on one machine.
PASSING = ("time", "command", "commands", "config")
# Of an accuracy line; the whole is in the run's own folder.
EPOCH = ("step", "epoch", "train_loss", "train_accuracy", "validation_accuracy", "test_accuracy")
NEEDED = {"step", "epoch", "test_accuracy"}


def collect(
    study: Study, reader: Reader, command: str, failures: dict[str, str] | None = None
) -> dict[str, Any]:
    """The content of results.json. failures: why the process of an unfinished run ended.

    Where none are given, those of the results before hold for runs that have not moved since.
    """
    environments: list[dict[str, Any]] = []
    if failures is None:
        failures = _failures_before(reader.place)
    children = [_child(child, reader, failures, environments) for child in study.children]
    return {
        "format": 1,
        "study": study.name,
        "task": task_of(study.children[0]),
        "command": command,
        "time": now(),
        "rows": {"axis": study.rows_axis, "labels": study.rows},
        "columns": {"axes": study.columns_axes, "labels": study.columns},
        "seeds": study.seeds,
        "environments": environments,
        "cells": cells(study, children),
        "comparisons": comparisons(study, children),
        "children": children,
    }


def save(results: dict[str, Any], place: Place) -> None:
    write_json(place.results, results)


def task_of(child: Child) -> str:
    """What the run trains: by its options, or its base config."""
    return str(child.options.get("task") or top_level(find_config(child.config)).get("task", "gan"))


def _child(
    child: Child, reader: Reader, failures: dict[str, str], environments: list[dict[str, Any]]
) -> dict[str, Any]:
    run = reader.run(child)
    state = reader.look(child)
    failed = child.name in failures and state.word not in (*FINISHED, "running")
    return {
        "run": child.name,
        "row": child.row,
        "column": child.column,
        "seed": child.seed,
        "state": "failed" if failed else state.word,
        "step": state.step,
        "total": state.total,
        "reason": failures[child.name] if failed else state.reason,
        "command": command_of(child),
        "environment": _environment(run, environments),
        "steps_per_second": _speed(run),
        "epochs": _epochs(run),
    }


def _epochs(run: Run) -> list[dict[str, Any]]:
    """The run's lines without what is no finite number, which only a damaged file holds."""
    lines = read_lines(run.accuracy)
    kept = [
        {name: line[name] for name in EPOCH if number(line.get(name)) is not None} for line in lines
    ]
    return [line for line in kept if {*line} >= NEEDED]


def _environment(run: Run, environments: list[dict[str, Any]]) -> int | None:
    """Its place among the different ones so far."""
    found = object_or_empty(run.environment)
    if not found:
        return None
    lasting = {name: value for name, value in found.items() if name not in PASSING}
    if lasting not in environments:
        environments.append(lasting)
    return environments.index(lasting)


def _speed(run: Run) -> float | None:
    """The median of the steps a second that the run recorded."""
    speeds = [line.get("steps_per_second") for line in read_lines(run.metrics)]
    known = [speed for each in speeds if (speed := number(each)) is not None]
    return statistics.median(known) if known else None


def _failures_before(place: Place) -> dict[str, str]:
    children = object_or_empty(place.results).get("children")
    known = (
        [each for each in children if isinstance(each, dict)] if isinstance(children, list) else []
    )
    return {
        str(each.get("run")): str(each.get("reason"))
        for each in known
        if each.get("state") == "failed"
    }


def whole(results: dict[str, Any]) -> bool:
    """Whether every run has been trained to its end."""
    return all(each["state"] in ("done", "collapsed") for each in results["children"])
