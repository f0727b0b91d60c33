"""Accuracies over seeds: each cell's mean and interval, and differences paired by seed.

A seed fixes the order of the images and the first weights, so two runs of one seed share part of
their luck, and the spread of their difference is smaller than that of two runs drawn apart.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from msngan.leaderboard.seeds import summary
from msngan.study.plan import Study

Json = dict[str, Any]
# Test accuracy after the last epoch; at the epoch with the best validation accuracy; at the epoch
# with the best test accuracy, which is chosen by what it is judged by.
MEASURES = ("last", "best", "best_test")
FAILED = ("diverged", "failed")


def measured(child: Json) -> dict[str, float]:
    """A run's test accuracy under each measure; of equal epochs the first counts."""
    epochs = [each for each in child["epochs"] if each.get("test_accuracy") is not None]
    if child["state"] != "done" or not epochs:
        return {}
    found = {"last": epochs[-1]["test_accuracy"]}
    if all(each.get("validation_accuracy") is not None for each in epochs):
        best = max(epochs, key=lambda each: each["validation_accuracy"])
        found["best"] = best["test_accuracy"]
    found["best_test"] = max(each["test_accuracy"] for each in epochs)
    return found


def cells(study: Study, children: list[Json]) -> list[Json]:
    """One for each row and column: its seeds by how they ended, and a summary of each measure.

    A run that diverged is in no mean, and is counted beside it. plateau: mean change of the test
    accuracy over the last epoch.
    """
    found = []
    for row in study.rows:
        for column in study.columns:
            own = [each for each in children if (each["row"], each["column"]) == (row, column)]
            if not own:
                continue
            cell: Json = {"row": row, "column": column, "seeds": len(own)}
            for word in ("done", "collapsed", *FAILED):
                cell[word] = [each["seed"] for each in own if each["state"] == word]
            values = [each for each in map(measured, own) if each]
            for measure in MEASURES:
                cell[measure] = _summary([each[measure] for each in values if measure in each])
            cell["plateau"] = _plateau([each for each in own if each["state"] == "done"])
            cell["steps_per_second"] = _mean([each["steps_per_second"] for each in own])
            found.append(cell)
    return found


def comparisons(study: Study, children: list[Json]) -> list[Json]:
    """A - B of each pair in each column, over the seeds that both have, for the fair measures."""
    found = []
    by_place = {(each["row"], each["column"], each["seed"]): each for each in children}
    for a, b in study.pairs:
        for column in study.columns:
            for measure in MEASURES[:2]:
                differences, missing = {}, []
                for seed in study.seeds:
                    sides = [by_place.get((row, column, seed)) for row in (a, b)]
                    one, other = (measured(each).get(measure) if each else None for each in sides)
                    if one is None or other is None:
                        missing.append(seed)
                    else:
                        differences[seed] = one - other
                difference = _summary(list(differences.values()))
                diverged = {
                    side: [s for s in study.seeds if _diverged(by_place.get((row, column, s)))]
                    for side, row in (("A", a), ("B", b))
                }
                about: Json = {"a": a, "b": b, "column": column, "measure": measure}
                about |= {"seeds": list(differences), "missing": missing, "diverged": diverged}
                words = verdict(difference, diverged)
                found.append({**about, "difference": difference, "verdict": words})
    return found


def verdict(difference: Json | None, diverged: dict[str, list[int]]) -> str:
    """What the interval shows, and which side's runs are missing from it because they diverged.

    Pairs are of seeds that both sides trained with: a side that loses its bad runs looks better.
    """
    if difference is None:
        shown = "no pair"
    elif difference["low"] is None:
        shown = "one pair: no interval"
    elif difference["low"] <= 0 <= difference["high"]:
        shown = "no difference shown"
    else:
        shown = "A better" if difference["mean"] > 0 else "B better"
    lost = [f"{side} diverged {_times(len(seeds))}" for side, seeds in diverged.items() if seeds]
    return ", but ".join([shown, " and ".join(lost)]) if lost else shown


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _diverged(child: Json | None) -> bool:
    return child is not None and child["state"] == "diverged"


def _summary(values: list[float]) -> Json | None:
    return asdict(summary(values)) if values else None


def _plateau(done: list[Json]) -> float | None:
    last = [[epoch.get("test_accuracy") for epoch in each["epochs"][-2:]] for each in done]
    return _mean([two[1] - two[0] for two in last if len(two) == 2 and None not in two])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
