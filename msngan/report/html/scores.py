"""A run's scores, protocol by protocol: last and best, beside the floor that real data has."""

from __future__ import annotations

import json

from msngan.leaderboard.ranking import Block, blocks, by_protocol, describe, labels, series
from msngan.report.html.chart import Chart, Mark, Series, grid
from msngan.report.html.head import at
from msngan.report.html.leaderboard_markup import paragraphs
from msngan.report.html.markup import folded, heading, missing, note, numbers, pairs, shown
from msngan.report.html.records import Records
from msngan.runs.score_records import Entry, Score

MOST_PROTOCOLS = 8


def scores_html(records: Records, level: int) -> str:
    if not records.scores:
        return missing(
            "There are no scores",
            f"msngan evaluate {records.name}{at(records.run.root)}",
        )
    entries = by_protocol(records.scores)
    found = blocks(records.scores)
    made = [_block(block, entries[block.protocol_id], level) for block in found[:MOST_PROTOCOLS]]
    if len(found) > MOST_PROTOCOLS:
        made.append(note(f"{len(found) - MOST_PROTOCOLS} more protocols: see msngan leaderboard."))
    return "".join(made)


def _block(block: Block, entries: list[Entry], level: int) -> str:
    protocol = block.protocol
    rows, charts = [], []
    for row in block.rows:
        own = [entry for entry in entries if entry.weights == row.weights]
        for name, label in zip(block.metrics, labels(block.metrics), strict=True):
            last, best = row.last.get(name), row.best.get(name)
            floor = block.floors.get(name)
            rows.append(
                [
                    label,
                    row.weights,
                    *_cells(last),
                    *([shown(best.mean), f"{best.step:,}"] if best else ["–", "–"]),
                    f"{shown(floor.mean)} ({floor.kind})" if floor else "–",
                ]
            )
            by_step = series(own, name)
            if len(by_step) > 1:
                charts.append(_curve(label, row.weights, by_step, best))
    header = ["score", "weights", "last", "sd", "drawings", "step", "best", "best step", "floor"]
    failed = [
        f"{name} failed at step {score.step}: {score.reason}"
        for row in block.rows
        for name, score in row.last.items()
        if score.mean is None
    ]
    details = [
        (str(name), value if isinstance(value, str) else json.dumps(value))
        for name, value in {"protocol_id": block.protocol_id, **protocol}.items()
    ]
    return (
        heading(level, f"{protocol['dataset']}, protocol {protocol['name']} ({block.protocol_id})")
        + paragraphs([*describe(block), *failed])
        + numbers(header, rows, left=2)
        + note(
            "sd is over drawings of samples from the same weights, not over training seeds; the"
            " best was chosen by the score it shows, so it flatters."
        )
        + (grid(charts) if charts else "")
        + folded("The whole protocol", pairs(details, ("field", "value")))
    )


def _cells(score: Score | None) -> list[str]:
    if score is None:
        return ["–", "–", "–", "–"]
    mean = "failed" if score.mean is None else shown(score.mean)
    return [mean, shown(score.sd, 2), str(score.runs), f"{score.step:,}"]


def _curve(label: str, weights: str, by_step: dict[int, Score], best: Score | None) -> Chart:
    nan = float("nan")
    values = [nan if score.mean is None else score.mean for score in by_step.values()]
    marks = []
    if best is not None and best.mean is not None and len(values) > 1:
        marks = [Mark(best.step, best.mean, f"best: {shown(best.mean)} at step {best.step:,}")]
    return Chart(f"{label} ({weights})", [Series(label, [*by_step], values)], marks=marks)


def headline(records: Records) -> str:
    """The last score of the first protocol in a few words; empty without any."""
    for block in blocks(records.scores)[:1]:
        row = block.rows[0]
        score = row.last.get(block.metric)
        if score is not None and score.mean is not None:
            label = labels([block.metric])[0]
            return f"{label} {shown(score.mean)} at step {score.step:,} ({row.weights})"
    return ""


def main_curve(records: Records) -> str:
    """The metric that the first protocol ranks by, over the steps."""
    charts = []
    for block in blocks(records.scores)[:1]:
        row = block.rows[0]
        entries = by_protocol(records.scores)[block.protocol_id]
        own = [entry for entry in entries if entry.weights == row.weights]
        by_step = series(own, block.metric)
        charts.append(_curve(block.metric, row.weights, by_step, row.best.get(block.metric)))
    return grid(charts) if charts else note("no scores")
