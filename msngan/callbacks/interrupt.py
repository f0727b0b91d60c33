"""Ctrl-C and SIGTERM: finish the step, save, leave with the signal's exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Interrupt(Callback):
    """The first signal stops after the step in hand; a second Ctrl-C leaves at once.

    Comes before the callbacks that save, so that they see `trainer.should_stop`. `signal` is what
    arrived, None if nothing did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After Lightning has set its own SIGTERM handler, which raises in the middle of a step.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)  # Lightning would make a KeyboardInterrupt an exit 1
        self.signal = number
        name = signal.Signals(number).name
        sys.stderr.write(f"\n{name}: saving after this step (Ctrl-C again leaves at once)\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.signal is not None:
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
