"""accuracy.jsonl: what a classifier gets right, at the end of each epoch."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.nn import functional as F

from msngan.networks import evaluating
from msngan.runs import distributed as processes
from msngan.runs.divergence import diverged
from msngan.runs.jsonl import read_lines
from msngan.runs.options import AtLeastOne, Count, Record
from msngan.training.callbacks.base import RunCallback, callbacks_of
from msngan.training.callbacks.checkpoints import Checkpoints
from msngan.training.callbacks.progress import Progress

if TYPE_CHECKING:
    from msngan.classifier import Classifier
    from msngan.data import Images, LabelledData

BLOCK = 100  # test images of one number of `test_right`


class Accuracy(RunCallback):
    """Writes a line an epoch, and one at the run's end; best.ckpt by the validation images.

    Loss and accuracy on the epoch's training batches as they were seen, on the validation images
    and on the test set, in eval mode. `test_right` counts right answers in each next 100 test
    images. The test set is looked at, and chooses nothing.

    Args:
        every: epochs between measurements of the accuracy.
        batch_size: images per forward pass when measuring.
    """

    def __init__(self, every: Record[AtLeastOne] = 1, batch_size: Record[Count] = 500) -> None:
        self.every, self.batch_size = every, batch_size
        self.best: dict[str, Any] | None = None  # the line with the best validation accuracy
        self.last: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.keep_until(trainer, self.run.accuracy)
        for line in processes.decided(lambda: read_lines(self.run.accuracy)):
            if _is_whole(line):
                self._take(line)
        self._note(trainer)
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        data = cast("LabelledData", getattr(trainer, "datamodule"))  # noqa: B009  set by fit()
        module = cast("Classifier", pl_module)
        epoch, rest = divmod(step, data.steps_per_epoch)
        if step < self.steps and (rest or epoch % self.every):
            if not rest:
                module.next_epoch()
            return
        seconds = time.monotonic() - self._since
        line: dict[str, Any] = {"format": 1, "run": self.run.name, "step": step}
        line["epoch"] = step / data.steps_per_epoch
        line |= {"seconds": round(seconds, 3), "learning_rate": _rate(trainer)}
        line |= module.epoch_figures()
        if data.validation:
            line |= self._measured(module, data, "validation")
        line |= self._measured(module, data, "test")
        if not rest:
            module.next_epoch()
        _refuse_nan(line, module.remedy)
        if trainer.is_global_zero:
            self.append(trainer, self.run.accuracy, line)
        shown = {name: each for name, each in line.items() if name.endswith(("_loss", "_accuracy"))}
        for logger in trainer.loggers:
            logger.log_metrics(shown, step)
        if self._take(line):
            best = {"score": "validation_accuracy", "value": line["validation_accuracy"]}
            for checkpoints in callbacks_of(trainer, Checkpoints):
                checkpoints.save_best(trainer, best)
        self._note(trainer)
        self._since = time.monotonic()

    def _take(self, line: dict[str, Any]) -> bool:
        """Remember a line; whether it is the best so far, the first of equals."""
        self.last = line
        value = line.get("validation_accuracy")
        if value is None or (self.best and value <= self.best["validation_accuracy"]):
            return False
        self.best = line
        return True

    def _measured(self, module: Classifier, data: LabelledData, part: Any) -> dict[str, Any]:
        right, loss = self._answers(module, data, data.images_of(part))
        found: dict[str, Any] = {
            f"{part}_loss": loss,
            f"{part}_accuracy": int(right.sum()) / len(right),
        }
        if part == "test":
            found["test_right"] = [int(block.sum()) for block in right.split(BLOCK)]
        return found

    def _answers(
        self, module: Classifier, data: LabelledData, images: Images
    ) -> tuple[torch.Tensor, float]:
        """Whether each answer is right, bool (N,), and the mean loss."""
        assert images.labels is not None
        right, total = [], 0.0
        pairs = zip(
            images.images.split(self.batch_size), images.labels.split(self.batch_size), strict=True
        )
        trainer = module.trainer
        with evaluating(module.network), trainer.precision_plugin.forward_context():
            for x, y in pairs:
                logits = module.logits(data.prepared(x.to(module.device)))
                y = y.to(module.device)
                total += float(F.cross_entropy(logits, y, reduction="sum"))
                right.append((logits.argmax(1) == y).cpu())
        return torch.cat(right), total / len(images.labels)

    def _note(self, trainer: Trainer) -> None:
        if self.last is None:
            return
        text = f"test {self.last['test_accuracy']:.2%}"
        if self.last.get("validation_accuracy") is not None:
            text = f"validation {self.last['validation_accuracy']:.2%} {text}"
        for progress in callbacks_of(trainer, Progress):
            progress.note = text


def _rate(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def _is_whole(line: dict[str, Any]) -> bool:
    """Whether a line of the file has the numbers that are shown and compared."""
    needed = [line.get(name) for name in ("step", "epoch", "test_accuracy")]
    if line.get("validation_accuracy") is not None:
        needed.append(line["validation_accuracy"])
    return all(isinstance(value, (int, float)) and abs(value) < 1e300 for value in needed)


def _refuse_nan(line: dict[str, Any], remedy: str) -> None:
    """Diverged for a loss that is no number: the step's own was, before it moved the weights."""
    figures = {name: value for name, value in line.items() if isinstance(value, float)}
    wrong = [f"{name} {value}" for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        problem = diverged(line["step"], ", ".join(wrong), remedy, figures)
        problem.together = False  # the other processes may have met nothing
        raise problem
