"""Grids of samples during training, and an animation of them at the end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import images as convert
from msngan.runs.atomic import replacing
from msngan.runs.options import Count, Every, Record
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of, last_step


class Samples(RunCallback):
    """Saves samples/<run>/step-XXXXXXXX.png, real.png before the first, training.webp at the end.

    Each grid shows the same latents, from the generator's moving average in eval mode. Drawing them
    leaves training's random streams alone.

    Args:
        every: steps between grids; 0: only at the end.
        count: number of images in a grid.
        film: write an animation of the grids, training.webp, at the end.
    """

    def __init__(
        self, every: Record[Every] = 1000, count: Record[Count] = 64, film: Record[bool] = True
    ) -> None:
        self.every, self.count, self.film = every, count, film

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self.saving.attempt("a grid", step, lambda: self._keep_until(step), needed=True)
        if (data := data_of(trainer)) is not None:
            real = data.real
            pick = torch.linspace(0, len(real) - 1, min(self.count, len(real))).long()
            self._save(trainer, real[pick], "real")
        if step == 0 and self.every:
            self._draw(trainer, pl_module)

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        if not trainer.is_global_zero:
            return
        if self.due(trainer, self.every):
            self._draw(trainer, module)
        if self.film and trainer.global_step >= last_step(trainer):
            self.saving.attempt("training.webp", trainer.global_step, self._write_film)

    def _draw(self, trainer: Trainer, module: Any) -> None:
        self._save(trainer, module.sample(self.count, module.options.seed), "samples")

    def _save(self, trainer: Trainer, images: Tensor, tag: str) -> None:
        step = trainer.global_step
        name = "real.png" if tag == "real" else f"step-{step:08d}.png"

        def write() -> None:
            with replacing(self.run.samples / name) as temporary:
                convert.save_grid(images, temporary, kind="PNG")

        self.saving.attempt("a grid", step, write)
        for logger in trainer.loggers:
            if (add := getattr(logger, "log_picture", None)) is not None:
                add(tag, convert.tile(images), step)

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
