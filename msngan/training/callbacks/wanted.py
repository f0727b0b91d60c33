"""Which scores a run wants, and which of them decides its best checkpoint."""

from __future__ import annotations

from msngan.runs.folder import UserError
from msngan.scores.interface import KEYS
from msngan.scores.protocol import METRICS, Protocol

ROLES = {usual: role for role, (usual, _) in KEYS.items()}  # by the names that everyone knows


def role_of(best: str, metrics: tuple[str, ...]) -> str:
    """The role, as in Extractor.keys, of the score in --scores.best; UserError if it is not had."""
    role = ROLES[best]
    metric = next(name for name, roles in METRICS.items() if role in roles)
    if metric not in metrics:
        raise UserError(f"--scores.best {best} needs {metric} in --scores.metrics")
    return role


def check_sizes(role: str, protocol: Protocol) -> None:
    """UserError for fewer images than the neighbours that this role looks for."""
    count = min(protocol.samples, protocol.reference_images)
    nearest = max(protocol.precision_neighbours, protocol.coverage_neighbours)
    if role in METRICS["prc"] and count <= nearest:
        raise UserError(
            f"--scores.best {role} needs more than {nearest} samples and real images, not {count};"
            " raise --scores.samples or use --scores.best fid"
        )
