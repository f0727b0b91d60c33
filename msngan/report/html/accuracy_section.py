"""A classifier's accuracy epoch by epoch, and which number of it to quote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from msngan.report.html.chart import Chart, Mark, Series
from msngan.report.html.document import Part, numbers, percent
from msngan.report.html.records import Records, number, whole
from msngan.report.tables.table import Table

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


def epochs(records: list[dict[str, Any]]) -> list[Epoch]:
    """The valid lines in order of step; of two at one step, the later."""
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


def accuracy_parts(records: Records) -> list[Part]:
    found = epochs(records.accuracy.records) if records.accuracy is not None else []
    if not found:
        return ["There is no accuracy.jsonl with a line yet; one is written each epoch."]
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
    done = records.result.get("status") == "done"
    return [quoted(found, chosen, done), charts, _summary(found, chosen)]


def accuracy_headline(records: Records) -> str:
    """Test accuracy at the best epoch by validation, else at the last; empty without any."""
    found = epochs(records.accuracy.records) if records.accuracy is not None else []
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
        text += f" (95 % interval over {each.images:,} test images: {percent(low)} to"
        text += f" {percent(high)}; other seeds may differ by more)"
    return f"{text}. The test set was not used to choose anything."


def _summary(found: list[Epoch], chosen: Epoch | None) -> Table:
    tested = [each for each in found if not math.isnan(each.accuracy["test"])]
    top = max(tested, key=lambda each: each.accuracy["test"], default=None)
    named = {"best by validation": chosen, "last": found[-1]}
    named["highest on test (do not quote)"] = top
    rows = [
        [name, f"{each.epoch:.4g}", f"{each.step:,}", *(percent(each.accuracy[p]) for p in PARTS)]
        for name, each in named.items()
        if each is not None
    ]
    return numbers(["", "epoch", "step", *PARTS], rows)


def _fraction(value: Any) -> float:  # noqa: ANN401  any JSON value
    found = number(value)
    return found if 0 <= found <= 1 else math.nan


def _images(right: Any, accuracy: float) -> int | None:  # noqa: ANN401  any JSON value
    """The number of test images, from how many of each hundred were right."""
    counts = right if isinstance(right, list) else []
    if not counts or any((whole(count) or 0) > 100 or whole(count) is None for count in counts):
        return None
    total = sum(counts)
    images = round(total / accuracy) if accuracy > 1e-9 else 100 * len(counts)
    return images if 100 * (len(counts) - 1) < images <= 100 * len(counts) else None
