"""Collapse checks: health.jsonl, and a warning when the critic or generator stops working.

The rules are pure functions over the lines, so that a resumed run reports what an uninterrupted one
does, and reports it once. Their bounds are rules of thumb, not from any paper; runs that learn stay
far from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import images as convert
from msngan.gan import GAN
from msngan.losses import LOSSES
from msngan.networks import evaluating
from msngan.networks.sampling import applied, labels_in_turn
from msngan.runs import rng
from msngan.runs.jsonl import read_lines
from msngan.runs.options import Every, Record
from msngan.runs.safe_read import number
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of

PROBES = 64  # real images, and samples
LEAST = 0.01  # root mean square below which a weight's growth does not count
IN_A_ROW = 3  # checks that must agree; a single one may be an accident
WARM_UP = 1000  # steps during which a constant critic or equal samples are normal
SPREAD = 1e-4  # of a critic's logits over images, in units of a loss's margin, 1
FIXED = 1e-3  # distance of a loss from that of a constant critic
WON = 1e-3  # share of the loss of a critic that knows nothing
VANISHED = 1e-10  # root mean square of a gradient
SAME = 0.02  # distance between samples, as a share of that between real images
GROWN = 100.0  # times a weight's size before the first step

Line = dict[str, Any]  # of health.jsonl


class CollapseChecks(RunCallback):
    """Checks for a collapsed critic or generator and for exploding weights; warns once of each.

    A check is one pass of each network over 64 images, in eval mode, and the norm of every weight.
    It leaves every bit of training as it is.

    Args:
        every: steps between checks for a collapse; 0: none.
    """

    def __init__(self, every: Record[Every] = 100) -> None:
        self.every = every
        self._lines: list[Line] = []
        self._start: dict[str, float] = {}
        self._real: Tensor | None = None
        self._labels: Tensor | None = None  # of the real images, then of the samples
        self._distance = 0.0  # mean, between two real images

    def begin(self, module: LightningModule) -> None:
        """Measure the initial weights, before a checkpoint is loaded into them."""
        self._start = weight_sizes(module) if self.every else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep_until(trainer, self.run.health)
        if not self.every:
            return
        self._lines = read_lines(self.run.health)
        if pl_module.task == "gan":
            data, gan = data_of(trainer), cast(GAN, pl_module)
            real = convert.to_float(data.real[:PROBES])
            self._real = real.to(gan.device, cast(torch.dtype, gan.dtype))
            self._distance = _distance(self._real)
            if (own := labels_in_turn(gan.generator, PROBES)) is not None:
                self._labels = torch.cat([data.labels[:PROBES], own]).to(gan.device)

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        step = trainer.global_step
        if not self.every or step % self.every or not trainer.is_global_zero:
            return
        line: Line = {"step": step}
        if self._real is not None:
            with trainer.precision_plugin.forward_context():
                line |= self._of_gan(module, figures, step)
        line |= _growth(self._start, weight_sizes(module))
        self.append(trainer, self.run.health, line)
        self._lines.append(line)
        for text in warnings(self._lines):
            self.saving.say(f"warning: {text}")

    def _of_gan(self, gan: GAN, outputs: Mapping[str, Tensor], step: int) -> Line:
        assert self._real is not None
        draw = rng.generator(gan.options.seed, step, 0, "health")
        z = torch.randn(PROBES, gan.options.latent_dim, generator=draw)
        with evaluating(gan.generator), evaluating(gan.critic):
            own = None if self._labels is None else self._labels[-PROBES:]
            fake = applied(gan.generator, z.to(self._real), own).to(self._real.dtype)
            logits = gan.of_images(self._labels)(torch.cat([self._real, fake])).float()
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
def weight_sizes(module: Any) -> dict[str, float]:
    """By layer: sigma of its weight where the norm keeps one, else the weight's Euclidean norm.

    At least the size of a weight whose entries have root mean square LEAST.
    """
    names: list[str] = []
    found: list[Tensor] = []
    least: list[float] = []
    for network in module.trained:
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


def _growth(before: Mapping[str, float], now: Mapping[str, float]) -> Line:
    """The largest growth of a weight since the start, and its name."""
    ratios = {name: size / before[name] for name, size in now.items() if name in before}
    if not ratios:
        return {}
    name = max(ratios, key=lambda each: ratios[each])
    ratio = ratios[name]
    return {"growth": ratio if math.isfinite(ratio) else None, "grown": name}


def _distance(images: Tensor) -> float:
    """Mean Euclidean distance between two of the images (N, ...), N > 1."""
    return float(torch.pdist(images.flatten(1).float().cpu()).mean())


def warnings(lines: Sequence[Line]) -> list[str]:
    """What the last line of health.jsonl is the first to show, with the step and a remedy."""
    return [text for _, text in found(lines, len(lines) - 1)]


def found(lines: Sequence[Line], first: int = 0) -> Iterator[tuple[int, str]]:
    """(step, sentence) of every fault that begins at lines[first] or later, in order of step."""
    marks = [(fault, _Episode(healthy=fault not in EARLY)) for fault in FAULTS]
    for index, line in enumerate(lines):
        step = line["step"] if isinstance(line.get("step"), int) else 0
        for fault, episode in marks:
            text = fault(line)
            if episode.begins(text is not None, step) and index >= first:
                where = f"at step {step}, in {IN_A_ROW} checks in a row"
                yield step, f"{text} {where}; {FAULTS[fault]}"


class _Episode:
    """A fault begins after IN_A_ROW bad checks and ends after as many good ones.

    healthy: whether bad checks count at once; otherwise they count after the first good one, or
    from WARM_UP on.
    """

    def __init__(self, healthy: bool) -> None:
        self.on, self.healthy, self.bad, self.good = False, healthy, 0, 0

    def begins(self, bad: bool, step: int) -> bool:
        self.healthy = self.healthy or not bad or step >= WARM_UP
        self.bad, self.good = (self.bad + 1, 0) if bad and self.healthy else (0, self.good + 1)
        if self.on and self.good >= IN_A_ROW:
            self.on = False
        if self.on or self.bad < IN_A_ROW:
            return False
        self.on = True
        return True


def constant_critic(line: Line) -> str | None:
    names = ("logit_spread", "critic_loss", "fixed_loss", "real_logit")
    spread, loss, fixed, logit = (number(line.get(name)) for name in names)
    if spread is None or loss is None or fixed is None or logit is None:
        return None
    near = abs(loss - fixed) <= FIXED * max(1.0, abs(fixed))
    if spread > SPREAD * max(1.0, abs(logit)) or not near:
        return None
    return (
        f"the critic does not tell images apart: all its logits are {logit:.3g} and its loss"
        f" {loss:.4g} is that of a constant"
    )


def won_critic(line: Line) -> str | None:
    if constant_critic(line) is not None:  # its gradient vanishes too
        return None
    names = ("critic_loss", "blank_loss", "generator_gradient")
    loss, blank, gradient = (number(line.get(name)) for name in names)
    if loss is not None and blank is not None and blank > 0 and loss <= WON * blank:
        return f"the critic has won: its loss is {loss:.2g}; a critic that guesses has {blank:.3g}"
    if gradient is not None and gradient <= VANISHED:
        return f"the generator learns nothing: its gradient is {gradient:.2g}"
    return None


def same_samples(line: Line) -> str | None:
    share = number(line.get("sample_distance"))
    if share is None or share >= SAME:
        return None
    return (
        f"the generator makes one image: the distance between samples is {share:.2g} of that"
        " between real images"
    )


def grown_weight(line: Line) -> str | None:
    growth = number(line.get("growth"))
    if growth is None or growth <= GROWN:
        return None
    return f"{line.get('grown')} is {growth:.3g} times what it was before the first step"


# Each fault with its remedy.
FAULTS: dict[Callable[[Line], str | None], str] = {
    constant_critic: "try a lower --model.critic_lr, another --model.norm or --model.loss, or a"
    " --model.penalty",
    won_critic: "try a lower --model.critic_lr or --model.critic_steps, a --model.penalty, or"
    " --model.loss nonsaturating",
    same_samples: "try a lower --model.generator_lr, another --model.norm or --model.penalty, or a"
    " larger --data.batch_size",
    grown_weight: "try a lower learning rate, or --model.norm mean_spectral or spectral",
}
EARLY = (constant_critic, same_samples)  # normal before a network has learned anything
