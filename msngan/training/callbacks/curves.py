"""Training curves: metrics.jsonl, accuracy.jsonl, gates.jsonl and TensorBoard.

The .jsonl files survive a resume without a gap or a double line.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.nn import functional as F

from msngan.classifier import Classifier
from msngan.data import Images, LabelledData
from msngan.gan import GAN
from msngan.networks import evaluating
from msngan.networks.updates import diverged
from msngan.norms import OptionalSpectralNorm
from msngan.runs import distributed
from msngan.runs.folder import Run
from msngan.runs.jsonl import read_lines
from msngan.runs.options import AtLeastOne, Count, Record
from msngan.training.callbacks.checkpoints import Checkpoints
from msngan.training.callbacks.progress import Progress
from msngan.training.callbacks.run_callback import (
    RunCallback,
    Saving,
    callbacks_of,
    data_of,
    last_step,
)

BLOCK = 100  # test images counted in one number of `test_right`


class Records(RunCallback):
    """Writes the step's figures to metrics.jsonl and to the loggers.

    Args:
        every: steps between records of the losses in metrics.jsonl.
    """

    def __init__(self, every: Record[AtLeastOne] = 50) -> None:
        self.every = every
        self._since = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_until(trainer, self.run.metrics)
        self._since = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Tensor],  # type: ignore[override]
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if not self.due(trainer, self.every):
            return
        before, then = self._since
        now = time.monotonic()
        figures = {name: float(value) for name, value in outputs.items()}
        figures["steps_per_second"] = (step - before) / max(now - then, 1e-9)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        figures |= zip(cast(GAN, pl_module).rates, rates, strict=True)
        self.append(trainer, self.run.metrics, {"step": step, **figures})
        self.to_loggers(trainer, figures)
        self._since = (step, now)


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
        self._note(trainer)
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        data = cast(LabelledData, data_of(trainer))
        module = cast(Classifier, pl_module)
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
            for checkpoints in callbacks_of(trainer, Checkpoints):
                checkpoints.save_best(trainer, best)
        self._note(trainer)
        self._since = time.monotonic()

    def _take(self, line: dict[str, Any]) -> bool:
        """Remember a line; return whether it is the best so far, the first of equals."""
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
    ) -> tuple[Tensor, float]:
        """Whether each answer is right, bool (N,), and the mean loss."""
        assert images.labels is not None
        right, total = [], 0.0
        pairs = zip(
            images.images.split(self.batch_size), images.labels.split(self.batch_size), strict=True
        )
        with evaluating(module.network), module.trainer.precision_plugin.forward_context():
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


class Gates(RunCallback):
    """Writes each change of a gate of the norm `optional_spectral` to gates.jsonl.

    A line has step, layer, on, criterion, value and sigma, the factor: a gate that goes on divides
    the layer's output by it. Must come before the callback that saves, so that no decision of a
    saved step is missing. Without gates there is no file.
    """

    def __init__(self) -> None:
        self._gates: dict[str, OptionalSpectralNorm] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gated = getattr(pl_module, "critic", None) or cast(Classifier, pl_module).network
        for name, layer in gated.named_modules():
            gate = getattr(layer, "weight_norm", None)
            if isinstance(gate, OptionalSpectralNorm):
                self._gates[name] = gate
        self.keep_until(trainer, self.run.folder / "gates.jsonl")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, gate in self._gates.items():
            for decision in gate.decisions:
                line = {"step": trainer.global_step, "layer": name, **decision}
                self.append(trainer, self.run.folder / "gates.jsonl", line)
            gate.decisions.clear()


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger; a write that fails is reported and never stops the run.

    One event file per session. resumed_at: TensorBoard hides what an earlier session logged after
    this step, because it is about to be logged again; None for a new run.
    """

    def __init__(self, run: Run, resumed_at: int | None = None) -> None:
        purge: Any = {} if resumed_at is None else {"purge_step": resumed_at + 1}
        super().__init__(run.folder, "tensorboard", version="", **purge)
        self.saving = Saving("continue", run)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        def write() -> None:
            for name, value in metrics.items():
                self.experiment.add_scalar(name, value, step)

        self._attempt(step, write)

    @rank_zero_only
    def log_picture(self, tag: str, picture: Tensor, step: int) -> None:
        """picture: uint8 (C, H, W)."""
        self._attempt(step, lambda: self.experiment.add_image(tag, picture, step))

    @rank_zero_only
    def log_hyperparams(self, *params: Any, **named: Any) -> None:
        inherited = super().log_hyperparams
        self._attempt(None, lambda: inherited(*params, **named))

    def save(self) -> None:
        """Write no hparams.yaml: the run's config.yaml has all options."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._attempt(None, self._experiment.close)
            self._experiment = None

    def _attempt(self, step: int | None, write: Callable[[], object]) -> None:
        """Write, and wait until another thread has put the events on disk."""

        def flushed() -> None:
            write()
            self.experiment.flush()

        hook, threading.excepthook = threading.excepthook, lambda _: None  # raised here instead
        try:
            self.saving.attempt("tensorboard", step or 0, flushed)
        finally:
            threading.excepthook = hook
        if self.saving.failing:  # the thread has ended; the next event opens another file
            self._experiment = None
            self._kwargs.pop("purge_step", None)
