"""Our side of `bench step`: GAN under Lightning's Trainer, as `msngan fit` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from msngan.bench.settings import SIZE, Settings
from msngan.data import ImageData
from msngan.gan import GAN

IMAGES = 1024  # of the synthetic data set, or one batch if that is more


class Synthetic(ImageData):
    """ImageData of random pixels: the loader and the change of range are the real ones."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size=batch_size, size=SIZE, channels=3)

    @cached_property
    def real(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        shape = (max(IMAGES, self.batch_size), 3, SIZE, SIZE)
        return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


class Timing(Callback):
    """Stops a fit after its steps. seconds: of one step, from the end of the last one discarded to
    the end of the last one, so that loader and Trainer are counted."""

    def __init__(self, discarded: int, measured: int, read: Callable[[], float]) -> None:
        self.discarded, self.measured, self.read = discarded, measured, read
        self._start = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step
        if done == self.discarded:
            self._start = self.read()
        if done == self.discarded + self.measured:
            self.seconds = (self.read() - self._start) / self.measured
            trainer.should_stop = True


@dataclass(frozen=True)
class Recipe:
    """One way to train: what of configs/cifar_msn.yaml and of the Trainer is changed."""

    norm: str
    precision: str = "32-true"
    passes: str = "joint"  # as the GAN's options are called
    statistics: str = "batch"  # generator_statistics
    channels_last: bool = True
    compile: bool = False
    mode: str | None = None  # of torch.compile; reduce-overhead captures CUDA graphs

    @property
    def name(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        words = [self.norm, "bfloat16" if "bf16" in self.precision else "float32", layout]
        if self.passes != "joint":
            words.append(f"{self.passes} passes")
        if self.statistics != "batch":
            words.append(f"{self.statistics} means")
        if self.compile:
            words.append("CUDA graphs" if self.mode == "reduce-overhead" else "compiled")
        return ", ".join(words)

    def gan(self, settings: Settings) -> GAN:
        made = GAN(
            norm=self.norm,
            loss="nonsaturating",
            passes=self.passes,  # type: ignore[arg-type]
            generator_statistics=self.statistics,  # type: ignore[arg-type]
            width=settings.width,
            channels_last=self.channels_last,
            size=SIZE,
        )
        if self.compile:
            made.generator.compile(mode=self.mode)
            made.critic.compile(mode=self.mode)
        return made


def fit_seconds(
    gan: GAN,
    data: Synthetic,
    recipe: Recipe,
    settings: Settings,
    read: Callable[[], float],
    *,
    discarded: int,
    measured: int,
) -> float:
    """Train for some steps and return the seconds of one, without the first ones."""
    timing = Timing(discarded, measured, read)
    train(gan, data, [timing], settings.device, recipe.precision)
    return timing.seconds


def train(
    gan: GAN, data: ImageData, callbacks: list[Callback], device: str, precision: str
) -> None:
    """Until a callback stops it; nothing is written."""
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]  # Lightning's Literal
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(gan, data)
    except SystemExit as ending:  # Lightning's answer to Ctrl-C, of which callers would not know
        if trainer.interrupted:
            raise KeyboardInterrupt from ending
        raise
