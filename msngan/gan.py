"""GAN: a generator and a critic, one generator update a batch."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from msngan import norms
from msngan.losses import LOSSES, PENALTIES, LossName, PenaltyName
from msngan.networks import CRITICS, GENERATORS, CriticName, GeneratorName, draw_samples, frozen
from msngan.networks.updates import Decay, TrainedModule, update_average
from msngan.norms import NormName, SigmaBank, configured, convert
from msngan.norms.parts import widened
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.checkpoint_files import load_plain
from msngan.runs.folder import UserError
from msngan.runs.option_values import check_ranges
from msngan.runs.options import (
    AtLeastOne,
    Count,
    Fraction,
    Network,
    NotNegative,
    Positive,
    SetByFit,
    named,
    present_names,
)

BATCH_NORMS = {"batch", "batch_no_gain"}


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of GAN's arguments that is out of range or cannot go with another."""
    check_ranges("gan", "model", given)
    with named("--model.norm_options"):
        configured(given["norm"], given["norm_options"] or {})
    norms = (given["norm"], given["other_norm"])
    if given["generator_statistics"] == "last" and BATCH_NORMS & {*norms}:
        raise UserError(
            f"--model.generator_statistics last with --model.norm {given['norm']}: batch norm keeps"
            " no statistics of its last batch; use batch"
        )
    penalty = PENALTIES[given["penalty"]]
    if given["compile"] and penalty.value is not None and not penalty.of_weights:
        raise UserError(
            f"--model.compile with --model.penalty {given['penalty']}: torch.compile has no"
            " second derivative; drop one of them"
        )
    everywhere = penalty.of_weights and given["norm_layers"] is None
    if everywhere and scale_free(given["norm"], given["norm_options"] or {}):
        raise UserError(
            f"--model.penalty {given['penalty']} with --model.norm {given['norm']}: the norm undoes"
            " any change of sigma; use another norm (none or batch, say) or penalty"
        )


