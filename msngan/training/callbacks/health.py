"""health.jsonl: whether critic and generator are still at work, and a warning where not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from msngan.data import images as convert
from msngan.losses import LOSSES
from msngan.networks import evaluating
from msngan.runs import rng
from msngan.runs.jsonl import read_lines
from msngan.runs.options import Every, Record
from msngan.training import collapse as health
from msngan.training.callbacks.base import RunCallback, callbacks_of
from msngan.training.callbacks.progress import Progress

if TYPE_CHECKING:
    from msngan.data import ImageData
    from msngan.gan import GAN

PROBES = 64  # real images, and samples
LEAST = 0.01  # root mean square of a weight from which its growth counts


class Health(RunCallback):
    """Looks for a collapse, and warns once: of critic or generator, or of a weight that explodes.

    A check is one pass of each network over 64 images, in eval mode, and the norm of every weight;
    it leaves every bit of training as it is.

    Args:
        every: steps between checks for a collapse; 0: none.
    """

    def __init__(self, every: Record[Every] = 100) -> None:
        self.every = every
        self._lines: list[health.Line] = []
        self._start: dict[str, float] = {}
        self._real: Tensor | None = None
        self._distance = 0.0  # mean, between two real images

    def begin(self, module: LightningModule) -> None:
        """Measure the weights that the seed gives; for before a checkpoint is read into them."""
        self._start = sizes(networks(module)) if self.every else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.keep_until(trainer, self.run.health)
        if not self.every:
            return
        self._lines = read_lines(self.run.health)
        if cast("GAN", pl_module).task == "gan":
            data = cast("ImageData", getattr(trainer, "datamodule"))  # noqa: B009  set by fit()
            real = convert.to_float(data.real[:PROBES]).to(pl_module.device, _dtype(pl_module))
            self._real, self._distance = real, distance(real)

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
        line: health.Line = {"step": step}
        if self._real is not None:
            with trainer.precision_plugin.forward_context():
                line |= self._of_gan(cast("GAN", pl_module), outputs, step)
        line |= grown(self._start, sizes(networks(pl_module)))
        self.append(trainer, self.run.health, line)
        self._lines.append(line)
        for text in health.warnings(self._lines):
            for progress in callbacks_of(trainer, Progress):
                progress.say(f"warning: {text}")

    def _of_gan(self, gan: GAN, outputs: Mapping[str, Tensor], step: int) -> health.Line:
        assert self._real is not None
        draw = rng.generator(self.seed, step, 0, "health")
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
            "sample_distance": distance(fake) / max(self._distance, 1e-12),
        }
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


def networks(module: LightningModule) -> dict[str, nn.Module]:
    """Those that are trained, by name."""
    return {name: getattr(module, name) for name in cast("GAN", module).trained}


@torch.no_grad()
def sizes(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """What each layer's weight measures: sigma where its norm keeps one, else the weight's norm.

    The smallest that is told from nothing is that of a weight of entries around LEAST.
    """
    names: list[str] = []
    found: list[Tensor] = []
    least: list[float] = []
    for network, whole in networks.items():
        for name, layer in whole.named_modules():
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


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> health.Line:
    """The largest growth since the start, and of what."""
    ratios = {name: size / before[name] for name, size in now.items() if name in before}
    if not ratios:
        return {}
    name = max(ratios, key=lambda each: ratios[each])
    ratio = ratios[name]
    return {"growth": ratio if math.isfinite(ratio) else None, "grown": name}


def distance(images: Tensor) -> float:
    """Mean Euclidean distance between two of the images (N, ...), N > 1."""
    return float(torch.pdist(images.flatten(1).float()).mean())


def _dtype(module: LightningModule) -> torch.dtype:
    return cast(torch.dtype, module.dtype)
