"""What a run shows and records: the bar, metrics.jsonl, gates.jsonl, grids of samples.

The .jsonl files survive a resume without a gap or a double line.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from msngan.data import images as convert
from msngan.networks.sampling import class_rows, classes_of, first_of_each
from msngan.norms import OptionalSpectralNorm
from msngan.runs import distributed
from msngan.runs.atomic import replacing
from msngan.runs.folder import clock
from msngan.runs.option_values import check_ranges
from msngan.runs.options import AtLeastOne, Count, Every, Record
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of, last_step

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
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None
        self._task: Any = None
        self._shown = 0.0
        self._start = (0, 0.0)
        self._measured: tuple[int, float, float] | None = None  # step, wall and CPU seconds
        self._estimated = False

    def say(self, line: str) -> None:
        """A line of its own, above the bar; the first process speaks for all."""
        if distributed.rank() > 0:
            return
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = (trainer.global_step, time.monotonic())
        self._shown = time.monotonic()
        if self._console.is_terminal and distributed.rank() == 0:
            columns = "step", MofNCompleteColumn(), BarColumn(bar_width=None), "{task.fields[text]}"
            self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, expand=True)
            self._task = self._bar.add_task(
                "train", total=last_step(trainer), completed=trainer.global_step, text=""
            )
            self._bar.start()

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        now = time.monotonic()
        self._estimate(trainer, module, now)
        # Reading a loss makes a GPU wait, so it is done a few times a second at the most.
        if now - self._shown < (0.5 if self._bar else HEARTBEAT_SECONDS):
            return
        self._shown = now
        step = trainer.global_step
        first, start = self._start
        speed = (step - first) / max(now - start, 1e-9)
        shown = {word: name for word, name in SHOWN.items() if name in figures}
        losses = " ".join(f"{word} {float(figures[name]):.3f}" for word, name in shown.items())
        text = f"{speed:.1f} steps/s  {losses}  {self.saving.note}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            last = last_step(trainer)
            left = (last - step) / max(speed, 1e-9)
            self.say(f"step {step}/{last}  {text}  {clock(left)} left")

    def _estimate(self, trainer: Trainer, module: Any, now: float) -> None:
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
            speed = f"{steps / wall:.3g} steps/s"
            self.say(f"about {clock(left)} to go at {speed}; {module.shorter}")
        threads, busy = torch.get_num_threads(), (cpu - self._measured[2]) / wall
        if module.device.type == "cpu" and threads > 1 and busy < ENOUGH * threads:
            self.say(
                f"{threads} threads get the time of {busy:.1f} CPUs; other programs may be using"
                " them, and --threads 1 may be faster"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.stop()
            self._bar = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)


class Records(RunCallback):
    """Writes the step's figures to metrics.jsonl and to the loggers.

    Each change of a gate of the norm `optional_spectral` goes to gates.jsonl after its step. A line
    has step, layer, on, criterion, value and sigma, the factor: a gate that goes on divides the
    layer's output by it. Without changes there is no file.

    Args:
        every: steps between records of the losses in metrics.jsonl.
    """

    def __init__(self, every: Record[AtLeastOne] = 50) -> None:
        self.every = every
        self._since = (0, 0.0)
        self._gates: dict[str, OptionalSpectralNorm] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_until(trainer, self.run.metrics)
        self.keep_until(trainer, self.run.gates)
        self._since = (trainer.global_step, time.monotonic())
        gated: Any = getattr(pl_module, "critic", None) or pl_module.network
        for name, layer in gated.named_modules():
            gate = getattr(layer, "weight_norm", None)
            if isinstance(gate, OptionalSpectralNorm):
                self._gates[name] = gate

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        step = trainer.global_step
        for layer, gate in self._gates.items():
            for decision in gate.decisions:
                self.append(trainer, self.run.gates, {"step": step, "layer": layer, **decision})
            gate.decisions.clear()
        if not self.due(trainer, self.every):
            return
        before, then = self._since
        now = time.monotonic()
        found = {name: float(value) for name, value in figures.items()}
        found["steps_per_second"] = (step - before) / max(now - then, 1e-9)
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
        found |= zip(module.rates, rates, strict=True)
        self.append(trainer, self.run.metrics, {"step": step, **found})
        self.to_loggers(trainer, found)
        self._since = (step, now)


class Samples(RunCallback):
    """Saves samples/<run>/step-XXXXXXXX.png, real.png before the first, training.webp at the end.

    Each grid shows the same latents, from the generator's moving average in eval mode; of a
    conditional GAN each row is a class. Drawing them leaves training's random streams alone.

    Args:
        every: steps between grids; 0: only at the end.
        count: number of images in a grid.
        film: write an animation of the grids, training.webp, at the end.
    """

    def __init__(
        self, every: Record[Every] = 1000, count: Record[Count] = 64, film: Record[bool] = True
    ) -> None:
        check_ranges("gan", "samples", locals())
        self.every, self.count, self.film = every, count, film

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self.saving.attempt("a grid", step, lambda: self._keep_until(step), needed=True)
        if (data := data_of(trainer)) is not None:
            real, labels, columns = data.real, *self._rows(pl_module)
            if labels is None:
                pick = torch.linspace(0, len(real) - 1, min(self.count, len(real))).long()
            else:
                pick = first_of_each(data.labels, labels)
            self._save(trainer, real[pick], "real", columns)
        if step == 0 and self.every:
            self._draw(trainer, pl_module)

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        if not trainer.is_global_zero:
            return
        if self.due(trainer, self.every):
            self._draw(trainer, module)
        if self.film and trainer.global_step >= last_step(trainer):
            self.saving.attempt("training.webp", trainer.global_step, self._write_film)

    def _rows(self, module: Any) -> tuple[Tensor | None, int | None]:
        """The labels of a grid, and the length of its rows; None if the GAN is not conditional."""
        classes = classes_of(module.generator)
        return class_rows(range(classes), self.count) if classes else (None, None)

    def _draw(self, trainer: Trainer, module: Any) -> None:
        labels, columns = self._rows(module)
        count = self.count if labels is None else len(labels)
        images = module.sample(count, module.options.seed, labels=labels)
        self._save(trainer, images, "samples", columns)

    def _save(self, trainer: Trainer, images: Tensor, tag: str, columns: int | None) -> None:
        step = trainer.global_step
        name = "real.png" if tag == "real" else f"step-{step:08d}.png"

        def write() -> None:
            with replacing(self.run.samples / name) as temporary:
                convert.save_grid(images, temporary, columns, kind="PNG")

        self.saving.attempt("a grid", step, write)
        picture = convert.tile(images, columns)
        for logger in trainer.loggers:  # TensorBoard's and W&B's take pictures; a CSV does not
            if hasattr(logger, "log_image"):
                logger.log_image(tag, [convert.to_pil(picture)], step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, picture, step)

    def _grids(self) -> list[Path]:
        return sorted(self.run.samples.glob("step-????????.png"))

    def _keep_until(self, step: int) -> None:
        """Remove the grids of later steps, which a resumed run is about to do again."""
        for path in self._grids():
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def _write_film(self) -> None:
        """Write training.webp: the grids in order, the last one held; at most 100 frames."""
        from PIL import Image

        paths = self._grids()
        if len(paths) < 2:
            return
        pick = torch.linspace(0, len(paths) - 1, min(100, len(paths))).long().unique()
        frames = []
        for index in pick.tolist():
            with suppress(OSError, SyntaxError):  # a grid that a crash has cut
                frames.append(Image.open(paths[index]).convert("RGB"))
        if not frames:
            return
        # A run resumed with another --samples.count has grids of two sizes.
        frames = [frame for frame in frames if frame.size == frames[-1].size]
        times = [200] * (len(frames) - 1) + [2000]  # milliseconds
        with replacing(self.run.samples / "training.webp") as temporary:
            frames[0].save(
                temporary, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0
            )
