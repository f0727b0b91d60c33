"""Accuracy of a classifier during training: accuracy.jsonl and the choice of best.ckpt."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.nn import functional as F

from msngan.classifier import Classifier
from msngan.data import LabelledData
from msngan.networks import evaluating
from msngan.networks.finite import diverged
from msngan.runs import distributed
from msngan.runs.jsonl import read_lines
from msngan.runs.options import AtLeastOne, Count, Record
from msngan.training.callbacks.checkpoints import save_best
from msngan.training.callbacks.run_callback import (
    Figures,
    RunCallback,
    data_of,
    last_step,
)

BLOCK = 100  # test images counted in one number of `test_right`


class Accuracy(RunCallback):
    """Writes a line each epoch and at the run's end; best.ckpt is chosen by validation accuracy.

    A line has loss and accuracy on the epoch's training batches as they were seen, and, in eval
    mode, on the validation images and the test set. `test_right` counts right answers in each 100
    test images. The test set is only reported and never chooses anything.

    Args:
        every: epochs between measurements of the accuracy.
        batch_size: images per forward pass when measuring.
    """

    def __init__(self, every: Record[AtLeastOne] = 1, batch_size: Record[Count] = 500) -> None:
        self.every, self.batch_size = every, batch_size
        self.best: dict[str, Any] | None = None  # the line with the best validation accuracy
        self.last: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_until(trainer, self.run.accuracy)
        for line in distributed.decided(lambda: read_lines(self.run.accuracy)):
            if _is_complete(line):
                self._take(line)
        self._since = time.monotonic()

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        step, data = trainer.global_step, cast(LabelledData, data_of(trainer))
        epoch, rest = divmod(step, data.steps_per_epoch)
        if step < last_step(trainer) and (rest or epoch % self.every):
            if not rest:
                module.next_epoch()
            return
        line: dict[str, Any] = {
            "format": 1,
            "run": self.run.name,
            "step": step,
            "epoch": step / data.steps_per_epoch,
            "seconds": round(time.monotonic() - self._since, 3),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            **module.epoch_figures(),
        }
        if data.validation:
            line |= self._measured(module, data, "validation")
        line |= self._measured(module, data, "test")
        if not rest:
            module.next_epoch()
        _refuse_nan(line, module.remedy)
        self.append(trainer, self.run.accuracy, line)
        shown = {name: each for name, each in line.items() if name.endswith(("_loss", "_accuracy"))}
        self.to_loggers(trainer, shown)
        if self._take(line):
            best = {"score": "validation_accuracy", "value": line["validation_accuracy"]}
            save_best(trainer, best)
        self._since = time.monotonic()

    def _take(self, line: dict[str, Any]) -> bool:
        """Show and remember a line; return whether it is the best so far, the first of equals."""
        self.last = line
        value = line.get("validation_accuracy")
        validation = "" if value is None else f"validation {value:.2%} "
        self.saving.note = f"{validation}test {line['test_accuracy']:.2%}"
        if value is None or (self.best and value <= self.best["validation_accuracy"]):
            return False
        self.best = line
        return True

    def _measured(self, module: Classifier, data: LabelledData, part: Any) -> dict[str, Any]:
        """Mean loss and accuracy on a part of the data: validation or test."""
        images, right, loss = data.images_of(part), [], 0.0
        assert images.labels is not None
        batches = (each.split(self.batch_size) for each in (images.images, images.labels))
        with evaluating(module.network), module.trainer.precision_plugin.forward_context():
            for x, y in zip(*batches, strict=True):
                logits = module.logits(data.prepared(x.to(module.device)))
                y = y.to(module.device)
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
                right.append((logits.argmax(1) == y).cpu())
        answers = torch.cat(right)
        found: dict[str, Any] = {
            f"{part}_loss": loss / len(answers),
            f"{part}_accuracy": int(answers.sum()) / len(answers),
        }
        if part == "test":
            found["test_right"] = [int(block.sum()) for block in answers.split(BLOCK)]
        return found


def _is_complete(line: dict[str, Any]) -> bool:
    """Whether a line of the file has the numbers that are shown and compared."""
    needed = [line.get(name) for name in ("step", "epoch", "test_accuracy")]
    if line.get("validation_accuracy") is not None:
        needed.append(line["validation_accuracy"])
    return all(isinstance(value, (int, float)) and abs(value) < 1e300 for value in needed)


def _refuse_nan(line: dict[str, Any], remedy: str) -> None:
    """Raise Diverged for a loss that is NaN or infinite, though the step's own was finite."""
    figures = {name: value for name, value in line.items() if isinstance(value, float)}
    wrong = [f"{name} {value}" for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        problem = diverged(line["step"], ", ".join(wrong), remedy, figures)
        problem.together = False  # the other processes may have finite losses
        raise problem
