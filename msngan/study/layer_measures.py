"""What the runs of a study measured of their layers: over seeds, paired, and beside the gap.

The claims of arXiv:1907.04003 about layers as numbers: mean drift, sparse gradients and their
variance, singular values, and spectral complexity against the generalisation gap.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from math import inf, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msngan.leaderboard.rank_correlation import correlation
from msngan.leaderboard.seeds import summary
from msngan.runs.folder import Run
from msngan.runs.safe_read import LARGEST_NUMBER, number
from msngan.study.plan import Study
from msngan.training.dynamics import LOSS, Dynamics, read

Json = dict[str, Any]
Place = tuple[str, str]  # row and column
Values = dict[int, dict[str, float]]  # seed: measure: value

# Of each layer, at the first and the last measurement. Drift and turning are from the first.
OF_A_LAYER = ("dead", "stable_rank", "operator_norm", "subspace_link")
LAST_ONLY = (
    "drift",
    "drift_signed",
    "gradient_zero",
    "gradient_small",
    "subspace_left",
    "subspace_right",
)
GAP = {  # gap: what is subtracted from what, of the run's last line of accuracies
    "accuracy": ("train_accuracy", "test_accuracy"),
    "loss": ("test_loss", "train_loss"),
}


def layer_measures(study: Study, children: list[Json], root: Path) -> Json | None:
    """Of the finished runs that have dynamics, None without any; children: see `collect`.

    `results`: of each row, column and network its `seeds`; `first` and `last`, of these
    measurements their `steps` and, by measure, `mean`, `sd` (n - 1) and `values`, in order of the
    seeds, null where one is not finite; and the same of each of its `layers`. `comparisons`: A - B
    of each pair, column, network and measure at `last`, over the seeds that both have, with a 95 %
    interval. `gap`: of classifiers, see `_gap`. `remarks`: which files cannot be read, or are of
    other layers than the arm's first. Numbers beyond 1e100 count as not finite.

    The measures of a network: of its layers at one measurement, drift_largest and drift_mean,
    drift_signed_largest (by size) and drift_signed_mean, moved_down (the share whose channels'
    means fell on average), gradient_zero, gradient_small, dead, stable_rank, subspace_left,
    subspace_right and subspace_link (means), log10_gradient_sd (the mean of log10 of the sd of a
    gradient's entries), gradient_sd_span (the mean of log10 of the largest over the smallest sd of
    all measurements; both without sds of 0), operator_norm (the largest); log10_complexity, of the
    spectral complexity; loss_range, gradient_change and beta_smoothness; and the largest of all
    measurements (of drift, of all layers too): drift_peak, loss_range_peak and so on.
    """
    found: dict[Place, dict[int, Dynamics]] = {}
    remarks = []
    for child in children:
        path = Run(child["run"], root).dynamics
        if child["state"] != "done" or not path.exists():
            continue
        try:
            record = read(path)
        except ValueError as problem:
            remarks.append(str(problem))
            continue
        if not len(record):
            continue
        own = found.setdefault((child["row"], child["column"]), {})
        if own and _frame(record) != _frame(next(iter(own.values()))):
            remarks.append(
                f"{path} is of other layers than the first run of its arm, and is left out; train"
                " the run again to have it measured"
            )
        else:
            own[child["seed"]] = record
    if not found:
        return None
    arms = {place: found[place] for place in product(study.rows, study.columns) if place in found}
    results = [
        _over_seeds(place, network, records)
        for place, records in arms.items()
        for network in _networks(records)
    ]
    comparisons = [
        difference
        for (a, b), column in product(study.pairs, study.columns)
        for network in _networks(arms.get((a, column), {}))
        for difference in _differences(
            {"of": [a, b], "column": column, "network": network},
            *(_at_the_end(arms.get((row, column), {}), network) for row in (a, b)),
        )
    ]
    made = {"results": results, "comparisons": comparisons, "gap": _gap(study, children, arms)}
    return {**made, "remarks": remarks}


def _frame(record: Dynamics) -> tuple[object, ...]:
    """What the records of an arm have in common."""
    return record.networks, record.layers, record.shapes


def _networks(records: dict[int, Dynamics]) -> tuple[str, ...]:
    return next(iter(records.values())).networks if records else ()


def _own(record: Dynamics, network: str) -> list[int]:
    """The places of a network's layers."""
    return [i for i, name in enumerate(record.layers) if name.startswith(f"{network}.")]


def _of_network(record: Dynamics, network: str, at: int) -> dict[str, float]:
    """Its measures at a measurement, of which 0 is the first; without what is not finite."""
    own, found = _own(record, network), {}

    def finite(name: str, rows: int | slice = at) -> NDArray[np.float64]:
        return _usable(getattr(record, name)[rows, own])

    turned = ("subspace_left", "subspace_right") if at else ()
    if at and len(drift := finite("drift")):
        found["drift_peak"] = finite("drift", slice(None)).max()
        found |= {"drift_largest": drift.max(), "drift_mean": drift.mean()}
    if at and len(signed := finite("drift_signed")):
        found["drift_signed_largest"] = signed[np.abs(signed).argmax()]
        found["drift_signed_mean"] = signed.mean()
        found["moved_down"] = (signed < 0).mean()
    means = ("gradient_zero", "gradient_small", "dead", "stable_rank", "subspace_link", *turned)
    for name in means:
        if len(values := finite(name)):
            found[name] = values.mean()
    logs = _log10(record.gradient_sd[:, own])
    if len(now := logs[at][np.isfinite(logs[at])]):
        found["log10_gradient_sd"] = now.mean()
    if at and own and np.isfinite(logs).any(axis=0).all():
        found["gradient_sd_span"] = (np.nanmax(logs, axis=0) - np.nanmin(logs, axis=0)).mean()
    if len(norms := finite("operator_norm")):
        found["operator_norm"] = norms.max()
    place = record.networks.index(network)
    complexity = float(record.spectral_complexity[at, place])
    if 0 < complexity < inf:
        found["log10_complexity"] = log10(complexity)
    for name in LOSS:
        course = getattr(record, name)[:, place]
        found[name] = course[at]
        if at:
            found[f"{name}_peak"] = _usable(course).max(initial=-inf)
    return _numbers(found)


