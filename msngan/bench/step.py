"""`bench step`: whole GAN steps by the recipe of configs/cifar_msn.yaml, against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count, cycle
from statistics import median
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from msngan.bench.loops import (
    PRODUCT,
    STEPS,
    Done,
    Play,
    Times,
    calls_of_step,
    flops_of_step,
    multiply,
    timed,
)
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

    def play(self, done: Done) -> None:
        for step in count(1):
            self.step(next(self.batches))
            if done(step):
                return

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
        self.endless = True  # as under `fit`

    @cached_property
    def real(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        shape = (max(IMAGES, self.batch_size), 3, SIZE, SIZE)
        return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)

    @cached_property
    def labels(self) -> Tensor:
        return torch.arange(len(self.real)) % CLASSES


class EndOfStep(Callback):
    """Calls done(step) at the end of each step, counted from 1, and stops the fit if it is true."""

    def __init__(self, done: Done) -> None:
        self.done = done

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.done(trainer.global_step):
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
    graph: bool | None = None  # play steps as CUDA graphs; None where there are none

    @property
    def row(self) -> dict[str, Any]:
        layout = "channels_last" if self.channels_last else "contiguous"
        precision = "bfloat16" if self.precision == HALF else "float32"
        words = [self.norm, precision, layout]
        words += [f"{self.critic_batch} passes"] if self.critic_batch != "joint" else []
        words += [f"{self.statistics} means"] if self.statistics != "batch" else []
        words += ["augmented"] if self.augment else []
        words += ["conditional"] if self.conditional else []
        words += [] if self.graph is None else ["CUDA graph" if self.graph else "eager"]
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
            "graph": self.graph,
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


def recipes(norms: tuple[str, ...], device: str) -> list[Recipe]:
    """Three of each norm; four more of a norm that subtracts minibatch means.

    Of the first norm one more with augmented images, and one of a conditional GAN. On a GPU each of
    them eager, and as a CUDA graph.
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
    found += [replace(first, augment=tuple(OPERATIONS)), replace(first, conditional=True)]
    if device == "cuda":
        found = [replace(each, graph=graph) for each in found for graph in (False, True)]
    return found


@dataclass(eq=False)
class Arm:
    """A loop that is measured, and its row of the results.

    refused: why its step is not captured as a graph; it is then not measured.
    """

    row: dict[str, Any]
    play: Play
    refused: list[str] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [each.step for each in self.times]

    def measure(self, time: Callable[[Play], Times]) -> float:
        """Seconds of a step."""
        if self.refused:
            return math.nan
        self.times.append(time(self.play))
        return self.times[-1].step

    def describe(self, plain: Arm) -> None:
        """Put into the row what was found; seconds are of a step, one for each round."""
        if self.refused:
            self.row |= {"throughput": None, "seconds": [], "not_captured": self.refused[0]}
        else:
            throughput = ratio(plain.seconds, self.seconds)
            self.row |= {"throughput": throughput, "seconds": self.seconds}

    def describe_on_gpu(self, product: Arm, batch: int, discarded: int) -> None:
        """Put into the row what only a GPU has; see `Times` and `Calls`, which may be None.

        host, recording: over the time of a step. share_of_peak: operations a second over those of
        the product; a CPU's convolutions need fewer than are counted. images_per_second: real
        images of the steps' batches.
        """
        if self.refused:
            return
        flops = flops_of_step(self.play)  # of a step before one is captured
        of_product = 2 * PRODUCT**3
        share = ratio(product.seconds, self.seconds)
        calls = calls_of_step(self.play, discarded)
        launching = [each.launching or math.nan for each in self.times]
        self.row |= {
            "flops": flops,
            "share_of_peak": {name: flops / of_product * x for name, x in share.items()},
            "images_per_second": batch / median(self.seconds),
            "launches": calls and calls.launches,
            "waits": calls and calls.waits,
            "launching_seconds": launching,
            "host": ratio(launching, self.seconds),
        }
        if self.row.get("graph"):
            recording = [each.recording or math.nan for each in self.times]
            self.row["recording_seconds"] = recording
            self.row["recording"] = ratio(recording, self.seconds)


def run(settings: StepSettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    device, rounds = settings.device, settings.rounds
    steps = STEPS[device]
    if settings.steps:
        steps = replace(steps, measured=settings.steps)
    arms = arms_of(settings)
    products = {
        name: Arm({"name": f"product, {name}"}, partial(multiply, name, device))
        for name in dict.fromkeys(arm.row["precision"] for arm in arms)
        if device == "cuda"
    }
    every = [*arms, *products.values()]
    time = partial(timed, steps=steps, clock=clock, device=device)
    interleaved({each.row["name"]: partial(each.measure, time) for each in every}, rounds, progress)
    for each in every:
        each.times = each.times[-rounds:]
    for arm in arms:
        arm.describe(arms[0])
        if device == "cuda":
            product = products[arm.row["precision"]]
            arm.describe_on_gpu(product, settings.batch, steps.discarded)
    return {
        "baseline": BASELINE,
        "results": [arm.row for arm in arms],
        "references": {BASELINE: DESCRIPTION, TORCH: DESCRIPTIONS[TORCH]},
        "discarded_steps": steps.discarded,
        "measured_steps": steps.measured,
        "products": {name: each.seconds for name, each in products.items()},
        **({"clock": "events on the GPU's stream"} if device == "cuda" else {}),
    }


def arms_of(settings: StepSettings) -> list[Arm]:
    """The plain loop, then ours."""
    data = Synthetic(settings.batch)
    row = {"name": BASELINE, "norm": TORCH, "kind": "reference", "layout": "contiguous"}
    arms = [Arm(row | {"precision": "float32"}, PlainLoop(settings, data).play)]
    for recipe in recipes(settings.norms, settings.device):
        gan = recipe.gan(settings)
        arm = Arm(recipe.row, partial(play, gan, data, settings.device, recipe.precision))
        if recipe.graph:
            gan.capture_steps(arm.refused.append)
        arms.append(arm)
    return arms


def play(gan: GAN, data: ImageData, device: str, precision: str, done: Done) -> None:
    train(gan, data, EndOfStep(done), device, precision)


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
