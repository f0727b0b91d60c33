"""GAN: a generator and a critic, one generator update a batch."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from msngan.data import ImageData
from msngan.data import images as convert
from msngan.losses import LOSSES, PENALTIES, LossName, PenaltyName
from msngan.networks import CriticName, GeneratorName, draw_samples, frozen
from msngan.networks.build import build_critic, build_generator
from msngan.networks.updates import Decay, TrainedModule, update_average
from msngan.norms import (
    NormName,
    SigmaBank,
    configured,
    follow,
    gate_figures,
    is_batch_coupled,
    statistics,
)
from msngan.norms import convert as convert_layers
from msngan.norms.parts import widened
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.checkpoint_files import load_plain
from msngan.runs.folder import UserError
from msngan.runs.option_values import check_ranges
from msngan.runs.options import (
    MODULE,
    AtLeastOne,
    Count,
    Fraction,
    Network,
    NotNegative,
    OwnOptions,
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
    for name in weighted_penalties(given["penalty"], given["penalty_weight"]):
        penalty = PENALTIES[name]
        if given["compile"] and penalty.value is not None and not penalty.of_weights:
            raise UserError(
                f"--model.compile with --model.penalty {name}: torch.compile has no second"
                " derivative; drop one of them"
            )
        everywhere = penalty.of_weights and given["norm_layers"] is None
        if everywhere and scale_free(given["norm"], given["norm_options"] or {}):
            raise UserError(
                f"--model.penalty {name} with --model.norm {given['norm']}: the norm undoes any"
                " change of sigma; use another norm (none or batch, say) or penalty"
            )


def weighted_penalties(
    penalty: str | list[str], weight: float | list[float] | None
) -> dict[str, float]:
    """The weight of each penalty, by name; UserError for weights that do not fit the penalties."""
    names = [penalty] if isinstance(penalty, str) else penalty
    weights = weight if isinstance(weight, list) else [weight] * len(names)
    if len(weights) != len(names) or len(set(names)) < len(names):
        raise UserError(
            f"--model.penalty_weight {weight} does not fit --model.penalty {penalty}: give each"
            " penalty once, and one weight for each"
        )
    pairs = zip(names, weights, strict=True)
    return {name: PENALTIES[name].weight if own is None else own for name, own in pairs}


def scale_free(norm: str, options: dict[str, Any]) -> bool:
    """Whether a factor of a layer's weight changes nothing in what the layer computes with."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        layer = convert_layers(nn.Linear(4, 6, bias=False), norm, head="", **options).eval()
        x, parameter = torch.randn(5, 4), next(layer.parameters())
    with torch.no_grad(), torch.device("cpu"):
        before = layer(x)
        parameter.mul_(0.125)
        return torch.allclose(layer(x), before, rtol=1e-3)


if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer


def latent_dim_of(generator: nn.Module | None, otherwise: int) -> int:
    """What a module says of the length of z; UserError where that is no whole number."""
    if generator is None or (own := getattr(generator, "latent_dim", None)) is None:
        return otherwise
    try:
        found = operator.index(own)
    except TypeError:
        raise UserError(
            f"GAN(generator=...): its latent_dim is {own!r:.80}; it must be an int, the length of z"
        ) from None
    check_ranges("gan", "model", {"latent_dim": found})
    return found