def scale_free(norm: str, options: dict[str, Any]) -> bool:
    """Whether a factor of a layer's weight changes nothing in what the layer computes with."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        layer = convert(nn.Linear(4, 6, bias=False), norm, head="", **options).eval()
        x, parameter = torch.randn(5, 4), next(layer.parameters())
    with torch.no_grad(), torch.device("cpu"):
        before = layer(x)
        parameter.mul_(0.125)
        return torch.allclose(layer(x), before, rtol=1e-3)


if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer


class GAN(TrainedModule):
    """Generator, critic, their losses and the step that trains them.

    One batch is one step: `critic_steps` updates of the critic, each on its own part of the batch,
    then one of the generator. `trainer.global_step` counts generator updates. Every random number
    of a step is derived from (seed, step, rank), so nothing about randomness is saved.

    A batch-coupled norm (batch, mean_spectral, ...) subtracts a mean over the images of a critic
    batch. In separate batches (DCGAN's habit) this removes whatever real and fake images differ in
    on average, above all their colour, so the critic cannot see it. In a joint batch both lose the
    same mean, and the critic is stronger. Running statistics are updated in the critic's own passes
    (real first), never in the generator's, a penalty's or an evaluation.

    Args:
        norm: norm of the critic's layers.
        norm_options: options of the norm, such as {gain: true}; --model.norm_options.gain true
            sets one.
        norm_layers: critic layers that get the norm; null: all. A list of indices (0 to 6 are the
            convolutions, 7 is the head), names or patterns (body.*; "!head" excludes), or kinds
            (Linear).
        other_norm: norm of the layers that norm_layers leaves out.
        loss: loss of critic and generator.
        penalty: penalty that keeps the critic smooth, besides its norm.
        penalty_weight: weight of the penalty (of clip: the bound); null: the one in its paper.
        penalty_statistics: means and variances that a norm over the batch (batch, mean_spectral)
            uses in the penalty: running ones, so that it is per image, as its papers assume, or
            those of the batch, as most code does.
        critic: architecture of the critic (discriminator); cnn_wide is that of the official SNGAN
            code.
        generator: architecture of the generator.
        width: channels of the generator's last and the critic's first layer.
        critic_width: channels of the critic's first layer; null: the same as width.
        latent_dim: size of the latent vector z ~ N(0, 1).
        slope: slope of the critic's LeakyReLU for negative inputs.
        conv_bias: keep convolution biases that the norm cancels, as the published networks do.
        power_iteration: when the estimate of sigma, the largest singular value, is improved: once
            per critic update, or in each forward pass, as PyTorch's layers do, which costs more.
        critic_batch: whether the critic scores real and fake images in separate batches or in one
            joint batch. It matters only for a norm over the batch (batch, mean_spectral).
        generator_statistics: means that a centring norm (mean_spectral) subtracts in the
            generator's update: those of the generated batch, or the last ones of the critic's
            update as constants, which saves a quarter of a step's time.
        critic_steps: critic updates per step.
        generator_lr: learning rate of the generator's Adam.
        critic_lr: learning rate of the critic's Adam.
        generator_betas: decay rates of the generator's Adam.
        critic_betas: decay rates of the critic's Adam.
        lr_decay: how both learning rates fall to zero over the run.
        ema_decay: decay per step of the generator's moving average, which is used for samples and
            scores; 0: no average.
        channels_last: use the channels-last memory layout, which is faster on most hardware.
        compile: run both networks through torch.compile; not with a gradient penalty.
        seed: seed of all random numbers.
        steps: length of the run in steps, for lr_decay.
        channels: channels of the images.
        size: height and width of the images in pixels.
    """

    task = "gan"
    rates = ("generator_lr", "critic_lr")  # options of the optimizers, in their order
    trained = ("generator", "critic")  # names of the networks that are trained
    shorter = "fewer --steps or a smaller --model.width take less"
    # What to try again with after a divergence.
    remedy = (
        "lower --model.generator_lr and --model.critic_lr, another --model.norm or"
        " --model.penalty, or --trainer.precision 32-true"
    )

    def __init__(
        self,
        norm: Network[NormName] = "mean_spectral",
        norm_options: Network[dict[str, bool | int | float | str] | None] = None,
        norm_layers: Network[list[int | str] | None] = None,
        other_norm: Network[NormName] = "none",
        loss: LossName = "hinge",
        penalty: PenaltyName = "none",
        penalty_weight: NotNegative | None = None,
        penalty_statistics: Literal["running", "batch"] = "running",
        critic: Network[CriticName] = "cnn",
        generator: Network[GeneratorName] = "dcgan",
        width: Network[Count] = 64,
        critic_width: Network[Count | None] = None,
        latent_dim: Network[Count] = 128,
        slope: NotNegative = 0.1,
        conv_bias: Network[bool] = False,
        power_iteration: Literal["update", "pass"] = "update",
        critic_batch: Literal["separate", "joint"] = "separate",
        generator_statistics: Literal["batch", "last"] = "batch",
        critic_steps: Count = 1,
        generator_lr: Positive = 2e-4,
        critic_lr: Positive = 2e-4,
        generator_betas: tuple[Fraction, Fraction] = (0.5, 0.999),
        critic_betas: tuple[Fraction, Fraction] = (0.5, 0.999),
        lr_decay: Decay = "none",
        ema_decay: Fraction = 0.999,
        channels_last: bool = True,
        compile: bool = False,
        seed: SetByFit[int] = 0,
        steps: SetByFit[AtLeastOne] = 100_000,
        channels: SetByFit[Network[Count]] = 3,
        size: SetByFit[Network[Count]] = 32,
    ) -> None:
        super().__init__()
        check_options(locals())
        self.save_hyperparameters()
        self.automatic_optimization = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(seed, 0, 0, "init"))
            self.generator = GENERATORS[generator](latent_dim, width, channels, size)
            shape = (critic_width or width, channels, size)
            on = dict(norm_options=norm_options, norm_layers=norm_layers, other_norm=other_norm)
            with named(f"--model.critic {critic}"):
                self.critic = CRITICS[critic](norm, *shape, slope, conv_bias, **on)
            if (prepare := PENALTIES[penalty].prepare) is not None:
                prepare(self.critic)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False) if ema_decay > 0 else None
        self.loss, self.penalty = LOSSES[loss], PENALTIES[penalty]
        self.penalty_weight = self.penalty.weight if penalty_weight is None else penalty_weight
        self.bank = SigmaBank(self.critic, each_pass=power_iteration == "pass")
        self.joint = critic_batch == "joint" and norms.is_batch_coupled(self.critic)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.generator.compile()
            self.critic.compile()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """Lightning's, for a file whose options have former names too (passes: critic_batch)."""
        with suppress(OSError, TypeError, UnpicklingError):  # Lightning's own answer follows
            saved = load_plain(Path(checkpoint_path), "cpu").get("hyper_parameters")
            options = (present_names(saved, "model") or {}) | options
        return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        o = self.options
        betas = tuple(o.generator_betas), tuple(o.critic_betas)
        generator = torch.optim.Adam(self.generator.parameters(), o.generator_lr, betas[0])
        critic = torch.optim.Adam(self.critic.parameters(), o.critic_lr, betas[1])
        norms.follow(self.bank.parts, critic)
        return generator, critic

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """batch: (critic_steps * n, C, H, W) in [-1, 1]. Returns the step's losses and logits."""
        step = self.begin_step()
        generator_optimizer, critic_optimizer = cast("list[LightningOptimizer]", self.optimizers())
        # Lightning re-installs these counters before each batch. Without the critic's, one global
        # step is one generator update, whatever critic_steps is.
        critic_optimizer._on_before_step = critic_optimizer._on_after_step = lambda: None
        batch = self.laid_out(batch)
        latents = self._latents(len(batch), step, "critic", self.options.critic_steps)
        chunk = len(batch) // self.options.critic_steps
        draw = rng.generator(self.options.seed, step, 0, "penalty", self.device)
        figures: dict[str, Tensor] = {}
        for real, z in zip(batch.split(chunk), latents.split(chunk), strict=True):
            figures = self._critic_update(critic_optimizer, real, z, draw)
        z = self._latents(chunk, step, "generator")
        figures |= self._generator_update(generator_optimizer, batch[-chunk:], z)
        self.refuse_nan(figures, step)
        if self.ema is not None:
            update_average(self.ema, self.generator, self.options.ema_decay, step)
        self.to_loggers(figures)
        return figures

    def _critic_update(
        self, optimizer: LightningOptimizer, real: Tensor, z: Tensor, draw: torch.Generator
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generator(z)
        with self.bank.shared():
            real_logits, fake_logits = self._score(real, fake, self.joint)
            adversarial = self.loss.critic(real_logits, fake_logits)
            penalty = self._penalty(real, fake, draw)
        total = adversarial if penalty is None else adversarial + self.penalty_weight * penalty
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()
        if self.penalty.project is not None:
            self.penalty.project(self.critic, self.penalty_weight)
        self.bank.update()
        figures = {
            "critic_loss": adversarial,
            "real_logit": real_logits.mean(),
            "fake_logit": fake_logits.mean(),
        }
        figures |= norms.gate_figures(self.bank.parts)
        if penalty is not None:
            figures["penalty"] = penalty
        return {name: value.detach() for name, value in figures.items()}

    def _score(self, real: Tensor, fake: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
        """Logits of real and fake images, (n,) each, at least float32, of all processes.

        joint: in one forward pass of the critic, not in two.
        """
        if not joint:
            return self._logits(real), self._logits(fake)
        halves = widened(self.critic(torch.cat([real, fake]))).split(len(real))
        return processes.gathered(halves[0]), processes.gathered(halves[1])

    def _logits(self, images: Tensor) -> Tensor:
        """Logits (n,) of the images of all processes."""
        return processes.gathered(widened(self.critic(images)))

    def _penalty(self, real: Tensor, fake: Tensor, draw: torch.Generator) -> Tensor | None:
        if self.penalty.value is None:
            return None
        with norms.statistics(self.critic, self.options.penalty_statistics):
            return processes.mean(self.penalty.value(self.critic, real, widened(fake), draw))

    def _generator_update(
        self, optimizer: LightningOptimizer, real: Tensor, z: Tensor
    ) -> dict[str, Tensor]:
        # The critic's weights need no gradient here: that saves a third of its backward pass.
        means = self.options.generator_statistics
        joint = self.joint and means == "batch"
        with frozen(self.critic), self.bank.shared(), norms.statistics(self.critic, means):
            fake = self.generator(z)
            if joint or self.loss.paired:
                real_logits, fake_logits = self._score(real, fake, joint)
            else:
                real_logits, fake_logits = fake.new_empty(0), self._logits(fake)
            loss = self.loss.generator(real_logits, fake_logits)
            optimizer.zero_grad()
            self.manual_backward(loss)
        optimizer.step()
        return {"generator_loss": loss.detach()}

    def _latents(self, count: int, step: int, stream: rng.Stream, parts: int = 1) -> Tensor:
        draw = rng.generator(self.options.seed, step, 0, stream, self.device)
        return processes.normal((count, self.options.latent_dim), draw, self.device, parts)

    def sampler(self, ema: bool = True) -> nn.Module:
        """The network that samples: the moving average if there is one and it is wanted."""
        return self.ema if ema and self.ema is not None else self.generator

    def sample(self, count: int, seed: int, ema: bool = True) -> Tensor:
        """uint8 (count, C, H, W), eval mode; the same seed gives the same latents."""
        return torch.cat(list(draw_samples(self.sampler(ema), count, seed)))
