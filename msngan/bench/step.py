"""`bench step`: whole GAN steps by the recipe of configs/cifar_msn.yaml, against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from msngan.bench.references import DESCRIPTIONS, TORCH, built
from msngan.bench.settings import SIZE, StepSettings
from msngan.bench.timing import Clock, Progress, interleaved, ratio
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.losses.augment import OPERATIONS
from msngan.networks import Generator
from msngan.networks.build import CRITICS
from msngan.norms import Centring, convert

BASELINE = "plain loop"
DESCRIPTION = (
    "torch SN, float32, contiguous, separate critic passes, the critic not frozen in the"
    " generator's half, no moving average; networks, loss, optimizers and batch as ours"
)
DISCARDED, MEASURED = 1, 3  # steps of one measurement
HALF = "bf16-mixed"
IMAGES = 1024  # of the synthetic data set, or one batch if that is more
LATENT_DIM = 128
CLASSES = 10  # of a conditional GAN
ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}


class PlainLoop:
    """The training loop that one writes first, as DESCRIPTION says."""

    def __init__(self, settings: StepSettings, data: Synthetic) -> None:
        width, self.device = settings.width, settings.device
        generator = built(lambda _: Generator(LATENT_DIM, width, 3, SIZE), "none")
        make = CRITICS[settings.critic]
        critic = built(lambda norm: make(norm, width), TORCH)
        self.generator, self.critic = generator.to(self.device), critic.to(self.device)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), **ADAM)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), **ADAM)
        real = (data.real.float() / 127.5 - 1).to(self.device)
        whole = (each for each in real.split(settings.batch) if len(each) == settings.batch)
        self.batches = cycle(whole)

    def seconds(self, read: Callable[[], float]) -> float:
        for done in range(DISCARDED + MEASURED):
            if done == DISCARDED:
                start = read()
            self.step(next(self.batches))
        return (read() - start) / MEASURED

    def step(self, real: Tensor) -> None:
        """Train both networks once. real: (N, 3, SIZE, SIZE), float32 in [-1, 1]."""
        ones = torch.ones(len(real), device=self.device)
        with torch.no_grad():
            fake = self._fake(len(real))
        self.critic_optimizer.zero_grad()
        loss = cross_entropy(self.critic(real), ones) + cross_entropy(self.critic(fake), 1 - ones)
        loss.backward()
        self.critic_optimizer.step()

        fake = self._fake(len(real))
        self.generator_optimizer.zero_grad()
        cross_entropy(self.critic(fake), ones).backward()
        self.generator_optimizer.step()

    def _fake(self, count: int) -> Tensor:
        return self.generator(torch.randn(count, LATENT_DIM, device=self.device))


class Synthetic(ImageData):
    """ImageData of random pixels; its loader is the one of training."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size=batch_size, size=SIZE, channels=3)

    @cached_property
    def real(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        shape = (max(IMAGES, self.batch_size), 3, SIZE, SIZE)
        return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)

    @cached_property
    def labels(self) -> Tensor:
        return torch.arange(len(self.real)) % CLASSES


class Timing(Callback):
    """Stops a fit after DISCARDED + MEASURED steps.

    seconds: of one step, between the ends of the last discarded and of the last step, including the
    loader and the Trainer.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self._start = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step
        if done == DISCARDED:
            self._start = self.read()
        if done == DISCARDED + MEASURED:
            self.seconds = (self.read() - self._start) / MEASURED
            trainer.should_stop = True


@dataclass(frozen=True)
class Recipe:
    """What differs from configs/cifar_msn.yaml and from the Trainer's defaults."""

    norm: str
    precision: str = "32-true"
    critic_batch: str = "joint"
    statistics: str = "batch"  # the GAN's generator_statistics
    channels_last: bool = True
    augment: tuple[str, ...] = ()  # the policy
    conditional: bool = False

    @property
    def row(self) -> dict[str, Any]:
        layout = "channels_last" if self.channels_last else "contiguous"
        precision = "bfloat16" if self.precision == HALF else "float32"
        words = [self.norm, precision, layout]
        words += [f"{self.critic_batch} passes"] if self.critic_batch != "joint" else []
        words += [f"{self.statistics} means"] if self.statistics != "batch" else []
        words += ["augmented"] if self.augment else []
        words += ["conditional"] if self.conditional else []
        return {
            "name": ", ".join(words),
            "norm": self.norm,
            "kind": "norm",
            "layout": layout,
            "precision": precision,
            "critic_batch": self.critic_batch,
            "generator_statistics": self.statistics,
            "augment": list(self.augment),
            "conditional": self.conditional,
        }

    def gan(self, settings: StepSettings) -> GAN:
        return GAN(
            norm=self.norm,
            loss="nonsaturating",
            critic_batch=self.critic_batch,  # type: ignore[arg-type]
            generator_statistics=self.statistics,  # type: ignore[arg-type]
            critic=settings.critic,
            width=settings.width,
            channels_last=self.channels_last,
            augment={"policy": list(self.augment)} if self.augment else None,
            conditional=self.conditional,
            classes=CLASSES if self.conditional else 0,
            size=SIZE,
        )


def recipes(norms: tuple[str, ...]) -> list[Recipe]:
    """Three of each norm; four more of a norm that subtracts minibatch means.

    Of the first norm one more with augmented images, and one of a conditional GAN.
    """
    found = []
    for norm in norms:
        both = [Recipe(norm), Recipe(norm, HALF)]
        found += [Recipe(norm, channels_last=False), *both]
        made = convert(nn.Conv2d(1, 1, 1), norm)
        if any(isinstance(part, Centring) for part in made.modules()):
            found += [replace(each, critic_batch="separate") for each in both]
            found += [replace(each, statistics="last") for each in both]
    first = Recipe(norms[0])
    return [*found, replace(first, augment=tuple(OPERATIONS)), replace(first, conditional=True)]


def run(settings: StepSettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    data = Synthetic(settings.batch)
    baseline = {"name": BASELINE, "norm": TORCH, "kind": "reference"}
    rows: list[dict[str, Any]] = [baseline | {"layout": "contiguous", "precision": "float32"}]
    measures = {BASELINE: partial(PlainLoop(settings, data).seconds, clock.read)}
    for recipe in recipes(settings.norms):
        rows.append(recipe.row)
        ours = recipe.gan(settings), data, settings, recipe.precision, clock.read
        measures[recipe.row["name"]] = partial(seconds_of, *ours)
    seconds = interleaved(measures, settings.rounds, progress)
    for row, times in zip(rows, seconds.values(), strict=True):
        row |= {"throughput": ratio(seconds[BASELINE], times), "seconds": times}
    return {
        "baseline": BASELINE,
        "results": rows,
        "references": {BASELINE: DESCRIPTION, TORCH: DESCRIPTIONS[TORCH]},
        "discarded_steps": DISCARDED,
        "measured_steps": MEASURED,
    }


def seconds_of(
    gan: GAN, data: ImageData, settings: StepSettings, precision: str, read: Callable[[], float]
) -> float:
    timing = Timing(read)
    train(gan, data, timing, settings.device, precision)
    return timing.seconds


def train(gan: GAN, data: ImageData, callback: Callback, device: str, precision: str) -> None:
    """Train until the callback stops it, as `msngan fit` does, without writing anything."""
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]  # Lightning's Literal
        max_epochs=-1,
        callbacks=[callback],
        logger=False,
        log_every_n_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(gan, data)
    except SystemExit as ending:  # Lightning's answer to Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from ending
        raise
