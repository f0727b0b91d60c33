"""Results of a run: a classifier's accuracy by epoch, a GAN's scores by protocol."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass, replace
from typing import Any

from msngan.leaderboard.board import Board, make_board
from msngan.leaderboard.ranking import Block, labels, series
from msngan.report.html.chart import Chart, Series
from msngan.report.html.document import Part, Section, numbers, percent, short
from msngan.report.html.records import Records, number, whole
from msngan.report.tables.leaderboard_tables import LEGEND, block_table, legend, pooled_table
from msngan.report.tables.table import Table
from msngan.runs.folder import counted
from msngan.runs.jsonl import Lines

PARTS = ("train", "validation", "test")
Z = 1.959964  # of a normal distribution's two-sided 95 %


@dataclass(frozen=True)
class Epoch:
    """A line of accuracy.jsonl; accuracies are fractions, NaN where the line has none.

    images: in the test set, from its counts of right answers; None where it has none.
    """

    step: int
    epoch: float
    accuracy: dict[str, float]
    loss: dict[str, float]
    images: int | None


def epochs(lines: Lines) -> list[Epoch]:
    """The valid lines in order of step; of two at one step, the later."""
    made = {}
    for record in lines.records:
        step, epoch = whole(record.get("step")), number(record.get("epoch"))
        if step is not None and math.isfinite(epoch):
            accuracy = {part: _fraction(record.get(f"{part}_accuracy")) for part in PARTS}
            loss = {part: number(record.get(f"{part}_loss")) for part in PARTS}
            images = _images(record.get("test_right"), accuracy["test"])
            made[step] = Epoch(step, epoch, accuracy, loss, images)
    return [made[step] for step in sorted(made)]


def best(found: list[Epoch], part: str = "validation") -> Epoch | None:
    """The first epoch with the highest accuracy of a part of the data; None without that part."""
    known = [each for each in found if not math.isnan(each.accuracy[part])]
    return max(known, key=lambda each: each.accuracy[part], default=None)


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (1927): the noise of a test set of this size."""
    centre = (accuracy + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z * math.sqrt(accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2))
    half /= 1 + Z**2 / images
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_parts(records: Records) -> list[Part]:
    found = epochs(records.accuracy)
    if not found:
        return ["There is no accuracy.jsonl with a line yet; one is written each epoch."]
    x = [each.epoch for each in found]
    chosen, marks = best(found), []
    if chosen is not None:
        words = f"best by validation: epoch {chosen.epoch:.4g}"
        marks = [(chosen.epoch, chosen.accuracy["validation"], words)]
    shares = _lines(x, found, "accuracy")
    charts = [
        Chart("Accuracy", shares, "fraction", "epoch", log=False, marks=marks),
        Chart("Loss", _lines(x, found, "loss"), "cross-entropy", "epoch"),
    ]
    named = {"best by validation": chosen, "last": found[-1]}
    named["highest on test (do not quote)"] = best(found, "test")
    rows = [
        [name, f"{each.epoch:.4g}", f"{each.step:,}", *(percent(each.accuracy[p]) for p in PARTS)]
        for name, each in named.items()
        if each is not None
    ]
    done = records.result.get("status") == "done"
    summary = numbers(["", "epoch", "step", *PARTS], rows)
    return [quoted(found, chosen, done), charts, summary]


def accuracy_headline(records: Records) -> str:
    """Test accuracy at the best epoch by validation, else at the last; empty without any."""
    found = epochs(records.accuracy)
    if not found:
        return ""
    each = best(found) or found[-1]
    test = percent(each.accuracy["test"])
    return f"test {test} at epoch {each.epoch:.4g} of {found[-1].epoch:.4g}"


def _lines(x: list[float], found: list[Epoch], kind: str) -> list[Series]:
    lines = [Series(part, x, [getattr(each, kind)[part] for each in found]) for part in PARTS]
    return [line for line in lines if line.finite]


def quoted(found: list[Epoch], chosen: Epoch | None, done: bool) -> str:
    """The number that may be quoted once the run is done, and how it was chosen."""
    each = chosen or found[-1]
    test = each.accuracy["test"]
    if math.isnan(test):
        return "No test accuracy is recorded, so there is no number to quote."
    by = "chosen by the validation images" if chosen else "the last, as no images are held out"
    first = "The number to quote" if done else "So far (do not quote it before the run is done)"
    text = f"{first}: test accuracy {percent(test)} at epoch {each.epoch:.4g}, {by}"
    if each.images:
        low, high = interval(test, each.images)
        text += f" (95 % interval over {counted(each.images, 'test image')}: {percent(low)} to"
        text += f" {percent(high)}; other seeds may differ by more)"
    return f"{text}. The test set was not used to choose anything."


def _fraction(value: Any) -> float:  # noqa: ANN401  any JSON value
    found = number(value)
    return found if 0 <= found <= 1 else math.nan


def _images(right: Any, accuracy: float) -> int | None:  # noqa: ANN401  any JSON value
    """The number of test images, from how many of each hundred were right."""
    counts = right if isinstance(right, list) else []
    if not counts or not all(whole(count) is not None and count <= 100 for count in counts):
        return None
    images = round(sum(counts) / accuracy) if accuracy > 1e-9 else 100 * len(counts)
    return images if 100 * (len(counts) - 1) < images <= 100 * len(counts) else None


MOST_LINES = 10  # of a chart of several runs


def score_parts(records: Records, brief: bool = False) -> list[Part]:
    """A section for each protocol; brief: with the curve of the ranking metric only."""
    if not records.scores:
        command = f"msngan evaluate {shlex.quote(records.name)}{records.run.root_option}"
        return [f"There are no scores yet; `{command}` computes them."]
    board = make_board(records.scores, {})
    return [*(_section(each, board, brief) for each in board.blocks), LEGEND[0]]


def score_headline(records: Records) -> str:
    """The last score of the first protocol in a few words; empty without any."""
    for block in make_board(records.scores, {}).blocks[:1]:
        row, (label, *_) = block.rows[0], labels(block.metrics)
        score = row.last.get(block.metric)
        if score is not None and score.mean is not None:
            return f"{label} {short(score.mean)} at step {score.step:,} ({row.weights})"
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
        top = row.best.get(metric)
        if top is not None and top.mean is not None:
            marks.append((top.step, top.mean, f"best: {short(top.mean)} at step {top.step:,}"))
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
            parts.append(f"The chart leaves out {counted(more, 'more row')}.")
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
