"""Collapse checks: health.jsonl, and a warning when the critic or generator stops working."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import images as convert
from msngan.gan import GAN
from msngan.losses import LOSSES
from msngan.networks import evaluating
from msngan.runs import rng
from msngan.runs.jsonl import read_lines
from msngan.runs.options import Every, Record
from msngan.training import collapse_rules
from msngan.training.callbacks.run_callback import RunCallback, data_of

PROBES = 64  # real images, and samples
LEAST = 0.01  # root mean square below which a weight's growth does not count


class CollapseChecks(RunCallback):
    """Checks for a collapsed critic or generator and for exploding weights; warns once of each.

    A check is one pass of each network over 64 images, in eval mode, and the norm of every weight.
    It leaves every bit of training as it is.

    Args:
        every: steps between checks for a collapse; 0: none.
    """

    def __init__(self, every: Record[Every] = 100) -> None:
        self.every = every
        self._lines: list[collapse_rules.Line] = []
        self._start: dict[str, float] = {}
        self._real: Tensor | None = None
        self._distance = 0.0  # mean, between two real images

    def begin(self, module: LightningModule) -> None:
        """Measure the initial weights, before a checkpoint is loaded into them."""
        self._start = weight_sizes(module) if self.every else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_until(trainer, self.run.health)
        if not self.every:
            return
        self._lines = read_lines(self.run.health)
        if cast(GAN, pl_module).task == "gan":
            data = data_of(trainer)
            real = convert.to_float(data.real[:PROBES]).to(pl_module.device, _dtype(pl_module))
            self._real, self._distance = real, _distance(real)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Tensor],  # type: ignore[override]
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if not self.every or step % self.every or not trainer.is_global_zero:
            return
        line: collapse_rules.Line = {"step": step}
        if self._real is not None:
            with trainer.precision_plugin.forward_context():
                line |= self._of_gan(cast(GAN, pl_module), outputs, step)
        line |= _growth(self._start, weight_sizes(pl_module))
        self.append(trainer, self.run.health, line)
        self._lines.append(line)
        for text in collapse_rules.warnings(self._lines):
            self.saving.say(f"warning: {text}")

    def _of_gan(self, gan: GAN, outputs: Mapping[str, Tensor], step: int) -> collapse_rules.Line:
        assert self._real is not None
        draw = rng.generator(gan.options.seed, step, 0, "health")
        z = torch.randn(PROBES, gan.options.latent_dim, generator=draw)
        with evaluating(gan.generator), evaluating(gan.critic):
            fake = gan.generator(z.to(gan.device, _dtype(gan))).to(self._real.dtype)
            logits = gan.critic(torch.cat([self._real, fake])).float()
        named = ("critic_loss", "real_logit", "fake_logit")
        seen = {name: float(outputs[name]) for name in named}
        middle = torch.tensor([(seen["real_logit"] + seen["fake_logit"]) / 2])
        loss = LOSSES[gan.options.loss].critic
        gradients = [p.grad for p in gan.generator.parameters() if p.grad is not None]
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
        count = sum(gradient.numel() for gradient in gradients)
        found = {
            **seen,
            "fixed_loss": float(loss(middle, middle)),
            "blank_loss": float(loss(0 * middle, 0 * middle)),
            "logit_spread": float(logits.std()),
            "generator_gradient": float((squares / count).sqrt()),
            "sample_distance": _distance(fake) / max(self._distance, 1e-12),
        }
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


@torch.no_grad()
def weight_sizes(module: LightningModule) -> dict[str, float]:
    """By layer: sigma of its weight where the norm keeps one, else the weight's Euclidean norm.

    At least the size of a weight whose entries have root mean square LEAST.
    """
    names: list[str] = []
    found: list[Tensor] = []
    least: list[float] = []
    for network in cast(GAN, module).trained:
        for name, layer in getattr(module, network).named_modules():
            weight = getattr(layer, "weight", None)
            if not isinstance(weight, Tensor) or weight.dim() < 2:
                continue
            sigma = getattr(getattr(layer, "weight_norm", None), "last_sigma", None)
            kept = isinstance(sigma, Tensor)
            names.append(f"{'sigma' if kept else 'the norm'} of {network}.{name}.weight")
            found.append(sigma.float() if isinstance(sigma, Tensor) else weight.float().norm())
            least.append(LEAST if kept else LEAST * math.sqrt(weight.numel()))
    values = torch.stack(found).tolist() if found else []
    sized = zip(names, values, least, strict=True)
    return {name: max(value, floor) for name, value, floor in sized}


def _growth(before: Mapping[str, float], now: Mapping[str, float]) -> collapse_rules.Line:
    """The largest growth of a weight since the start, and its name."""
    ratios = {name: size / before[name] for name, size in now.items() if name in before}
    if not ratios:
        return {}
    name = max(ratios, key=lambda each: ratios[each])
    ratio = ratios[name]
    return {"growth": ratio if math.isfinite(ratio) else None, "grown": name}


def _distance(images: Tensor) -> float:
    """Mean Euclidean distance between two of the images (N, ...), N > 1."""
    return float(torch.pdist(images.flatten(1).float()).mean())


def _dtype(module: LightningModule) -> torch.dtype:
    return cast(torch.dtype, module.dtype)
