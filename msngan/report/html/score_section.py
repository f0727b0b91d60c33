"""A run's scores, protocol by protocol: the leaderboard's table and a curve for each metric."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace

from msngan.leaderboard.board import Board, make_board
from msngan.leaderboard.ranking import Block, labels, series
from msngan.report.html.chart import Chart, Mark, Series
from msngan.report.html.document import Part, Section, short
from msngan.report.html.records import Records
from msngan.report.tables.leaderboard_tables import LEGEND, block_table, legend, pooled_table
from msngan.report.tables.table import Table

MOST_PROTOCOLS = 8
MOST_LINES = 10  # of a chart of several runs


def score_parts(records: Records, brief: bool = False) -> list[Part]:
    """A section for each protocol; brief: with the curve of the ranking metric only."""
    if not records.scores:
        command = f"msngan evaluate {shlex.quote(records.name)}{records.root_option}"
        return [f"There are no scores yet; `{command}` computes them."]
    board = make_board(records.scores, {})
    made: list[Part] = [_section(each, board, brief) for each in board.blocks[:MOST_PROTOCOLS]]
    if (more := len(board.blocks) - MOST_PROTOCOLS) > 0:
        made.append(f"{more} more protocols: see msngan leaderboard.")
    return [*made, LEGEND[0]]


def score_headline(records: Records) -> str:
    """The last score of the first protocol in a few words; empty without any."""
    for block in make_board(records.scores, {}).blocks[:1]:
        score = block.rows[0].last.get(block.metric)
        if score is not None and score.mean is not None:
            label, weights = labels([block.metric])[0], block.rows[0].weights
            return f"{label} {short(score.mean)} at step {score.step:,} ({weights})"
    return ""


def curve(block: Block, board: Board, metric: str, title: str) -> Chart:
    """A metric over the steps, a line for each of the first rows; one row's best is marked."""
    lines, marks = [], []
    for row in block.rows[:MOST_LINES]:
        entries = board.entries[block.protocol_id]
        own = [each for each in entries if (each.run, each.weights) == (row.run, row.weights)]
        found = series(own, metric)
        values = [math.nan if each.mean is None else each.mean for each in found.values()]
        lines.append(Series(f"{row.run} ({row.weights})", [*found], values))
        best = row.best.get(metric)
        if best is not None and best.mean is not None:
            text = f"best: {short(best.mean)} at step {best.step:,}"
            marks.append(Mark(best.step, best.mean, text))
    real = block.floors.get(metric)
    levels = [("real data", real.mean)] if real else []
    return Chart(title, lines, marks=marks if len(lines) == 1 else (), levels=levels)


def board_parts(board: Board) -> list[Part]:
    """The rankings of several runs: for each protocol its table, a chart, and the seeds pooled."""
    made: list[Part] = []
    for block in board.blocks:
        table = block_table(block, board)
        chart = curve(block, board, block.metric, block.metric)
        parts: list[Part] = [replace(table, title=""), [chart]]
        if (more := len(block.rows) - len(chart.series)) > 0:
            parts.append(f"The chart leaves out {more} more rows.")
        made.append(Section(table.title, parts))
        if pooled := pooled_table(block, board.pools[block.protocol_id]):
            made.append(pooled)
    return [*made, Table("How to read this", notes=legend(board))] if made else []


def _section(block: Block, board: Board, brief: bool) -> Section:
    table = block_table(block, board)
    metrics = block.metrics[:1] if brief else block.metrics
    drawn = zip(metrics, labels(metrics), strict=True)
    charts = [curve(block, board, metric, label) for metric, label in drawn]
    charts = [each for each in charts if any(len(line.x) > 1 for line in each.series)]
    details = [
        [str(name), value if isinstance(value, str) else json.dumps(value)]
        for name, value in {"protocol_id": block.protocol_id, **block.protocol}.items()
    ]
    protocol = Section("The whole protocol", [Table("", ["field", "value"], details)], folded=True)
    return Section(table.title, [replace(table, title=""), charts, protocol])
