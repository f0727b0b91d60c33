"""The scores of a study of GANs by step: means over seeds, and differences paired by seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import product
from typing import Any

from msngan.leaderboard.ranking import column as place_of
from msngan.leaderboard.seeds import summary
from msngan.runs.score_records import Entry, family
from msngan.study.plan import Study

Json = dict[str, Any]
Course = dict[int, dict[int, dict[str, float]]]  # seed: step: metric: mean


def scores_by_step(study: Study, entries: list[Entry]) -> Json | None:
    """The course of each arm, of the lines that `fit` has written; None without any.

    Under the protocol, and of the weights (raw, or ema), that most of the lines have. `results`: of
    each row and column its `seeds`, and `scores`, by step and metric: `mean`, `sd` (n - 1) and
    `values`, in order of the seeds. `comparisons`: A - B of each pair, column, step and metric,
    over the seeds that both have, with a 95 % interval. A score that failed is left out.
    """
    kinds = Counter((entry.protocol_id, entry.weights) for entry in entries)
    if not kinds:
        return None
    ((kind, _),) = kinds.most_common(1)
    own = [entry for entry in entries if (entry.protocol_id, entry.weights) == kind]
    runs = {(child.row, child.column, child.seed): child.name for child in study.children}
    found: dict[str, dict[int, dict[str, float]]] = {}  # run: step: metric: mean
    for entry in own:
        means = {
            family(name): score.mean
            for name, score in entry.scores.items()
            if score.mean is not None and score.source in (None, "fit")
        }
        if means:
            found.setdefault(entry.run, {})[entry.step] = means
    courses = {
        place: {
            seed: found[run]
            for seed in study.seeds
            if (run := runs.get((*place, seed))) is not None and run in found
        }
        for place in product(study.rows, study.columns)
    }
    return {
        "protocol_id": kind[0],
        "protocol": own[0].protocol,
        "weights": kind[1],
        "real_data": {family(name): asdict(each) for name, each in own[-1].floors.items()},
        "results": [
            {"row": row, "column": column, "seeds": [*course], "scores": _over_seeds(course)}
            for (row, column), course in courses.items()
            if course
        ],
        "comparisons": [
            difference
            for (a, b), column in product(study.pairs, study.columns)
            for difference in _differences(a, b, column, courses[a, column], courses[b, column])
        ],
    }


def _steps(course: Course) -> list[int]:
    return sorted({step for steps in course.values() for step in steps})


def _metrics(course: Course, step: int) -> list[str]:
    named = {name for steps in course.values() for name in steps.get(step, {})}
    return sorted(named, key=place_of)


def _over_seeds(course: Course) -> Json:
    found: Json = {}
    for step in _steps(course):
        found[str(step)] = {}
        for metric in _metrics(course, step):
            values = [
                steps[step][metric] for steps in course.values() if metric in steps.get(step, {})
            ]
            made = summary(values)
            found[str(step)][metric] = {"mean": made.mean, "sd": made.sd, "values": values}
    return found


def _differences(a: str, b: str, column: str, one: Course, other: Course) -> list[Json]:
    found = []
    for step in _steps(one):
        for metric in _metrics(one, step):
            values = [
                one[seed][step][metric] - other[seed][step][metric]
                for seed in one
                if metric in one[seed].get(step, {}) and metric in other.get(seed, {}).get(step, {})
            ]
            if values:
                made = summary(values)
                about: Json = {"of": [a, b], "column": column, "step": step, "metric": metric}
                about |= {"differences": values, "n": made.n, "mean": made.mean}
                found.append(about | {"low": made.low, "high": made.high})
    return found
