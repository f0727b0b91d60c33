"""The numbers of the figures: as the authors' plotting code makes them, or as the paper says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW = 15  # of the authors' running mean; 50 for SVHN's accuracy
BINS = 20  # of the authors' gradient histogram
BLOCK = 100  # test images in each count of `test_right`
DRIFTS = 1.0  # sd: a layer drifts when its channels' means have moved by more on average


def running_mean(values: Array, window: int = WINDOW) -> Array:
    """Means of `window` consecutive values, n - window + 1 of them; NaN where one is among them.

    Fewer values than the window are returned unchanged.
    """
    if len(values) < window:
        return np.asarray(values, dtype=float)
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def cumulative_accuracy(right: Sequence[int], accuracy: float) -> Array:
    """The share of right answers after each block of one pass over the test set, in [0, 1].

    accuracy: of the whole pass; it tells how many images the last block has.
    """
    answers = np.cumsum(np.asarray(right, dtype=float))
    images = np.arange(1, len(answers) + 1) * float(BLOCK)
    total = round(answers[-1] / accuracy) if accuracy > 0 else 0
    if images[-1] - BLOCK < total <= images[-1]:
        images[-1] = total
    return answers / images


def within_epochs(lines: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
    """The places and cumulative accuracies of the test passes of all epochs, one after the other.

    The pass of epoch e lies between e - 1 and e on the axis, as the authors relabelled it.
    """
    places, values, before = [], [], 0.0
    for line in lines:
        right, epoch = line.get("test_right"), float(line["epoch"])
        if isinstance(right, list) and right:
            values.append(cumulative_accuracy(right, float(line["test_accuracy"])))
            places.append(before + (epoch - before) * np.arange(1, len(right) + 1) / len(right))
        before = epoch
    return np.concatenate([[], *places]), np.concatenate([[], *values])


def selected(validation: Sequence[float | None]) -> int | None:
    """The epoch's index with the best validation accuracy, the first of equals; None without."""
    known = [(-value, index) for index, value in enumerate(validation) if value is not None]
    return min(known)[1] if known else None


def linear_density(edges: Array, counts: Array, bins: int = BINS) -> tuple[Array, Array]:
    """Signed density in `bins` equal bins over the values' own range, from counts by |g|.

    edges: (B+1,) of |g|; counts: (2, B+1), negative and positive, the first of each below edges[0].
    A count is spread evenly over its bin. Returns (bins + 1,) edges and (bins,) densities, all 0
    where there is no count.
    """
    uppers = np.asarray(edges, dtype=float)
    lowers = np.concatenate([[0.0], uppers[:-1]])
    negative, positive = np.asarray(counts, dtype=float)
    low = np.concatenate([-uppers[::-1], lowers])
    high = np.concatenate([-lowers[::-1], uppers])
    mass = np.concatenate([negative[::-1], positive])
    filled = np.flatnonzero(mass)
    if not len(filled):
        return np.linspace(-1, 1, bins + 1), np.zeros(bins)
    new = np.linspace(low[filled[0]], high[filled[-1]], bins + 1)
    points = np.concatenate([low, high[-1:]])
    share = np.interp(new, points, np.concatenate([[0.0], np.cumsum(mass)])) / mass.sum()
    return new, np.diff(share) / np.diff(new)


def by_magnitude(edges: Array, counts: Array) -> Array:
    """The share of the entries in each bin of |g|, per factor of ten; NaN without any count.

    The bins are those of the record, so all runs share them. Counts below edges[0] are in no bin.
    """
    both = np.asarray(counts, dtype=float).sum(axis=0)
    total = both.sum()
    if not total:
        return np.full(len(edges) - 1, np.nan)
    return both[1:] / total / np.diff(np.log10(edges))


@dataclass(frozen=True)
class Curve:
    """A quantity over steps (or epochs): n values; low and high: an interval, or nothing."""

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


def over_runs(curves: Sequence[Curve]) -> Curve:
    """The mean of several runs and one sd of the runs to each side (ddof 1).

    Only where all runs have a finite value, because a mean over the remaining runs would mean
    something else. A single run is returned unchanged.
    """
    if len(curves) == 1:
        return curves[0]
    finite = [{x: y for x, y in zip(c.x, c.y, strict=True) if np.isfinite(y)} for c in curves]
    shared = sorted(set.intersection(*map(set, finite)))
    values = np.array([[each[x] for x in shared] for each in finite]).reshape(len(curves), -1)
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    return Curve(np.array(shared), mean, mean - sd, mean + sd)
