"""`bench sigma`: how far sigma(W') is from what a norm promises while a GAN trains, and the cost.

The paper (arXiv:1907.04003) holds a single power iteration for sufficient. Here each recipe is
trained twice, by the same code: once with the estimator that the norms use, and once with a single
vector and a single iteration an update. After every update the largest singular value of each
weight W' that the critic computes with is found by an eigenvalue decomposition in float64.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from msngan.bench.exact_sigma import estimated, estimators, excess, one_vector, vectors
from msngan.bench.ratios import ratio
from msngan.bench.rounds import Watcher, clock_of
from msngan.bench.settings import SigmaSettings, record
from msngan.bench.trained import train
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.norms import is_batch_coupled
from msngan.norms.operator import LipschitzProjection, OperatorNorm
from msngan.runs.folder import UserError
from msngan.training.options import parse

BASELINE = "forward + backward"
OURS, ONE = "the norm's own", "one vector, one iteration"
ALLOWED = 1.02
SHOWN = (1, 10, 100, 500, 2000)  # steps of the table
EVERY_STEP, BY_DECADE, THINNED = 50, 40, 10


@dataclass(frozen=True)
class Recipe:
    """A config, and what of it is changed: its norm, its passes."""

    config: str
    norm: str | None
    passes: str | None

    def built(self, settings: SigmaSettings) -> tuple[GAN, ImageData, str]:
        """The GAN, its data and the Trainer's precision, as `fit` would make them."""
        words = ["--config", self.config, "--model.width", str(settings.width)]
        words += ["--steps", str(settings.steps), "--seed", str(settings.seed)]
        words += ["--model.norm", self.norm] if self.norm else []
        words += ["--model.passes", self.passes] if self.passes else []
        cli = parse(words)
        if cli.task != "gan":
            raise UserError(f"--config {self.config} trains a classifier; choose a GAN's")
        config = cli.config
        data = ImageData(**config.data.as_dict())
        data.seed, data.critic_steps = settings.seed, config.model.critic_steps
        channels, size = data.shape
        run = {"seed": settings.seed, "steps": settings.steps, "channels": channels, "size": size}
        gan = GAN(**config.model.as_dict() | run)
        if not estimated(gan.critic):
            raise UserError(f"norm {config.model.norm} of {self.config} estimates no sigma")
        return gan, data, config.trainer.precision


