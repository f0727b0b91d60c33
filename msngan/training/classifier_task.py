"""A run that trains a classifier."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback

from msngan.classifier import Classifier
from msngan.data import LabelledData
from msngan.runs.folder import Run
from msngan.training.callbacks import Gates
from msngan.training.task import Task, count, place, resume_command


class ClassifierTask(Task):
    """Accuracies beside the checkpoints; a length in epochs or in steps."""

    name = "classifier"
    data: LabelledData

    def __init__(self, config: Any, built: Any) -> None:
        super().__init__(config, built)
        self.data, self.accuracy = built.data, built.accuracy
        self.data.seed = config.seed
        self.data.check()
        self.steps = config.steps or config.epochs * self.data.steps_per_epoch
        by_epochs = f"and --epochs {config.epochs} makes"
        self.steps_option = "--steps says" if config.steps else by_epochs

    @property
    def callbacks(self) -> list[Callback]:
        return [Gates(), self.accuracy]

    @property
    def options(self) -> dict[str, Any]:
        channels, size = self.data.shape
        own = {**self.config.model.as_dict(), "seed": self.config.seed, "steps": self.steps}
        return {**own, "channels": channels, "size": size, "classes": self.data.classes}

    def module(self) -> Classifier:
        return Classifier(**self.options)

    def prepare(self, device: Any) -> None:
        for part in ("validation", "test"):
            self.data.images_of(part)  # type: ignore[arg-type]  # mypy takes no Literal from a tuple
        assert self.data.scale

    def beginning(self, module: Classifier) -> str:
        data, model = self.data, self.config.model
        released = ", as released" if model.as_released else ""
        return (
            f"{len(data.real):,} images of {data.dataset}, {data.shape[1]}x{data.shape[1]},"
            f" {data.validation:,} to validate with; {model.network}{released},"
            f" {count(module.network):,} parameters; norm {model.norm}, Adam at {model.lr:g};"
            f" {self.steps / data.steps_per_epoch:g} epochs of {data.steps_per_epoch} steps"
        )

    def ending(self, run: Run) -> list[str]:
        lines = []
        last, best = self.accuracy.last, self.accuracy.best
        if last is not None:
            lines.append(f"  accuracies   {run.accuracy}  (last: {_said(last)})")
        if best is not None:
            lines.append(f"  best         {run.best}  (by validation: {_said(best)})")
        lines += ["next:", f"  msngan report {run.name}{place(run)}"]
        return [*lines, f"  {resume_command(run)} --epochs N   (to train longer)"]


def _said(line: dict[str, Any]) -> str:
    return f"epoch {line['epoch']:.3g}, {line['test_accuracy']:.2%} of the test images right"
