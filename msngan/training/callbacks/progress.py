"""A live bar on a terminal; elsewhere one line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from msngan.runs import distributed as processes
from msngan.runs.folder import clock
from msngan.training.callbacks.run_callback import RunCallback, last_step

if TYPE_CHECKING:
    from msngan.gan import GAN

HEARTBEAT_SECONDS = 30
# How long the run will take is measured once, over this many steps and seconds after the first.
LEAST_STEPS, LEAST_SECONDS = 4, 5.0
ENOUGH = 0.7  # share of their time that threads need, below which one alone may be faster
LONG = 60.0  # seconds of a run that is worth a line
# The figures of a step that are shown, where it has them.
SHOWN = {"critic": "critic_loss", "generator": "generator_loss", "loss": "loss"}


class Progress(RunCallback):
    """Shows steps, steps a second, losses, time left and the newest score or accuracy.

    After the first steps it says how long the whole run will take, and which options shorten it.
    """

    def __init__(self) -> None:
        self.note = ""  # the newest score or accuracy; its callback sets it
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None
        self._task: Any = None
        self._shown = 0.0
        self._start = (0, 0.0)
        self._measured: tuple[int, float, float] | None = None  # step, wall and CPU seconds
        self._estimated = False

    def say(self, line: str) -> None:
        """A line of its own, above the bar; the first process speaks for all."""
        if processes.rank() > 0:
            return
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = (trainer.global_step, time.monotonic())
        self._shown = time.monotonic()
        if self._console.is_terminal and processes.rank() == 0:
            self._bar = Bar(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task(
                "train", total=last_step(trainer), completed=trainer.global_step, text=""
            )
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, torch.Tensor],  # type: ignore[override]
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        self._estimate(trainer, pl_module, now)
        # Reading a loss makes a GPU wait, so it is done a few times a second at the most.
        if now - self._shown < (0.5 if self._bar else HEARTBEAT_SECONDS):
            return
        self._shown = now
        step = trainer.global_step
        first, start = self._start
        speed = (step - first) / max(now - start, 1e-9)
        shown = {word: name for word, name in SHOWN.items() if name in outputs}
        losses = " ".join(f"{word} {float(outputs[name]):.3f}" for word, name in shown.items())
        text = f"{speed:.1f} steps/s  {losses}  {self.note}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            last = last_step(trainer)
            left = (last - step) / max(speed, 1e-9)
            self.say(f"step {step}/{last}  {text}  {clock(left)} left")

    def _estimate(self, trainer: Trainer, module: LightningModule, now: float) -> None:
        """Say once how long the run will take, and whether its threads wait for each other."""
        if self._estimated:
            return
        step, cpu = trainer.global_step, time.process_time()
        if self._measured is None:  # the first step also allocates and compiles
            self._measured = (step, now, cpu)
            return
        steps, wall = step - self._measured[0], now - self._measured[1]
        if steps < LEAST_STEPS or wall < LEAST_SECONDS:
            return
        self._estimated = True
        left = (last_step(trainer) - step) * wall / steps
        if left > LONG:
            shorter = cast("GAN", module).shorter
            self.say(f"about {clock(left)} to go at {steps / wall:.3g} steps/s; {shorter}")
        threads, busy = torch.get_num_threads(), (cpu - self._measured[2]) / wall
        if module.device.type == "cpu" and threads > 1 and busy < ENOUGH * threads:
            self.say(
                f"{threads} threads get the time of {busy:.1f} CPUs; other programs may be using"
                " them, and --threads 1 may be faster"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close(trainer)

    def _close(self, trainer: Trainer) -> None:
        if self._bar:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.stop()
            self._bar = None
