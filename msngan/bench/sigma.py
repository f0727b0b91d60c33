"""`bench sigma`: how accurate the estimate of sigma is while a GAN trains, and what it costs.

The paper (arXiv:1907.04003) holds a single power iteration to be sufficient. Here each recipe is
trained twice by the same code: with the estimator that the norms use, and with a single vector and
a single iteration per update. After every update the largest singular value of each weight W' that
the critic computes with is found by an eigenvalue decomposition in float64.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from msngan.bench.settings import SigmaSettings
from msngan.bench.step import train
from msngan.bench.timing import Clock, Progress, ratio
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.norms import SigmaBank, estimate, is_batch_coupled, stored
from msngan.norms.layers import parts_of
from msngan.norms.spectral import BidirectionalSpectralNorm, SpectralNorm
from msngan.runs.configs import parse
from msngan.runs.folder import UserError

BASELINE = "forward + backward"
OURS, ONE = "the norm's own", "one vector, one iteration"
ALLOWED = 1.02
SHOWN = (1, 10, 100, 500, 2000)  # steps of the table
EVERY_STEP, BY_DECADE = 50, 40  # of the figure's points

Part = SpectralNorm | BidirectionalSpectralNorm


def estimated(critic: nn.Module) -> list[tuple[Tensor, Part]]:
    """The stored weight and the norm's part of every layer whose matrix norm is estimated."""
    return [
        (stored(layer, name), part)
        for layer, name, part in parts_of(critic)
        if isinstance(part, Part)
    ]


def estimators(part: Part) -> list[Any]:
    return part.estimates() or [part]


def one_vector(critic: nn.Module) -> None:
    """Use the paper's estimator: one vector and one iteration per update, from a settled start."""
    for weight, part in estimated(critic):
        for each in estimators(part):
            each.most = 1
            each.block = each.block[:, :1].clone()
        part.settle(weight)


@torch.no_grad()
def excess(part: Part, weight: Tensor) -> float:
    """sigma of the weight W' that the layer computes with, over what the norm promises."""
    made = part.quotient(weight).double()
    sigmas = []
    for each in estimators(part):
        matrix = each.matrix(made)  # (groups, rows, columns)
        wide = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
        sigmas.append(float(torch.linalg.eigvalsh(wide @ wide.mT)[:, -1].max().sqrt()))
    return sum(sigmas) / len(sigmas) / part.scale


@dataclass(frozen=True)
class Recipe:
    """A config; norm and critic_batch replace the config's own unless they are None."""

    config: str
    norm: str | None
    critic_batch: str | None

    def built(self, settings: SigmaSettings) -> tuple[GAN, ImageData, str]:
        """The GAN, its data and the Trainer's precision, as `msngan fit` would make them."""
        sizes = {"model.width": settings.width, "steps": settings.steps, "seed": settings.seed}
        chosen = {**sizes, "model.norm": self.norm, "model.critic_batch": self.critic_batch}
        words = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
        config = parse(["--config", self.config, *words])
        if config.task != "gan":
            raise UserError(f"--config {self.config} trains a classifier; choose a GAN's")
        data = ImageData(**config.group("data"))
        data.seed = settings.seed
        channels, size = data.shape
        run = {"seed": settings.seed, "steps": settings.steps, "channels": channels, "size": size}
        gan = GAN(**config.group("model") | run)
        if not estimated(gan.critic):
            raise UserError(
                f"norm {config.model.norm} of {self.config} estimates no sigma of a matrix;"
                " choose another with --norms"
            )
        return gan, data, config.trainer.precision

    def name(self, gan: GAN) -> str:
        """Without a batch-coupled norm, both batch modes are the same training."""
        words = [self.config] + ([self.norm] if self.norm else [])
        words += [f"{gan.options.critic_batch} passes"] if is_batch_coupled(gan.critic) else []
        return ", ".join(words)


