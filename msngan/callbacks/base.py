"""What callbacks of a run know."""

from __future__ import annotations

from typing import TypeVar

from pytorch_lightning import Callback, Trainer

from msngan.runs import Run


class RunCallback(Callback):
    """A callback that `fit` tells its run, the run's seed, its last step and its config's name."""

    run: Run
    seed: int
    steps: int
    config_name: str

    def attach(self, run: Run, seed: int, steps: int, config_name: str) -> None:
        self.run, self.seed, self.steps, self.config_name = run, seed, steps, config_name

    def due(self, trainer: Trainer, every: int) -> bool:
        """Whether the step just done is a multiple of `every` (0: never) or the run's last.

        The step of an interruption is neither, so an interrupted and resumed run leaves the same
        records as one that was let alone.
        """
        step = trainer.global_step
        return step >= self.steps or (every > 0 and step % every == 0)


C = TypeVar("C", bound=Callback)


def callbacks_of(trainer: Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of one kind."""
    known: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009  set where mypy does not look
    return [callback for callback in known if isinstance(callback, kind)]
