"""A study's results, read from its runs: what each recorded, means over seeds, paired differences.

A seed fixes the order of the images and the first weights, so two runs of one seed share part of
their luck, and the spread of their difference is smaller than that of two independent runs.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from itertools import product
from typing import Any

from msngan.leaderboard.seeds import Summary, shown, summary
from msngan.runs.configs import find_config, top_level
from msngan.runs.folder import Run, now
from msngan.runs.jsonl import read_lines
from msngan.runs.safe_read import number, object_or_empty
from msngan.study.plan import Child, Study
from msngan.study.study_files import FINISHED, Reader

Json = dict[str, Any]
# Of an environment, what differs between two runs of one version on one machine.
PASSING = ("time", "command", "commands", "config")
# Of an accuracy line; the whole is in the run's own folder.
EPOCH = (
    "step",
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
)
NEEDED = {"step", "epoch", "test_accuracy"}
# Test accuracy after the last epoch; at the epoch with the best validation accuracy; at the epoch
# with the best test accuracy, which is chosen by what it is judged by.
MEASURES = ("last", "best", "best_test")
ENDS = ("done", "collapsed", "diverged", "failed")


def collect(
    study: Study, reader: Reader, command: str, failures: dict[str, str] | None = None
) -> Json:
    """The content of results.json. failures: why the process of an unfinished run ended.

    Where none are given, those of the results before hold for runs that have not moved since.
    """
    environments: list[Json] = []
    if failures is None:
        failures = _failures_before(object_or_empty(reader.place.results).get("children"))
    first = study.children[0]
    task = first.options.get("task") or top_level(find_config(first.config)).get("task", "gan")
    children = [_child(child, reader, failures, environments) for child in study.children]
    found = cells(study, children)
    if task == "classifier":
        found = [cell | accuracies(cell, children) for cell in found]
        compared = {"comparisons": comparisons(study, children)}
    else:  # GANs have no accuracies; their scores are in scores.jsonl
        compared = {}
        for child in children:
            del child["epochs"]
    return {
        "format": 1,
        "study": study.name,
        "task": task,
        "command": command,
        "time": now(),
        "rows": {"axis": study.rows_axis, "labels": study.rows},
        "columns": {"axes": study.columns_axes, "labels": study.columns},
        "seeds": study.seeds,
        "environments": environments,
        "cells": found,
        **compared,
        "children": children,
    }


def _failures_before(children: object) -> dict[str, str]:
    known = children if isinstance(children, list) else []
    return {
        str(each.get("run")): str(each.get("reason"))
        for each in known
        if isinstance(each, dict) and each.get("state") == "failed"
    }


def _child(
    child: Child, reader: Reader, failures: dict[str, str], environments: list[Json]
) -> Json:
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
        "command": child.command(),
        "environment": _environment(run, environments),
        "steps_per_second": _speed(run),
        "epochs": _epochs(run),
    }


def _epochs(run: Run) -> list[Json]:
    """The run's accuracies, without what is not a number, which only a damaged file holds."""
    kept = (
        {name: line[name] for name in EPOCH if number(line.get(name)) is not None}
        for line in read_lines(run.accuracy)
    )
    return [line for line in kept if {*line} >= NEEDED]


def _environment(run: Run, environments: list[Json]) -> int | None:
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
    speeds = [number(line.get("steps_per_second")) for line in read_lines(run.metrics)]
    known = [speed for speed in speeds if speed is not None]
    return statistics.median(known) if known else None


def measured(child: Json | None) -> dict[str, float]:
    """A run's test accuracy under each measure; of equal epochs the first counts."""
    if child is None or child["state"] != "done" or not child["epochs"]:
        return {}
    epochs = child["epochs"]
    found = {"last": epochs[-1]["test_accuracy"]}
    if all(each.get("validation_accuracy") is not None for each in epochs):
        best = max(epochs, key=lambda each: each["validation_accuracy"])
        found["best"] = best["test_accuracy"]
    found["best_test"] = max(each["test_accuracy"] for each in epochs)
    return found


def cells(study: Study, children: list[Json]) -> list[Json]:
    """One for each row and column: its seeds by how they ended, and the mean speed."""
    found = []
    for row, column in product(study.rows, study.columns):
        own = [each for each in children if (each["row"], each["column"]) == (row, column)]
        if not own:
            continue
        cell: Json = {"row": row, "column": column, "seeds": len(own)}
        for word in ENDS:
            cell[word] = [each["seed"] for each in own if each["state"] == word]
        cell["steps_per_second"] = _mean([each["steps_per_second"] for each in own])
        found.append(cell)
    return found


def accuracies(cell: Json, children: list[Json]) -> Json:
    """A summary of each measure over the runs of a cell of classifiers.

    A run that diverged is in no mean, and is counted beside it. plateau: mean change of the test
    accuracy over the last epoch.
    """
    place = cell["row"], cell["column"]
    own = [each for each in children if (each["row"], each["column"]) == place]
    found: Json = {}
    for measure in MEASURES:
        values = [value[measure] for value in map(measured, own) if measure in value]
        found[measure] = asdict(summary(values)) if values else None
    tests = [[epoch["test_accuracy"] for epoch in each["epochs"]] for each in own if measured(each)]
    found["plateau"] = _mean([test[-1] - test[-2] for test in tests if len(test) > 1])
    return found


def comparisons(study: Study, children: list[Json]) -> list[Json]:
    """A - B of each pair in each column, over the seeds that both have, for the fair measures."""
    at = {(each["row"], each["column"], each["seed"]): each for each in children}
    found = []
    for (a, b), column in product(study.pairs, study.columns):
        sides = [[at.get((row, column, seed)) for seed in study.seeds] for row in (a, b)]
        diverged = {
            side: [child["seed"] for child in own if child and child["state"] == "diverged"]
            for side, own in zip("AB", sides, strict=True)
        }
        for measure in MEASURES[:2]:
            values = [[measured(each).get(measure) for each in own] for own in sides]
            differences = {
                seed: one - other
                for seed, one, other in zip(study.seeds, *values, strict=True)
                if one is not None and other is not None
            }
            missing = [seed for seed in study.seeds if seed not in differences]
            difference = summary([*differences.values()]) if differences else None
            about: Json = {"a": a, "b": b, "column": column, "measure": measure}
            about |= {"seeds": list(differences), "missing": missing, "diverged": diverged}
            about["difference"] = None if difference is None else asdict(difference)
            found.append({**about, "verdict": verdict(difference, diverged)})
    return found


def verdict(difference: Summary | None, diverged: dict[str, list[int]]) -> str:
    """What the interval shows, and which side's runs are missing from it because they diverged.

    Pairs are of seeds that both sides trained with: a side that loses its bad runs looks better.
    """
    words = shown(difference, "higher") if difference else "no pair"
    lost = [
        f"{side} diverged {'once' if len(seeds) == 1 else f'{len(seeds)} times'}"
        for side, seeds in diverged.items()
        if seeds
    ]
    return ", but ".join([words, " and ".join(lost)]) if lost else words


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