def check_alike(fake: Tensor, real: Tensor) -> None:
    """UserError if generated and real images are not of one shape."""
    if fake.shape != real.shape:
        makes, has = ("x".join(map(str, each.shape[1:])) for each in (fake, real))
        raise UserError(
            f"the generator makes images of {makes}, the batch has {has}; give"
            f" GAN(channels={real.shape[1]}, size={real.shape[-1]}), or images of {makes}"
        )


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
        norm: norm of the critic's layers. It is put on a network of your own by `msngan.convert`.
        norm_options: options of the norm, such as {gain: true}; --model.norm_options.gain true
            sets one.
        norm_layers: critic layers that get the norm; null: all. A list of indices (0 to 6 are the
            convolutions, 7 is the head), names or patterns (body.*; "!head" excludes), or kinds
            (Linear).
        other_norm: norm of the layers that norm_layers leaves out.
        loss: loss of critic and generator.
        penalty: penalty that keeps the critic smooth, besides its norm; several as [r1, r2].
        penalty_weight: weight of the penalty (of clip: the bound), or a list of one for each; null:
            the one in its paper.
        penalty_statistics: means and variances that a norm over the batch (batch, mean_spectral)
            uses in the penalty: running ones, so that it is per image, as its papers assume, or
            those of the batch, as most code does.
        critic: architecture of the critic (discriminator); cnn_wide is that of the official SNGAN
            code. In Python also a module from images (N, C, H, W) to logits (N,) or (N, 1).
        generator: architecture of the generator. In Python also a module from z (N, latent_dim) to
            images (N, C, H, W) in [-1, 1].
        generator_norm: norm of the generator's layers, besides its batch norm.
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
        generator_options: options of a registered generator, by name.
        critic_options: options of a registered critic, by name.
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
        penalty: PenaltyName | list[PenaltyName] = "none",
        penalty_weight: NotNegative | list[NotNegative] | None = None,
        penalty_statistics: Literal["running", "batch"] = "running",
        critic: Network[CriticName] = "cnn",
        generator: Network[GeneratorName] = "dcgan",
        generator_norm: Network[NormName] = "none",
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
        generator_options: SetByFit[Network[OwnOptions]] = None,
        critic_options: SetByFit[Network[OwnOptions]] = None,
        seed: SetByFit[int] = 0,
        steps: SetByFit[AtLeastOne] = 100_000,
        channels: SetByFit[Network[Count]] = 3,
        size: SetByFit[Network[Count]] = 32,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in OPTIONS}
        super().__init__()
        check_options(given)
        modules = {name: given[name] for name in self.trained if isinstance(given[name], nn.Module)}
        self.save_hyperparameters(ignore=[*modules])
        given["latent_dim"] = latent_dim_of(modules.get("generator"), latent_dim)
        self.hparams.update({"latent_dim": given["latent_dim"]} | dict.fromkeys(modules, MODULE))
        self.automatic_optimization = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(seed, 0, 0, "init"))
            self.generator = build_generator(given)
            self.critic = build_critic(given)
            weights = weighted_penalties(penalty, penalty_weight)
            self.penalties = [(name, PENALTIES[name], weight) for name, weight in weights.items()]
            for _, each, _ in self.penalties:
                if each.prepare is not None:
                    each.prepare(self.critic)
        if generator_statistics == "last":
            with named("--model.generator_statistics last"), statistics(self.critic, "last"):
                pass  # a batch norm within a critic of one's own is refused
        self.ema = copy.deepcopy(self.generator).requires_grad_(False) if ema_decay > 0 else None
        self.loss = LOSSES[loss]
        self.bank = SigmaBank(self.critic, each_pass=power_iteration == "pass")
        self.generator_bank = SigmaBank(self.generator)
        self.joint = critic_batch == "joint" and is_batch_coupled(self.critic)
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
        follow(self.bank.parts, critic)
        follow(self.generator_bank.parts, generator)
        return generator, critic

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of z (N, latent_dim), from the network that samples."""
        return self.sampler()(z)

    def on_train_start(self) -> None:
        self._looked = isinstance(getattr(self.trainer, "datamodule"), ImageData)  # noqa: B009
        steps, last = self.options.steps, self.trainer.max_steps
        if self.options.lr_decay != "none" and last > 0 and last != steps:
            rank_zero_warn(
                f"lr_decay {self.options.lr_decay} ends at step {steps}, the Trainer at {last};"
                f" give GAN(steps={last}) if it should end there"
            )

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One update of the generator, after critic_steps updates of the critic.

        batch: images (critic_steps * n, C, H, W), float in [-1, 1] or uint8, or (images, labels).
        Returns the step's losses and mean logits. Raises UserError for other batches.
        """
        step = self.begin_step()
        generator_optimizer, critic_optimizer = cast("list[LightningOptimizer]", self.optimizers())
        # Lightning re-installs these counters before each batch. Without the critic's, one global
        # step is one generator update, whatever critic_steps is.
        critic_optimizer._on_before_step = critic_optimizer._on_after_step = lambda: None
        images = self.laid_out(self._images(batch))
        parts = self.options.critic_steps
        chunk = len(images) // parts
        if not chunk:
            raise UserError(f"a batch of {len(images)} images for {parts} critic_steps; give more")
        images = images[: chunk * parts]
        latents = self._latents(len(images), step, "critic", parts)
        draw = rng.generator(self.options.seed, step, 0, "penalty", self.device)
        figures: dict[str, Tensor] = {}
        alone = "a batch leaves one image for an update; give more, or DataLoader(drop_last=True)"
        with named(alone) if chunk == 1 else nullcontext():  # a norm over the batch refuses it
            for real, z in zip(images.split(chunk), latents.split(chunk), strict=True):
                figures = self._critic_update(critic_optimizer, real, z, draw)
            z = self._latents(chunk, step, "generator")
            figures |= self._generator_update(generator_optimizer, images[-chunk:], z)
        self.refuse_nan(figures, step)
        if self.ema is not None:
            update_average(self.ema, self.generator, self.options.ema_decay, step)
        self.to_loggers(figures)
        return figures

    def try_network(self, name: str, images: Tensor) -> None:
        """UserError if the generator or the critic does not fit images of this shape."""
        if name == "generator":
            z = images.new_zeros(len(images), self.options.latent_dim)
            check_alike(self.generator(z), images)
        else:
            self._scored(images)

    def _images(self, batch: Any) -> Tensor:
        """The images of a batch, float in [-1, 1]; UserError for what cannot be that."""
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor) or images.ndim != 4:
            what = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
            raise UserError(f"a batch is {what}; give images (N, C, H, W), or (images, labels)")
        if images.dtype == torch.uint8:
            return convert.to_float(images)
        if not self._looked:
            self._looked = True
            low, high = (float(each) for each in images.aminmax())
            if not -1.01 < low < 0 or not high < 1.01:
                raise UserError(
                    f"the first batch has values from {low:.4g} to {high:.4g}; images are float in"
                    " [-1, 1] or uint8 in [0, 255]: of x in [0, 1] give x * 2 - 1"
                )
        return images

    def _critic_update(
        self, optimizer: LightningOptimizer, real: Tensor, z: Tensor, draw: torch.Generator
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generator(z)
        check_alike(fake, real)
        with self.bank.shared():
            real_logits, fake_logits = self._score(real, fake, self.joint)
            adversarial = self.loss.critic(real_logits, fake_logits)
            penalties = self._penalties(real, fake, draw)
        total = adversarial
        for name, _, weight in self.penalties:
            if name in penalties:
                total = total + weight * penalties[name]
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()
        for _, penalty, weight in self.penalties:
            if penalty.project is not None:
                penalty.project(self.critic, weight)
        self.bank.update()
        figures = {
            "critic_loss": adversarial,
            "real_logit": real_logits.mean(),
            "fake_logit": fake_logits.mean(),
        }
        figures |= gate_figures(self.bank.parts)
        for name, value in penalties.items():
            figures["penalty" if len(penalties) == 1 else f"penalty_{name}"] = value
        return {name: value.detach() for name, value in figures.items()}

    def _score(self, real: Tensor, fake: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
        """Logits of real and fake images, (n,) each, at least float32, of all processes.

        joint: in one forward pass of the critic, not in two.
        """
        if not joint:
            return self._logits(real), self._logits(fake)
        halves = self._scored(torch.cat([real, fake])).split(len(real))
        return processes.gathered(halves[0]), processes.gathered(halves[1])

    def _logits(self, images: Tensor) -> Tensor:
        """Logits (n,) of the images of all processes."""
        return processes.gathered(self._scored(images))

    def _scored(self, images: Tensor) -> Tensor:
        """The critic's logits (n,) of images, at least float32."""
        logits = widened(self.critic(images))
        if logits.shape not in ((len(images),), (len(images), 1)):
            raise UserError(
                f"the critic returns logits of shape {tuple(logits.shape)} for images of shape"
                f" {tuple(images.shape)}; it must return one for each, ({len(images)},) or"
                f" ({len(images)}, 1)"
            )
        return logits.flatten()

    def _penalties(self, real: Tensor, fake: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        """The value of each penalty that is a term of the loss, by name."""
        found = {}
        for name, penalty, _ in self.penalties:
            if penalty.value is not None:
                with statistics(self.critic, self.options.penalty_statistics):
                    value = penalty.value(self.critic, real, widened(fake), draw)
                found[name] = processes.mean(value)
        return found

    def _generator_update(
        self, optimizer: LightningOptimizer, real: Tensor, z: Tensor
    ) -> dict[str, Tensor]:
        # The critic's weights need no gradient here: that saves a third of its backward pass.
        means = self.options.generator_statistics
        joint = self.joint and means == "batch"
        with frozen(self.critic), self.bank.shared(), statistics(self.critic, means):
            fake = self.generator(z)
            if joint or self.loss.paired:
                real_logits, fake_logits = self._score(real, fake, joint)
            else:
                real_logits, fake_logits = fake.new_empty(0), self._logits(fake)
            loss = self.loss.generator(real_logits, fake_logits)
            optimizer.zero_grad()
            self.manual_backward(loss)
        optimizer.step()
        if self.generator_bank.parts:
            self.generator_bank.update()
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


OPTIONS = frozenset(signature(GAN).parameters)  # names of its arguments
