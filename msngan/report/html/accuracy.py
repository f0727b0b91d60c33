"""A classifier's accuracy epoch by epoch, and which number of it may be quoted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from msngan.report.html.chart import Chart, Mark, Series, grid
from msngan.report.html.leaderboard_markup import paragraphs
from msngan.report.html.markup import folded, missing, note, numbers, percent, shown
from msngan.report.html.records import Records, whole
from msngan.report.html.thin import number

PARTS = ("train", "validation", "test")
MOST_ROWS = 200
Z = 1.959964  # of a normal distribution's two-sided 95 %


@dataclass(frozen=True)
class Epoch:
    """A line of accuracy.jsonl; accuracies are fractions, NaN where the line has none.

    images: in the test set, by its counts of right answers; None where it has none.
    """

    step: int
    epoch: float
    accuracy: dict[str, float]
    loss: dict[str, float]
    learning_rate: float
    seconds: float
    images: int | None


def epochs(records: list[dict[str, Any]]) -> list[Epoch]:
    """The sound lines in order of step; of two at one step, the later."""
    made = {}
    for record in records:
        step, epoch = whole(record.get("step")), number(record.get("epoch"))
        if step is not None and math.isfinite(epoch):
            accuracy = {part: _fraction(record.get(f"{part}_accuracy")) for part in PARTS}
            made[step] = Epoch(
                step,
                epoch,
                accuracy,
                {part: number(record.get(f"{part}_loss")) for part in PARTS},
                number(record.get("learning_rate")),
                number(record.get("seconds")),
                _images(record.get("test_right"), accuracy["test"]),
            )
    return [made[step] for step in sorted(made)]


def best(found: list[Epoch]) -> Epoch | None:
    """The first epoch with the highest validation accuracy; None without a validation part."""
    known = [each for each in found if not math.isnan(each.accuracy["validation"])]
    return max(known, key=lambda each: each.accuracy["validation"], default=None)


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (1927): the noise of a test set of this size."""
    centre = (accuracy + Z**2 / (2 * images)) / (1 + Z**2 / images)
    half = Z * math.sqrt(accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2))
    half /= 1 + Z**2 / images
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_html(records: Records) -> str:
    found = epochs(records.accuracy.records) if records.accuracy is not None else []
    if not found:
        return missing("There is no accuracy.jsonl with a line yet; one is written each epoch")
    x = [each.epoch for each in found]
    chosen = best(found)
    marks = []
    if chosen is not None:
        value = chosen.accuracy["validation"]
        marks = [Mark(chosen.epoch, value, f"best by validation: epoch {chosen.epoch:.4g}")]
    charts = [
        Chart("Accuracy", _lines(x, found, "accuracy"), "fraction", "epoch", False, marks),
        Chart("Loss", _lines(x, found, "loss"), "cross-entropy", "epoch"),
    ]
    return (
        quoted(found, chosen, records.result.get("status") == "done")
        + grid(charts)
        + _summary(found, chosen)
        + _all(found)
    )


def _lines(x: list[float], found: list[Epoch], kind: str) -> list[Series]:
    lines = [Series(part, x, [getattr(each, kind)[part] for each in found]) for part in PARTS]
    return [line for line in lines if line.sound]


def quoted(found: list[Epoch], chosen: Epoch | None, done: bool) -> str:
    """The number that may be quoted of a run that is done, and by what it was chosen."""
    each = chosen or found[-1]
    test = each.accuracy["test"]
    if math.isnan(test):
        return note("No test accuracy is recorded, so there is no number to quote.")
    by = "chosen by the validation images" if chosen else "the last, as no image is held out"
    first = "May be quoted" if done else "So far, and not to be quoted before the run is done"
    text = f"{first}: test accuracy {percent(test)} at epoch {each.epoch:.4g}, {by}"
    if each.images:
        low, high = interval(test, each.images)
        text += f" (95 % interval over {each.images:,} test images: {percent(low)} to"
        text += f" {percent(high)}; it says nothing about another seed)"
    return paragraphs([f"{text}. The test set has chosen nothing."])


def _summary(found: list[Epoch], chosen: Epoch | None) -> str:
    named = [("best by validation", chosen)] if chosen else []
    named.append(("last", found[-1]))
    top = max(
        found,
        key=lambda each: (each.accuracy["test"] == each.accuracy["test"], each.accuracy["test"]),
    )
    named.append(("highest on test (not to be quoted)", top))
    rows = [
        [name, f"{each.epoch:.4g}", f"{each.step:,}", *(percent(each.accuracy[p]) for p in PARTS)]
        for name, each in named
        if each is not None
    ]
    return numbers(["", "epoch", "step", *PARTS], rows)


def _all(found: list[Epoch]) -> str:
    kept = found[:: -(-len(found) // MOST_ROWS)]
    rows = [
        [
            f"{each.epoch:.4g}",
            f"{each.step:,}",
            *(percent(each.accuracy[part]) for part in PARTS),
            *(shown(each.loss[part]) for part in PARTS),
            shown(each.learning_rate),
            shown(each.seconds, 3),
        ]
        for each in kept
    ]
    header = ["epoch", "step", *PARTS, *(f"{part} loss" for part in PARTS)]
    return folded(
        f"Every epoch ({len(found)})"
        if len(kept) == len(found)
        else f"{len(kept)} epochs of {len(found)}",
        numbers([*header, "learning rate", "seconds"], rows, left=0),
    )


def _fraction(value: Any) -> float:  # noqa: ANN401  any JSON value
    found = number(value)
    return found if 0 <= found <= 1 else math.nan


def _images(right: Any, accuracy: float) -> int | None:  # noqa: ANN401  any JSON value
    """How many test images there are, of which these counts in each hundred were right."""
    counts = right if isinstance(right, list) else []
    if not counts or any((whole(count) or 0) > 100 or whole(count) is None for count in counts):
        return None
    total = sum(counts)
    images = round(total / accuracy) if accuracy > 1e-9 else 100 * len(counts)
    return images if 100 * (len(counts) - 1) < images <= 100 * len(counts) else None