def run(settings: SigmaSettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    found = [
        Recipe(config, norm, critic_batch)
        for config in settings.config
        for norm in settings.norms or (None,)
        for critic_batch in settings.critic_batch or (None,)
    ]
    recipes = {each.name(each.built(settings)[0]): each for each in found}
    rows: list[dict[str, Any]] = []
    for name, recipe in recipes.items():
        for estimator in (OURS, ONE):
            gan, data, precision = recipe.built(settings)
            if estimator == ONE:
                one_vector(gan.critic)
            trainings = (len(rows), 2 * len(recipes))
            measured = Measured(gan, settings, clock, progress, trainings)
            train(gan, data, measured, settings.device, precision)
            rows.append(_row(name, estimator, gan, measured))
    return {"baseline": BASELINE, "results": rows, "allowed": ALLOWED}


def _row(name: str, estimator: str, gan: GAN, measured: Measured) -> dict[str, Any]:
    first = estimators(estimated(gan.critic)[0][1])[0]
    found = measured.found
    largest = max(found, key=lambda step: found[step])
    return {
        "name": f"{name}; {estimator}",
        "recipe": name,
        "kind": "norm" if estimator == OURS else "reference",
        "estimator": estimator,
        "norm": gan.options.norm,
        "vectors": estimate.BLOCK if first.most > 1 else 1,  # of a weight that is large enough
        "most_iterations": first.most,
        "measured_updates": len(found),
        "above_allowed": sum(value > ALLOWED for value in found.values()),
        "largest": found[largest],
        "largest_step": largest,
        "at": {str(step): found[step] for step in SHOWN if step in found},
        **thinned(found),
        "cost": ratio(measured.updates, measured.passes),
        "seconds": measured.updates,
        "baseline_seconds": measured.passes,
    }


def thinned(found: dict[int, float]) -> dict[str, list[Any]]:
    """Points for a logarithmic axis: every step at first, then some of each power of ten.

    found: by step, in order. `sigma` is the largest value since the step before.
    """
    kept = {round(10 ** (k / BY_DECADE)) for k in range(6 * BY_DECADE)} | {max(found)}
    steps, sigma, since = [], [], 0.0
    for step, value in found.items():
        since = max(since, value)
        if step <= EVERY_STEP or step in kept:
            steps.append(step)
            sigma.append(round(since, 6))
            since = 0.0
    return {"steps": steps, "sigma": sigma}


class Measured(Callback):
    """After each step: the largest excess over all layers; at `rounds` steps the times, too.

    found: by step. updates, passes: seconds of the norm's update within training, and of a forward
    and backward pass of a copy of the critic after it. trainings: how many are done, and are to be
    done in all, for `progress`, which is called after each step with the steps of all.
    """

    def __init__(
        self,
        gan: GAN,
        settings: SigmaSettings,
        clock: Clock,
        progress: Progress,
        trainings: tuple[int, int],
    ) -> None:
        self.steps, self.clock, self.progress = settings.steps, clock, progress
        self.before, self.total = (settings.steps * each for each in trainings)
        self.found: dict[int, float] = {}
        self.updates: list[float] = []
        self.passes: list[float] = []
        rounds = settings.rounds
        self.timed = {math.ceil(settings.steps * (n + 1) / rounds) for n in range(rounds)}
        self._update, self._seconds = gan.bank.update, 0.0
        gan.bank.update = self._timed_update  # type: ignore[method-assign]

    def _timed_update(self) -> None:
        self._seconds = self.clock.seconds(self._update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GAN)
        step = trainer.global_step
        parts = estimated(pl_module.critic)
        self.found[step] = max(excess(part, weight) for weight, part in parts)
        if step in self.timed:
            self.updates.append(self._seconds)
            self.passes.append(self._pass_seconds(pl_module, batch))
        self.progress(self.before + step, self.total)
        trainer.should_stop = step >= self.steps

    def _pass_seconds(self, gan: GAN, batch: Tensor) -> float:
        critic = deepcopy(gan.critic)
        bank = SigmaBank(critic)
        images = batch[: len(batch) // gan.options.critic_steps]
        if gan.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        def forward_backward() -> None:
            critic.zero_grad()
            with bank.shared():
                critic(images).float().sum().backward()

        forward_backward()  # work that only a first pass does is not timed
        return self.clock.seconds(forward_backward)
