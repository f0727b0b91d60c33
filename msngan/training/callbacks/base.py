"""What callbacks of a run know."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning import Callback, Trainer

from msngan.runs.atomic import append_line
from msngan.runs.folder import Run
from msngan.runs.jsonl import keep_until
from msngan.training.callbacks.saving import Saving


class RunCallback(Callback):
    """A callback that `fit` tells its run, the run's seed, its last step and its config's name.

    saving: what guards its writes; of all callbacks of a run the same.
    """

    run: Run
    seed: int
    steps: int
    config_name: str
    saving: Saving = Saving()

    def attach(self, run: Run, seed: int, steps: int, config_name: str) -> None:
        self.run, self.seed, self.steps, self.config_name = run, seed, steps, config_name

    def due(self, trainer: Trainer, every: int) -> bool:
        """Whether the step just done is a multiple of `every` (0: never) or the run's last.

        The step of an interruption is neither, so an interrupted and resumed run leaves the same
        records as one that was let alone.
        """
        step = trainer.global_step
        return step >= self.steps or (every > 0 and step % every == 0)

    def keep_until(self, trainer: Trainer, path: Path) -> None:
        """Drop the records that training is about to write again."""
        with self.saving.attempt(path.name, trainer.global_step, needed=True):
            keep_until(path, trainer.global_step)

    def append(self, trainer: Trainer, path: Path, record: dict[str, Any]) -> None:
        """Add one JSON line for the step just done."""
        with self.saving.attempt(path.name, trainer.global_step):
            append_line(path, record)


C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of one kind."""
    known: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009  set where mypy does not look
    return [callback for callback in known if isinstance(callback, kind)]