def run(settings: SigmaSettings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    recipes = [
        Recipe(config, norm, passes)
        for config in settings.configs
        for norm in settings.norms or (None,)
        for passes in settings.passes or (None,)
    ]
    made = {each.built(settings)[0]: each for each in recipes}
    # Without a norm that subtracts means, both passes are the same training.
    kept = {_name(gan, each): each for gan, each in made.items()}
    watcher.expect(2 * settings.steps * len(kept))
    rows = [
        _measured(name, recipe, arm, settings, watcher)
        for name, recipe in kept.items()
        for arm in (OURS, ONE)
    ]
    clock = clock_of(settings.device, settings.threads)
    return record("sigma", settings, clock.name, BASELINE, rows, allowed=ALLOWED)


def _name(gan: GAN, recipe: Recipe) -> str:
    words = [recipe.config] + ([recipe.norm] if recipe.norm else [])
    if is_batch_coupled(gan.critic):
        words.append(f"{gan.options.passes} passes")
    return ", ".join(words)


def _measured(
    name: str, recipe: Recipe, arm: str, settings: SigmaSettings, watcher: Watcher
) -> dict[str, Any]:
    gan, data, precision = recipe.built(settings)
    if arm == ONE:
        one_vector(gan.critic)
    watched = Watched(gan, settings, watcher)
    train(gan, data, [watched], settings.device, precision)
    first = next(iter(estimated(gan.critic)))[1]
    largest = max(watched.found, key=lambda step: watched.found[step])
    return {
        "name": f"{name}; {arm}",
        "recipe": name,
        "kind": "norm" if arm == OURS else "reference",
        "estimator": arm,
        "norm": gan.options.norm,
        "vectors": vectors(first),
        "most_iterations": estimators(first)[0].most,
        "measured_updates": len(watched.found),
        "above_allowed": sum(value > ALLOWED for value in watched.found.values()),
        "largest": watched.found[largest],
        "largest_step": largest,
        "at": {str(step): watched.found[step] for step in SHOWN if step in watched.found},
        **thinned(watched.found),
        "cost": asdict(ratio(watched.updates, watched.passes)),
        "seconds": watched.updates,
        "baseline_seconds": watched.passes,
    }


def thinned(found: dict[int, float]) -> dict[str, list[Any]]:
    """As a figure with a logarithmic axis shows it: `sigma` is the largest since the step before.

    found: by step, in order. Every step at first, then some of each power of ten.
    """
    kept = {round(10 ** (k / BY_DECADE)) for k in range(6 * BY_DECADE)} | {max(found)}
    steps: list[int] = []
    sigma: list[float] = []
    since = 0.0
    for step, value in found.items():
        since = max(since, value)
        if step <= EVERY_STEP or step in kept:
            steps.append(step)
            sigma.append(round(since, 6))
            since = 0.0
    return {"steps": steps, "sigma": sigma}


class Watched(Callback):
    """After each update: the largest excess over layers; at `rounds` steps also the times.

    found: by step. updates, passes: seconds of the norm's update, done again from the state before
    it, and of a forward and backward pass of the critic, in turns.
    """

    def __init__(self, gan: GAN, settings: SigmaSettings, watcher: Watcher) -> None:
        self.settings, self.watcher = settings, watcher
        self.clock = clock_of(settings.device, settings.threads)
        self.found: dict[int, float] = {}
        self.updates: list[float] = []
        self.passes: list[float] = []
        steps, rounds = settings.steps, settings.rounds
        # Not the first one, before which a convolution's norm does not know the size of its input.
        self.timed = {2} | {
            max(2, math.ceil(steps * (each + 1) / rounds)) for each in range(rounds)
        }
        slow = any(isinstance(part, OperatorNorm) for _, part in estimated(gan.critic))
        self.thinned = THINNED if slow else 1
        self._before: dict[str, Tensor] = {}
        self.end = time.monotonic() + 60 * (settings.minutes or math.inf)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step + 1 in self.timed:
            assert isinstance(pl_module, GAN)
            self._before = _values(dict(pl_module.critic.named_buffers()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GAN)
        step = trainer.global_step
        if step <= EVERY_STEP or step % self.thinned == 0:
            parts = estimated(pl_module.critic)
            self.found[step] = max(excess(part, weight) for weight, part in parts)
        if step in self.timed and self._before:
            self._time(pl_module, batch)
        self._before = {}
        self.watcher.tick()
        trainer.should_stop = step >= self.settings.steps or time.monotonic() > self.end

    def _time(self, gan: GAN, batch: Tensor) -> None:
        """What follows finds the network as it was; gradients are made anew in each step anyway."""
        critic = gan.critic
        after = _values(_buffers(critic))
        images = batch[: len(batch) // gan.options.critic_steps]
        if gan.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        def both_ways() -> None:
            critic.zero_grad()
            with gan.bank.shared():
                critic(images).float().sum().backward()

        both_ways()  # so that no part of it is the first of its kind
        self.passes.append(self.clock.seconds(both_ways))
        _restore(critic, self._before)
        self.updates.append(self.clock.seconds(gan.bank.update))
        _restore(critic, after)


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    """Their values, and the weights that a projection writes into."""
    named = dict(network.named_buffers())
    for number, (weight, part) in enumerate(estimated(network)):
        if isinstance(part, LipschitzProjection):
            named[f"weight {number}"] = weight
    return named


def _values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in tensors.items()}


@torch.no_grad()
def _restore(network: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in _buffers(network).items():
        if name in values:
            tensor.copy_(values[name])
