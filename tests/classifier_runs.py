"""A tiny classifier run that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

# 48 images to train on in batches of 8: an epoch is 6 steps.
TINY_CLASSIFIER = ["--config", "digits_cnn3_msn", "--model.width", "2", "--data.size", "8"]
TINY_CLASSIFIER += ["--data.batch_size", "8", "--data.limit", "64", "--data.validation", "16"]
TINY_CLASSIFIER += ["--data.test_limit", "150", "--threads", "1", "--checkpoint.every", "0"]
TINY_CLASSIFIER += ["--dynamics.every", "0", "--records.every", "4"]

Fit = Callable[..., Path]


def fitter(run: Callable[..., int]) -> Fit:
    """`fit("name", options...)` trains it and returns the run's folder."""

    def fit(name: str, *options: str) -> Path:
        assert run("fit", *TINY_CLASSIFIER, "--run", name, *options) == 0
        return Path("checkpoints") / name

    return fit
