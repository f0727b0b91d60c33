"""What `msngan evaluate` prints: scores beside what real images score, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msngan.report.tables.table import Table, plus_minus, print_as

if TYPE_CHECKING:
    from msngan.scores.scorer import Scored

COLUMNS = ["metric", "mean ± sd", "floor", "floor is", "n"]
NONE = "–"
VIA = {
    "torchmetrics": ["Fréchet distance and score are torchmetrics'"],
    "torch-fidelity": [
        "torch-fidelity has embedded the images itself and finds the same numbers within 1e-6"
        " (relative above 1; its Fréchet distance of fewer samples than features: within its"
        " rounding; kernel distance: against as many real images as samples; no density, coverage)"
    ],
}
LEGEND = (
    "sd: standard deviation (divisor n - 1) over n runs of fresh samples, not over training seeds."
    " floor: what real images score under this protocol; estimated: the bias of so few samples"
    " alone, below what real images that were held out would score."
)


@dataclass(frozen=True)
class Outcome:
    """One evaluation: its score line, and what it was computed from."""

    line: dict[str, Any]
    scored: Scored

    @property
    def failed(self) -> bool:
        return any(score["mean"] is None for score in self.line["scores"].values())


def show(style: str, outcomes: Sequence[Outcome]) -> None:
    """In one of tables.FORMATS; JSON has the score lines as they are recorded."""
    print_as(
        style,
        tables=lambda: _tables(outcomes),
        rows=lambda: _rows(outcomes),
        whole=lambda: [outcome.line for outcome in outcomes],
    )


def _tables(outcomes: Sequence[Outcome]) -> Iterable[Table]:
    for outcome in outcomes:
        yield _table(outcome)
    yield Table("How to read this", notes=[LEGEND])


def _table(outcome: Outcome) -> Table:
    line = outcome.line
    scores, floors = line["scores"], line["floors"]
    where = "" if line["source"] == "samples" else f", step {line['step']} ({line['weights']})"
    return Table(
        f"{line['run']}{where}",
        COLUMNS,
        [_cells(key, score, floors.get(key)) for key, score in scores.items()],
        lines=[outcome.scored.protocol.label()],
        notes=[
            *(f"{key} failed: {x['reason']}" for key, x in scores.items() if x["mean"] is None),
            *_note(outcome),
            *VIA.get(line["via"], []),
            _time(outcome),
        ],
        right=frozenset({"n"}),
    )


def _cells(key: str, score: dict[str, Any], floor: dict[str, Any] | None) -> list[str]:
    real = [plus_minus(floor["mean"]), floor["kind"]] if floor else [NONE, NONE]
    if score["mean"] is None:
        return [key, "failed", *real, "0"]
    spread = f" ± {NONE}" if score["sd"] is None else ""
    return [
        key,
        plus_minus(score["mean"], score["sd"]).replace("±", " ± ") + spread,
        *real,
        str(len(score["values"])),
    ]


def _note(outcome: Outcome) -> list[str]:
    """The bias of a Fréchet distance of few samples, where there is one among the scores."""
    families = {key.partition("/")[0] for key in outcome.line["scores"]}
    note = outcome.scored.note
    return [note] if note and families & {"fid", "fd"} else []


def _time(outcome: Outcome) -> str:
    seconds = outcome.scored.result.seconds
    whole = sum(seconds.values())
    shares = (f"{name} {100 * each / max(whole, 1e-9):.0f} %" for name, each in seconds.items())
    return f"{whole:.1f} s: {', '.join(shares)}"


def _rows(outcomes: Sequence[Outcome]) -> tuple[list[str], list[dict[str, Any]]]:
    """A row for each metric of each evaluation."""
    rows = []
    for outcome in outcomes:
        line = outcome.line
        about = {name: line[name] for name in ("run", "config", "step", "weights", "source")}
        for key, score in line["scores"].items():
            floor = line["floors"].get(key, {})
            rows.append(
                about
                | {"metric": key, "mean": score["mean"], "sd": score.get("sd")}
                | {"n": len(score.get("values", [])), "reason": score.get("reason")}
                | {"floor": floor.get("mean"), "floor_kind": floor.get("kind")}
                | {"protocol_id": line["protocol_id"], "via": line["via"]}
                | {f"protocol_{name}": value for name, value in line["protocol"].items()}
            )
    return list(rows[0]), rows
