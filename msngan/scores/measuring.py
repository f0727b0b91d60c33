"""The numbers of one run's features, by role, and what of them real images score."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from msngan.scores import core
from msngan.scores.protocol import METRICS

if TYPE_CHECKING:
    from msngan.scores.interface import Features
    from msngan.scores.protocol import Protocol
    from msngan.scores.reference import Reference

ROLES = tuple(role for roles in METRICS.values() for role in roles)
NEIGHBOURS = METRICS["prc"]


def roles_of(metrics: Collection[str]) -> tuple[str, ...]:
    """The roles of names in METRICS, in the order of ROLES."""
    wanted = {role for name in metrics for role in METRICS[name]}
    return tuple(role for role in ROLES if role in wanted)


def measure(
    features: Features, reference: Reference, protocol: Protocol, roles: Collection[str]
) -> dict[str, float]:
    """Each role's number; those of neighbours only where there are more images than neighbours."""
    found: dict[str, float] = {}
    if "frechet" in roles:
        found["frechet"] = reference.frechet(features.pool)
    if "score" in roles:
        found["score"] = core.inception_score(features.logits, protocol.splits)
    if "kernel" in roles:
        found["kernel"] = reference.kernel(features.pool)
    nearest = (protocol.precision_neighbours, protocol.coverage_neighbours)
    wanted = [role for role in NEIGHBOURS if role in roles]
    if wanted and min(len(features), len(reference.features)) > max(nearest):
        near = reference.neighbours(features.pool, nearest)
        found |= {role: near[role] for role in wanted}
    return {role: found[role] for role in ROLES if role in found}