def _of_layer(record: Dynamics, layer: int, at: int) -> dict[str, float]:
    names = (*LAST_ONLY, *OF_A_LAYER) if at else OF_A_LAYER
    return _numbers({name: getattr(record, name)[at, layer] for name in names})


def _log10(values: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where a value is not above 0 and finite."""
    wide = np.asarray(values, np.float64)
    return np.log10(np.where((wide > 0) & (wide <= LARGEST_NUMBER), wide, np.nan))


def _usable(values: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(values, np.float64)
    return wide[np.abs(wide) <= LARGEST_NUMBER]


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    values = {name: float(value) for name, value in found.items()}
    return {name: value for name, value in values.items() if number(value) is not None}


def _ends(record: Dynamics) -> dict[str, int]:
    return {"first": 0, "last": len(record) - 1}


def _over_seeds(place: Place, network: str, records: dict[int, Dynamics]) -> Json:
    every = list(records.values())
    found: Json = {"row": place[0], "column": place[1], "network": network, "seeds": [*records]}
    for end in ("first", "last"):
        found[end] = {
            "steps": [int(each.step[_ends(each)[end]]) for each in every],
            **_summed([_of_network(each, network, _ends(each)[end]) for each in every]),
        }
    found["layers"] = [
        {
            "name": every[0].layers[layer],
            "shape": list(every[0].shapes[layer]),
            **{
                end: _summed([_of_layer(each, layer, _ends(each)[end]) for each in every])
                for end in ("first", "last")
            },
        }
        for layer in _own(every[0], network)
    ]
    return found


def _summed(values: list[dict[str, float]]) -> Json:
    """Of each measure: mean, sd and values."""
    found = {}
    for name in dict.fromkeys(name for each in values for name in each):
        made = summary([each[name] for each in values if name in each])
        kept = [each.get(name) for each in values]
        found[name] = {"mean": made.mean, "sd": made.sd, "values": kept}
    return found


def _at_the_end(records: dict[int, Dynamics], network: str) -> Values:
    return {
        seed: _of_network(record, network, len(record) - 1)
        for seed, record in records.items()
        if network in record.networks
    }


def _differences(about: Json, one: Values, other: Values) -> list[Json]:
    """Of each measure, over the seeds that have it on both sides."""
    found = []
    for name in dict.fromkeys(name for each in one.values() for name in each):
        values = {
            seed: one[seed][name] - other[seed][name]
            for seed in one
            if name in one[seed] and name in other.get(seed, {})
        }
        if values:
            made = asdict(summary([*values.values()]))
            found.append({**about, "measure": name, "differences": [*values.values()], **made})
    return found


# The generalisation gap


def _gap(study: Study, children: list[Json], arms: dict[Place, dict[int, Dynamics]]) -> Json | None:
    """Of runs with dynamics and accuracies; None of GANs, which have no accuracy.

    The gap of the accuracy is that of the training images minus that of the test images, the gap of
    the loss the reverse. In eval mode a run measures the test images only, so the training images'
    are those of the last epoch's batches, as they were seen in training: `training` says so. With
    label smoothing the two losses are not the same function.

    `correlations`: Spearman's rank correlation over all runs of the spectral complexity with each
    gap, and its 95 % interval, by bootstrap over arms: runs of one arm are alike.
    """
    gaps: dict[Place, Values] = {place: {} for place in arms}
    for child in children:
        place, seed = (child["row"], child["column"]), child["seed"]
        if seed in arms.get(place, {}) and child.get("epochs"):
            last = child["epochs"][-1]
            found = {name: last[name] for pair in GAP.values() for name in pair if name in last}
            for gap, (more, less) in GAP.items():
                if more in found and less in found:
                    found[f"{gap}_gap"] = found[more] - found[less]
            gaps[place][seed] = found
    gaps = {place: own for place, own in gaps.items() if own}
    if not gaps:
        return None
    return {
        "training": "the last epoch's batches as they were seen, in training mode",
        "results": [
            {"row": row, "column": column, "seeds": [*own], **_summed([*own.values()])}
            for (row, column), own in gaps.items()
        ],
        "comparisons": [
            difference
            for (a, b), column in product(study.pairs, study.columns)
            for difference in _differences(
                {"of": [a, b], "column": column},
                *(gaps.get((row, column), {}) for row in (a, b)),
            )
        ],
        "correlations": [
            ranked for gap in GAP if (ranked := _correlation(f"{gap}_gap", gaps, arms)) is not None
        ],
    }


def _correlation(
    gap: str, gaps: dict[Place, Values], arms: dict[Place, dict[int, Dynamics]]
) -> Json | None:
    """Of the network's spectral complexity with a gap; None where there is none."""
    points = []
    for place, own in gaps.items():
        ends = _at_the_end(arms[place], _networks(arms[place])[0])
        points += [
            (ends[seed]["log10_complexity"], found[gap], place)
            for seed, found in own.items()
            if gap in found and "log10_complexity" in ends[seed]
        ]
    if not points:
        return None
    found = correlation(*zip(*points, strict=True))
    return None if found["spearman"] is None else {"of": ["log10_complexity", gap], **found}
