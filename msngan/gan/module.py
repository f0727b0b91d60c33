"""GAN: a generator and a critic, one generator update a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from msngan.data import ImageData
from msngan.gan.allowed import check_options, latent_dim_of, of_each_penalty, weighted_penalties
from msngan.gan.game import Game
from msngan.losses import LOSSES, PENALTIES, Augment, LossName, PenaltyName
from msngan.networks import CriticName, GeneratorName, draw_samples
from msngan.networks.build import build_critic, build_generator
from msngan.networks.conditional import Conditioning
from msngan.networks.initialisation import InitName, initialise
from msngan.networks.optimizers import OptimizerName, make_optimizer
from msngan.networks.sampling import applied
from msngan.networks.updates import Decay
from msngan.norms import NormName, SigmaBank, follow, is_batch_coupled, statistics
from msngan.runs import rng
from msngan.runs.checkpoint_files import load_plain
from msngan.runs.options import (
    MODULE,
    AtLeastOne,
    Count,
    Fraction,
    Network,
    NotNegative,
    OwnOptions,
    Positive,
    Range,
    SetByFit,
    named,
    present_names,
)


class GAN(Game):
    """Generator, critic, their losses and the step that trains them.

    One batch is one step: `critic_steps` updates of the critic, each on its own part of the batch,
    then one of the generator. With `accumulate`, an update takes that many parts.
    `trainer.global_step` counts generator updates. Every random number of a step is derived from
    (seed, step, rank), so nothing about randomness is saved.

    A conditional GAN is given the labels of the images. In the critic's update the fake images have
    the labels of the real ones beside them, so both have the classes of the data in equal shares;
    the generator's update has those of the last part of the batch. A penalty takes a fake image for
    one of that class.

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
        penalty_every: take the penalty at every n-th critic update only, with n times its weight,
            which saves time (lazy regularisation); several as [16, 1], one for each.
        penalty_statistics: means and variances that a norm over the batch (batch, mean_spectral)
            uses in the penalty: running ones, so that it is per image, as its papers assume, or
            those of the batch, as most code does.
        critic: architecture of the critic (discriminator); cnn_wide is that of the official SNGAN
            code, cnn_deep is for 64 pixels and more, resnet is SNGAN's residual network. In Python
            also a module from images (N, C, H, W) to logits (N,) or (N, 1).
        generator: architecture of the generator; dcgan_deep and resnet as for the critic. In Python
            also a module from z (N, latent_dim) to images (N, C, H, W) in [-1, 1].
        generator_norm: norm of the generator's layers, besides its batch norm.
        conditional: generate images of a class that is asked for; the data need labels. The
            generator's batch norms then have a gain and an offset for each class.
        conditioning: how the critic judges the class of an image: projection (a vector for each
            class times the features; Miyato & Koyama 2018), or acgan (a classifier beside the
            critic, which both networks train by its cross-entropy; Odena et al. 2017).
        class_weight: weight of acgan's cross-entropy, in the losses of both networks.
        attention: size of the map, in pixels, after which the residual networks (resnet) have a
            layer of self-attention (SAGAN), such as 16; null: none.
        width: channels of the generator's last and the critic's first layer.
        critic_width: channels of the critic's first layer; null: the same as width.
        latent_dim: size of the latent vector z ~ N(0, 1).
        slope: slope of the critic's LeakyReLU for negative inputs; resnet has ReLU.
        conv_bias: keep convolution biases that the norm cancels, as the published networks do.
        init: first weights of both networks: own, each architecture's, or normal, orthogonal,
            xavier (uniform) or kaiming (normal, by the inputs of a layer).
        init_gain: factor of these weights, the standard deviation of normal; null: 0.02 for normal,
            1 for orthogonal and xavier, the square root of 2 for kaiming.
        power_iteration: when the estimate of sigma, the largest singular value, is improved: once
            per critic update, or in each forward pass, as PyTorch's layers do, which costs more.
        critic_batch: whether the critic scores real and fake images in separate batches or in one
            joint batch. It matters only for a norm over the batch (batch, mean_spectral).
        generator_statistics: means that a centring norm (mean_spectral) subtracts in the
            generator's update: those of the generated batch, or the last ones of the critic's
            update as constants, which saves a quarter of a step's time.
        critic_steps: critic updates per step.
        accumulate: batches in each update, of which the mean gradient is taken: that of one batch
            as large as all, except that a norm over the batch, dragan and lecam see each batch by
            itself.
        optimizer: optimizer of both networks.
        generator_lr: learning rate of the generator.
        critic_lr: learning rate of the critic.
        generator_betas: decay rates of the optimizer's averages of the generator's gradients and
            their squares. sgd takes the first, as its momentum, and rmsprop the second (torch's own
            is 0.99).
        critic_betas: the same of the critic's.
        weight_decay: factor of each weight matrix that is added to its gradient, or with adamw
            taken from the weight at the learning rate. Not of biases, gains and offsets, such as
            MSN's m and those of a conditional batch norm.
        gradient_clip: largest norm of a network's gradients, all taken together, in an update;
            null: any.
        lr_decay: how both learning rates fall to zero over the run.
        ema_decay: decay per step of the generator's moving average, which is used for samples and
            scores; 0: no average.
        channels_last: use the channels-last memory layout, which is faster on most hardware.
        compile: run both networks through torch.compile; not with a gradient penalty.
        generator_options: options of a registered generator, by name.
        critic_options: options of a registered critic, by name.
        augment: options of the augmentation, by name, as {"policy": ["color", "translation"]}; see
            msngan.losses.augment.Augment.
        seed: seed of all random numbers.
        steps: length of the run in steps, for lr_decay.
        channels: channels of the images.
        size: height and width of the images in pixels.
        classes: number of classes of a conditional GAN's labels, 0 to classes - 1.
    """

    task = "gan"
    rates = ("generator_lr", "critic_lr")  # options of the optimizers, in their order
    trained = ("generator", "critic")  # names of the networks that are trained
    shorter = "fewer --steps or a smaller --model.width take less"
    # What to try again with after a divergence.
    remedy = (
        "lower --model.generator_lr and --model.critic_lr, another --model.norm or"
        " --model.penalty, a --model.gradient_clip, or --trainer.precision 32-true"
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
        penalty_every: Count | list[Count] = 1,
        penalty_statistics: Literal["running", "batch"] = "running",
        critic: Network[CriticName] = "cnn",
        generator: Network[GeneratorName] = "dcgan",
        generator_norm: Network[NormName] = "none",
        conditional: Network[bool] = False,
        conditioning: Network[Conditioning] = "projection",
        class_weight: NotNegative = 1.0,
        attention: Network[Count | None] = None,
        width: Network[Count] = 64,
        critic_width: Network[Count | None] = None,
        latent_dim: Network[Count] = 128,
        slope: NotNegative = 0.1,
        conv_bias: Network[bool] = False,
        init: Network[InitName] = "own",
        init_gain: Network[Positive | None] = None,
        power_iteration: Literal["update", "pass"] = "update",
        critic_batch: Literal["separate", "joint"] = "separate",
        generator_statistics: Literal["batch", "last"] = "batch",
        critic_steps: Count = 1,
        accumulate: Count = 1,
        optimizer: OptimizerName = "adam",
        generator_lr: Positive = 2e-4,
        critic_lr: Positive = 2e-4,
        generator_betas: tuple[Fraction, Fraction] = (0.5, 0.999),
        critic_betas: tuple[Fraction, Fraction] = (0.5, 0.999),
        weight_decay: NotNegative = 0.0,
        gradient_clip: Positive | None = None,
        lr_decay: Decay = "none",
        ema_decay: Fraction = 0.999,
        channels_last: bool = True,
        compile: bool = False,
        generator_options: SetByFit[Network[OwnOptions]] = None,
        critic_options: SetByFit[Network[OwnOptions]] = None,
        augment: SetByFit[dict[str, list[str] | float | str | None] | None] = None,
        seed: SetByFit[int] = 0,
        steps: SetByFit[AtLeastOne] = 100_000,
        channels: SetByFit[Network[Count]] = 3,
        size: SetByFit[Network[Count]] = 32,
        classes: SetByFit[Network[Annotated[int, Range(0, 2**20)]]] = 0,
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
            initialise(self.generator, init, init_gain)
            initialise(self.critic, init, init_gain)
            weights = weighted_penalties(penalty, penalty_weight)
            self.penalties = [(name, PENALTIES[name], weight) for name, weight in weights.items()]
            for _, each, _ in self.penalties:
                if each.prepare is not None:
                    each.prepare(self.critic)
        if generator_statistics == "last":
            with named("--model.generator_statistics last"), statistics(self.critic, "last"):
                pass  # a batch norm within a critic of one's own is refused
        self.ema = copy.deepcopy(self.generator).requires_grad_(False) if ema_decay > 0 else None
        self.penalty_every = of_each_penalty("every", penalty, penalty_every)
        self.loss, self.augment = LOSSES[loss], Augment.chosen(augment)
        self.bank = SigmaBank(self.critic, each_pass=power_iteration == "pass")
        self.generator_bank = SigmaBank(self.generator)
        self.banks = self.bank, self.generator_bank
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
        how = o.optimizer, o.weight_decay, o.gradient_clip
        generator = make_optimizer(self.generator, o.generator_lr, o.generator_betas, *how)
        critic = make_optimizer(self.critic, o.critic_lr, o.critic_betas, *how)
        follow(self.bank.parts, critic)
        follow(self.generator_bank.parts, generator)
        return generator, critic

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of z (N, latent_dim), from the network that samples.

        labels: int64 (N,), for a conditional GAN.
        """
        images: Tensor = applied(self.sampler(), z, labels)
        return images

    def on_train_start(self) -> None:
        self._looked = isinstance(getattr(self.trainer, "datamodule"), ImageData)  # noqa: B009
        steps, last = self.options.steps, self.trainer.max_steps
        if self.options.lr_decay != "none" and last > 0 and last != steps:
            rank_zero_warn(
                f"lr_decay {self.options.lr_decay} ends at step {steps}, the Trainer at {last};"
                f" give GAN(steps={last}) if it should end there"
            )

    def sampler(self, ema: bool = True) -> nn.Module:
        """The network that samples: the moving average if there is one and it is wanted."""
        return self.ema if ema and self.ema is not None else self.generator

    def sample(
        self,
        count: int,
        seed: int,
        ema: bool = True,
        labels: Tensor | Sequence[int] | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """uint8 (count, C, H, W), eval mode; the same seed gives the same latents.

        labels: whole numbers (count,), for a conditional GAN; None: each class in turn. truncation:
        the largest number in a latent, see `msngan.networks.latents`. ValueError for other labels.
        """
        network = self.sampler(ema)
        batches = draw_samples(network, count, seed, labels=labels, truncation=truncation)
        return torch.cat([*batches])


OPTIONS = frozenset(signature(GAN).parameters)  # names of its arguments
