"""What a classifier's options must satisfy beyond their types."""

from __future__ import annotations

from typing import Any

from msngan import checks

RATES = ("lr",)  # of the optimizers, in their order
# What a run that diverged may be tried again with.
REMEDY = "a lower --model.lr, another --model.norm, or --trainer.precision 32-true"


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of msngan.classifier.Classifier's arguments that cannot work."""
    for name in ("width", "depth", "steps"):
        checks.at_least(f"--model.{name}", given[name], 1)
    checks.positive("--model.lr", given["lr"])
    for beta in given["betas"]:
        checks.fraction("--model.betas: each", beta)
    checks.not_negative("--model.weight_decay", given["weight_decay"])
    checks.not_negative("--model.slope", given["slope"])
    for name in ("dropout", "label_smoothing"):
        checks.fraction(f"--model.{name}", given[name])
