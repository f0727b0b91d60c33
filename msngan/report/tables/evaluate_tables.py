"""What `msngan evaluate` prints: scores beside what real images score, and the time taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msngan.leaderboard.ranking import hollow_note, intra_note
from msngan.report.tables.table import Table, plus_minus, print_as

if TYPE_CHECKING:
    from msngan.scores.scorer import Scored

COLUMNS = ["metric", "mean ± sd", "real data", "kind", "n"]
NONE = "–"
VIA = {
    "torchmetrics": "Fréchet distance and score are computed by torchmetrics",
    "torch-fidelity": "torch-fidelity finds the same numbers from the same features within"
    " 1e-6 (relative above 1; its Fréchet distance of fewer samples than features: within its"
    " rounding; kernel distance: against as many real images as samples; no density, coverage)",
}
LEGEND = (
    "sd: standard deviation (ddof 1) over n sets of samples, not over training seeds. real data:"
    " what real images score under this protocol. kind: estimated means that it is only the bias of"
    " so few samples, which is less than what held-out real images would score."
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
    """Print in one of table.FORMATS; JSON has the score lines as they are recorded."""
    print_as(
        style,
        tables=lambda: [*map(_table, outcomes), Table("How to read this", notes=[LEGEND])],
        rows=lambda: _rows(outcomes),
        whole=lambda: [outcome.line for outcome in outcomes],
    )


def _table(outcome: Outcome) -> Table:
    line, scored = outcome.line, outcome.scored
    scores, real = line["scores"], line["floors"]
    where = "" if line["source"] == "samples" else f", step {line['step']} ({line['weights']})"
    failed = {key: each["reason"] for key, each in scores.items() if each["mean"] is None}
    notes = [f"{key} failed: {reason}" for key, reason in failed.items()]
    if scored.note and {key.partition("/")[0] for key in scores} & {"fid", "fd"}:
        notes.append(scored.note)  # the bias of a Fréchet distance of few samples
    notes += intra_note(scores)
    note = hollow_note({key: score["mean"] for key, score in scores.items()})
    notes += [note] if note else []
    notes += [each for each in (scored.warning, VIA.get(line["via"])) if each]
    seconds = scored.result.seconds
    total = sum(seconds.values())
    shares = (f"{name} {100 * each / max(total, 1e-9):.0f} %" for name, each in seconds.items())
    return Table(
        f"{line['run']}{where}",
        COLUMNS,
        [_cells(key, score, real.get(key)) for key, score in scores.items()],
        lines=[scored.protocol.label()],
        notes=[*notes, f"{total:.1f} s: {', '.join(shares)}"],
        right=frozenset({"n"}),
    )


def _cells(key: str, score: dict[str, Any], real: dict[str, Any] | None) -> list[str]:
    given = [plus_minus(real["mean"]), real["kind"]] if real else [NONE, NONE]
    if score["mean"] is None:
        return [key, "failed", *given, "0"]
    value = plus_minus(score["mean"], score["sd"]).replace("±", " ± ")
    value += "" if score["sd"] is not None else f" ± {NONE}"
    return [key, value, *given, str(len(score["values"]))]


def _rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row for each metric of each evaluation."""
    rows = []
    for outcome in outcomes:
        line = outcome.line
        about = {name: line[name] for name in ("run", "config", "step", "weights", "source")}
        for key, score in line["scores"].items():
            floor = line["floors"].get(key, {})
            row = about | {"metric": key, "mean": score["mean"], "sd": score.get("sd")}
            row |= {"n": len(score.get("values", [])), "reason": score.get("reason")}
            row |= {"floor": floor.get("mean"), "floor_kind": floor.get("kind")}
            row |= {"protocol_id": line["protocol_id"], "via": line["via"]}
            row |= {f"protocol_{name}": value for name, value in line["protocol"].items()}
            rows.append(row)
    return rows
