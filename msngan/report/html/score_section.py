"""A run's scores, protocol by protocol: last and best, beside what real data scores."""

from __future__ import annotations

import json
import math
import shlex

from msngan.leaderboard.ranking import Block, Row, blocks, by_protocol, describe, labels, series
from msngan.report.html.chart import Chart, Mark, Series
from msngan.report.html.document import Part, Section, numbers, short
from msngan.report.html.records import Records
from msngan.report.tables.leaderboard_tables import block_title
from msngan.report.tables.table import Table
from msngan.runs.score_records import Entry, Score

MOST_PROTOCOLS = 8
HEADER = ["score", "weights", "last", "sd", "samplings", "step", "best", "best step", "real data"]
SPREAD = (
    "sd: over samplings from the same weights, not over training seeds. best: chosen by the score"
    " it shows, so it is optimistic."
)


def score_parts(records: Records, brief: bool = False) -> list[Part]:
    """A section for each protocol; brief: with the curve of the ranking metric only."""
    found = blocks(records.scores)
    if not found:
        command = f"msngan evaluate {shlex.quote(records.name)}{records.root_option}"
        return [f"There are no scores yet; `{command}` computes them."]
    entries = by_protocol(records.scores)
    more = len(found) - MOST_PROTOCOLS
    return [
        *(_section(each, entries[each.protocol_id], brief) for each in found[:MOST_PROTOCOLS]),
        *([f"{more} more protocols: see msngan leaderboard."] if more > 0 else []),
    ]


def score_headline(records: Records) -> str:
    """The last score of the first protocol in a few words; empty without any."""
    for block in blocks(records.scores)[:1]:
        score = block.rows[0].last.get(block.metric)
        if score is not None and score.mean is not None:
            label, weights = labels([block.metric])[0], block.rows[0].weights
            return f"{label} {short(score.mean)} at step {score.step:,} ({weights})"
    return ""


def _section(block: Block, entries: list[Entry], brief: bool) -> Section:
    rows: list[list[str]] = []
    charts: list[Chart] = []
    for row in block.rows:
        for name, label in zip(block.metrics, labels(block.metrics), strict=True):
            rows.append([label, row.weights, *_cells(row, block, name)])
            by_step = series([each for each in entries if each.weights == row.weights], name)
            if len(by_step) > 1 and (name == block.metric or not brief):
                charts.append(_curve(label, row, block, name, by_step))
    failed = [
        f"{name} failed at step {score.step}: {score.reason}"
        for row in block.rows
        for name, score in row.last.items()
        if score.mean is None
    ]
    protocol = {"protocol_id": block.protocol_id, **block.protocol}
    details = [
        [str(name), value if isinstance(value, str) else json.dumps(value)]
        for name, value in protocol.items()
    ]
    whole = Section("The whole protocol", [Table("", ["field", "value"], details)], folded=True)
    table = numbers(HEADER, rows, left=2)
    return Section(block_title(block), [*describe(block), *failed, table, SPREAD, charts, whole])


def _cells(row: Row, block: Block, name: str) -> list[str]:
    last, best, real = row.last.get(name), row.best.get(name), block.floors.get(name)
    cells = ["–"] * 4
    if last is not None:
        mean = "failed" if last.mean is None else short(last.mean)
        cells = [mean, short(last.sd, 2), str(last.runs), f"{last.step:,}"]
    cells += [short(best.mean), f"{best.step:,}"] if best else ["–", "–"]
    return [*cells, f"{short(real.mean)} ({real.kind})" if real else "–"]


def _curve(label: str, row: Row, block: Block, name: str, by_step: dict[int, Score]) -> Chart:
    best, real = row.best.get(name), block.floors.get(name)
    values = [math.nan if each.mean is None else each.mean for each in by_step.values()]
    marks = []
    if best is not None and best.mean is not None:
        marks = [Mark(best.step, best.mean, f"best: {short(best.mean)} at step {best.step:,}")]
    levels = [("real data", real.mean)] if real else []
    title = f"{label} ({row.weights})"
    return Chart(title, [Series(label, [*by_step], values)], marks=marks, levels=levels)
