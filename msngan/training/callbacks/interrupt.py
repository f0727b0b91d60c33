"""Ctrl-C, SIGTERM and SIGUSR1: finish the step, save, leave with the signal's exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from msngan.runs import distributed as processes

# SLURM's --signal=USR1@90 warns of the end that is near: the exit code is that of SIGTERM.
SIGNALS = [signal.SIGINT, signal.SIGTERM]
SIGNALS += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


class Interrupt(Callback):
    """The first signal stops after the step in hand; a second Ctrl-C leaves at once.

    A signal to any one of several processes stops them all after the same step. Comes before the
    callbacks that save, so that they see `trainer.should_stop`. `signal` is what arrived, SIGINT or
    SIGTERM, None if nothing did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # which all processes know of
        self._arrived = 0  # here
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After Lightning has set its own SIGTERM handler, which raises in the middle of a step.
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._arrived and number == signal.SIGINT:
            raise SystemExit(128 + number)  # Lightning would make a KeyboardInterrupt an exit 1
        self._arrived = number if number == signal.SIGINT else signal.SIGTERM
        name = signal.Signals(number).name
        if processes.rank() == 0:
            sys.stderr.write(f"\n{name}: saving after this step (Ctrl-C again leaves at once)\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        arrived = processes.largest(self._arrived)
        if arrived:
            self.signal = arrived
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
