"""What a perfect generator would score: real images scored as if they were generated."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msngan.runs.atomic import write_json
from msngan.runs.safe_read import read_object
from msngan.scores import core
from msngan.scores.measuring import ROLES, measure
from msngan.scores.reference import Reference, in_random_order, pixels_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from msngan.scores.interface import Extractor
    from msngan.scores.protocol import Protocol

Score = dict[str, Any]  # {"mean", "sd", "values"}, and "kind" for a floor; as in a score line
DISTANCES = tuple(role for role in ROLES if role != "score")


def summary(values: Sequence[float]) -> Score:
    """Mean, sd with divisor runs - 1 (null for a single run) and the values themselves."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": list(values)}


def floors(
    reference: Reference,
    extractor: Extractor,
    protocol: Protocol,
    held_out: Tensor | None = None,
    roles: Collection[str] = ROLES,
) -> dict[str, Score]:
    """Key -> floor at the protocol's sizes, with the kind of evidence behind it.

    held_out: uint8 real images (M, C, H, W) that are not among the reference's. Where they suffice
    for a run, they are scored in up to `runs` disjoint parts: "real-vs-real". Otherwise the
    distances are "estimated": the Fréchet distance's bias from the reference's covariance, and 0
    for the kernel distance, which has none; neighbours have no estimate. The score's is always
    "real data": of reference images.
    """
    if held_out is not None and len(held_out) >= protocol.samples:
        found = _measured(reference, extractor, protocol, held_out)
    else:
        bias = core.bias_from_eigenvalues(reference.eigenvalues, protocol.samples, reference.count)
        found = {
            "frechet": {**summary([bias]), "kind": "estimated"},
            "kernel": {**summary([0.0]), "kind": "estimated"},
        }
    found["score"] = _real_score(reference, protocol)
    return {extractor.keys[role]: found[role] for role in roles if role in found}


def _measured(
    reference: Reference, extractor: Extractor, protocol: Protocol, held_out: Tensor
) -> dict[str, Score]:
    samples = protocol.samples
    runs = min(protocol.runs, len(held_out) // samples)
    near = f"{protocol.precision_neighbours}-{protocol.coverage_neighbours}"
    path = reference.cache.with_name(
        f"{reference.cache.stem}-{pixels_sha256(held_out)[:32]}-{runs}x{samples}-{near}.json"
    )
    values = reference.floors.get(path.name) or _read(path, runs)
    if values is None:
        order = in_random_order(len(held_out))
        values = {}
        for run in range(runs):
            part = held_out[order[run * samples : (run + 1) * samples]]
            numbers = measure(extractor.features(part), reference, protocol, DISTANCES)
            for role, number in numbers.items():
                values.setdefault(role, []).append(number)
        with contextlib.suppress(OSError):  # the reference has warned of it
            write_json(path, values)
    reference.floors[path.name] = values
    return {role: {**summary(each), "kind": "real-vs-real"} for role, each in values.items()}


def _read(path: Path, runs: int) -> dict[str, list[float]] | None:
    """Cached values, or None where the file is absent or not what was written."""
    try:
        values = read_object(path)
        known = "frechet" in values and set(values) <= set(DISTANCES)
        whole = known and all(len(each) == runs for each in values.values())
        return values if whole and math.isfinite(sum(map(sum, values.values()))) else None
    except (OSError, ValueError, TypeError):
        return None


def _real_score(reference: Reference, protocol: Protocol) -> Score:
    """The score of kept reference images in parts of the protocol's size, or of all there are.

    Where they do not fill a run, splits are fewer and not smaller: a smaller one scores less.
    """
    logits = reference.logits.double()
    per_split = protocol.samples // protocol.splits
    if len(logits) < protocol.samples:
        splits = max(1, len(logits) // per_split)
        whole = logits[: splits * per_split]
        return {**summary([core.inception_score(whole, splits)]), "kind": "real data"}
    size = protocol.samples
    runs = min(protocol.runs, len(logits) // size)
    values = [
        core.inception_score(part, protocol.splits) for part in logits[: runs * size].split(size)
    ]
    return {**summary(values), "kind": "real data"}
