"""torchmetrics' Fréchet distance and inception score, on features that are already there.

Its built-in Inception is not used: it resizes otherwise than the official one. float64 features,
which its own would not be, keep its results in float64. Its sums over processes are off: each has
all the features already, and would count them once for every process.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from msngan.runs import rng


class _Given(nn.Identity):
    """A feature extractor for inputs that are features; without num_features, a dummy image."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions


def frechet(pool: Tensor, mean: Tensor, covariance: Tensor, count: int) -> float:
    """Of float64 features (N, d) to a reference of `count` images, by its moments."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(
        feature=_Given(len(mean)), reset_real_features=False, sync_on_compute=False
    )
    metric.real_features_sum = mean * count
    metric.real_features_cov_sum = covariance * (count - 1) + count * torch.outer(mean, mean)
    metric.real_features_num_samples = torch.tensor(count)
    metric.update(pool, real=False)
    return float(metric.compute())


def inception_score(logits: Tensor, splits: int) -> float:
    """Mean over `splits` parts in order; torchmetrics shuffles, so it is given one at a time."""
    from torchmetrics.image.inception import InceptionScore

    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    scores = []
    with rng.untouched(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of buffering, which is wanted; of the sd of one split
        torch.manual_seed(0)  # its shuffle moves the last bits
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            metric = InceptionScore(
                feature=_Given(logits.shape[1]), splits=1, sync_on_compute=False
            )
            metric.update(logits[start:stop])
            scores.append(float(metric.compute()[0]))
    return sum(scores) / splits
