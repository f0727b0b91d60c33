"""GAN: a generator and a critic, one generator update a batch."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from msngan.data import ImageData
from msngan.data import images as convert
from msngan.losses import LOSSES, PENALTIES, Augment, LossName, PenaltyName, ScoredBatch
from msngan.networks import CriticName, GeneratorName, draw_samples, frozen
from msngan.networks.build import build_critic, build_generator, classes_of
from msngan.networks.conditional import Conditioning
from msngan.networks.initialisation import InitName, check_gain, initialise
from msngan.networks.optimizers import OptimizerName, make_optimizer
from msngan.networks.sampling import applied
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
    Range,
    SetByFit,
    named,
    present_names,
)

# Of an update, or a part of it: real images, their labels if there are any, and latents.
Batch = tuple[Tensor, Tensor | None, Tensor]
BATCH_NORMS = {"batch", "batch_no_gain"}
Augmenting = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> the images that the critic scores


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of GAN's arguments that is out of range or cannot go with another."""
    check_ranges("gan", "model", given)
    with named("--model.conditional"):
        classes_of(given)
    acgan = given["conditioning"] == "acgan"
    if acgan and not given["conditional"]:
        raise UserError(
            "--model.conditioning acgan without --model.conditional true: no network sees a label;"
            " give both"
        )
    if given["class_weight"] != 1 and not acgan:
        raise UserError(
            f"--model.class_weight {given['class_weight']} without --model.conditioning acgan: it"
            " weighs nothing; leave it out"
        )
    with named("--model.norm_options"):
        configured(given["norm"], given["norm_options"] or {})
    check_gain(given["init"], given["init_gain"])
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
    for name, every in of_each_penalty("every", given["penalty"], given["penalty_every"]).items():
        if every != 1 and not PENALTIES[name].is_term:
            raise UserError(
                f"--model.penalty_every {every} with --model.penalty {name}: it is no term of the"
                " loss, which could be left out of a step; give it 1, in a list of one for each"
            )
    augment = Augment.chosen(given["augment"])
    if augment and augment.target is not None and LOSSES[given["loss"]].boundary is None:
        raise UserError(
            f"--augment.target with --model.loss {given['loss']}: the sign of its logits means"
            " nothing, so they cannot tell how far the critic overfits; use another loss, or a"
            " fixed --augment.probability"
        )


def of_each_penalty(what: str, penalty: str | list[str], value: Any) -> dict[str, Any]:
    """The value of the option penalty_<what> for each penalty, by name.

    UserError for a list of values that does not fit the penalties.
    """
    names = [penalty] if isinstance(penalty, str) else penalty
    values = value if isinstance(value, list) else [value] * len(names)
    if len(values) != len(names) or len(set(names)) < len(names):
        raise UserError(
            f"--model.penalty_{what} {value} does not fit --model.penalty {penalty}: give each"
            f" penalty once, and one {'weight' if what == 'weight' else 'number'} for each"
        )
    return dict(zip(names, values, strict=True))


def weighted_penalties(
    penalty: str | list[str], weight: float | list[float] | None
) -> dict[str, float]:
    """The weight of each penalty, by name; UserError for weights that do not fit the penalties."""
    weights = of_each_penalty("weight", penalty, weight)
    return {n: PENALTIES[n].weight if own is None else own for n, own in weights.items()}


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


def averaged(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each figure over the batches of an update."""
    if len(found) == 1:
        return found[0]
    return {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}


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
        self.penalty_every: dict[str, int] = of_each_penalty("every", penalty, penalty_every)
        self.loss, self.augment = LOSSES[loss], Augment.chosen(augment)
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

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One update of the generator, after critic_steps updates of the critic.

        batch: images (critic_steps * accumulate * n, C, H, W), float in [-1, 1] or uint8, or
        (images, labels), the labels int64, one for each image. Returns the step's losses and mean
        logits. Raises UserError for other batches.
        """
        step = self.begin_step()
        generator_optimizer, critic_optimizer = cast("list[LightningOptimizer]", self.optimizers())
        # Lightning re-installs these counters before each batch. Without the critic's, one global
        # step is one generator update, whatever critic_steps is.
        critic_optimizer._on_before_step = critic_optimizer._on_after_step = lambda: None
        images, labels = self._images(batch)
        images = self.laid_out(images)
        each = self.options.accumulate  # parts of the batch in an update
        parts = self.options.critic_steps * each
        chunk = len(images) // parts
        if not chunk:
            times = f" x {each} accumulate" if each > 1 else ""
            raise UserError(
                f"a batch of {len(images)} images for {self.options.critic_steps} critic_steps"
                f"{times}; give more"
            )
        real = images[: chunk * parts].split(chunk)
        own = [None] * parts if labels is None else labels[: chunk * parts].split(chunk)
        latents = self._latents(chunk * parts, step, "critic", parts).split(chunk)
        draw = rng.generator(self.options.seed, step, 0, "penalty", self.device)
        augmented = self._augmenting(step)
        figures: dict[str, Tensor] = {}
        alone = "a batch leaves one image for an update; give more, or DataLoader(drop_last=True)"
        with named(alone) if chunk == 1 else nullcontext():  # a norm over the batch refuses it
            batches = [*zip(real, own, latents, strict=True)]
            for index in range(self.options.critic_steps):
                some = batches[index * each : (index + 1) * each]
                number = step * self.options.critic_steps + index + 1
                figures = self._critic_update(critic_optimizer, some, draw, augmented, number)
            latents = self._latents(chunk * each, step, "generator", each).split(chunk)
            some = [*zip(real[-each:], own[-each:], latents, strict=True)]
            figures |= self._generator_update(generator_optimizer, some, augmented)
        if self.augment is not None:
            figures |= self.augment.adapt(step)
        self.refuse_nan(figures, step)
        if self.ema is not None:
            update_average(self.ema, self.generator, self.options.ema_decay, step)
        self.to_loggers(figures)
        return figures

    def try_network(self, name: str, images: Tensor) -> None:
        """UserError if the generator or the critic does not fit images of this shape."""
        some = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        labels = some if self.options.conditional else None
        if name == "generator":
            z = images.new_zeros(len(images), self.options.latent_dim)
            check_alike(applied(self.generator, z, labels), images)
        else:
            self._scored(images, labels)

    def _images(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """The images of a batch, float in [-1, 1], and the labels if they are used.

        UserError for what cannot be that.
        """
        images, *rest = batch if isinstance(batch, tuple | list) and batch else (batch,)
        if not isinstance(images, Tensor) or images.ndim != 4:
            what = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
            raise UserError(f"a batch is {what}; give images (N, C, H, W), or (images, labels)")
        labels = self._labels(images, rest) if self.options.conditional else None
        if images.dtype == torch.uint8:
            images = convert.to_float(images)
        elif not self._looked:
            low, high = (float(each) for each in images.aminmax())
            if not -1.01 < low < 0 or not high < 1.01:
                raise UserError(
                    f"the first batch has values from {low:.4g} to {high:.4g}; images are float in"
                    " [-1, 1] or uint8 in [0, 255]: of x in [0, 1] give x * 2 - 1"
                )
        self._looked = True
        return images, labels

    def _labels(self, images: Tensor, rest: Sequence[Any]) -> Tensor:
        """The labels of a batch; UserError for what cannot be labels of these images."""
        labels, classes = (rest[0] if rest else None), self.options.classes
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
            what = f"of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else "missing"
            raise UserError(
                f"the labels of a batch are {what}; a conditional GAN takes batches (images,"
                f" labels), here labels ({len(images)},)"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise UserError(
                f"the labels of a batch are {labels.dtype}; give whole numbers, such as int64"
            )
        labels = labels.long()
        # Of later batches only where it costs no wait for a GPU.
        looked = self._looked and labels.device.type != "cpu"
        if not looked and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(
                f"a batch has labels from {int(labels.min())} to {int(labels.max())}, the"
                f" GAN {classes} classes, 0 to {classes - 1}; give GAN(classes=...)"
            )
        return labels

    def _augmenting(self, step: int) -> Augmenting:
        """What augments the images that the critic scores in a step."""
        if self.augment is None:
            return lambda images: images
        draw = rng.generator(self.options.seed, step, 0, "augment", self.device)
        return partial(self.augment, draw=draw)

    def _critic_update(
        self,
        optimizer: LightningOptimizer,
        batches: Sequence[Batch],
        draw: torch.Generator,
        augmented: Augmenting,
        number: int,
    ) -> dict[str, Tensor]:
        """number: of critic updates, this one included."""
        backward = self._backward(optimizer, len(batches))
        found = [
            self._critic_losses(*batch, draw, augmented, number, backward) for batch in batches
        ]
        optimizer.step()
        for _, penalty, weight in self.penalties:
            if penalty.project is not None:
                penalty.project(self.critic, weight)
        self.bank.update()
        return averaged(found) | gate_figures(self.bank.parts)

    def _critic_losses(
        self,
        real: Tensor,
        labels: Tensor | None,
        z: Tensor,
        draw: torch.Generator,
        augmented: Augmenting,
        number: int,
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """The critic's losses of one batch, after `backward` of their sum."""
        with torch.no_grad():
            fake = applied(self.generator, z, labels)
            check_alike(fake, real)
            real, fake = augmented(real), augmented(fake)
        with self.bank.shared():
            logits, wrong = self._score(real, fake, labels, self.joint)
            adversarial = self.loss.critic(*logits)
            again = partial(self._again, labels)
            scored = ScoredBatch(self.critic, real, fake, logits[0], logits[1], again, draw)
            penalties = self._penalties(scored, labels, number)
        if self.augment is not None and self.loss.boundary is not None:
            self.augment.observe(logits[0], self.loss.boundary)
        total = adversarial
        for name, _, weight in self.penalties:
            if name in penalties:
                total = total + weight * self.penalty_every[name] * penalties[name]
        if wrong:
            total = total + self.options.class_weight * sum(wrong)
        backward(total)
        figures = {"critic_loss": adversarial}
        figures |= zip(("real_logit", "fake_logit"), (each.mean() for each in logits), strict=True)
        figures |= zip(("real_class_loss", "fake_class_loss"), wrong, strict=False)
        terms = sum(penalty.is_term for _, penalty, _ in self.penalties)
        for name, value in penalties.items():
            figures["penalty" if terms == 1 else f"penalty_{name}"] = value
        return {name: value.detach() for name, value in figures.items()}

    def _backward(self, optimizer: LightningOptimizer, parts: int) -> Callable[[Tensor], None]:
        """Gives the weights the mean gradient of the losses of `parts` calls."""
        done = 0

        def backward(loss: Tensor) -> None:
            nonlocal done
            if not done:  # not earlier: a gate may look at the last gradients in a forward pass
                optimizer.zero_grad()
            done += 1
            self.manual_backward(loss if parts == 1 else loss / parts)

        return backward

    def _score(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, joint: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (n,) of real and of fake images, of all processes, and the class losses of both.

        The latter are the mean cross-entropies of a critic that classifies, otherwise there are
        none. joint: in one forward pass of the critic, not in two.
        """
        if joint:
            twice = None if labels is None else labels.repeat(2)
            found = self._scored(torch.cat([real, fake]), twice)
            halves = [each.split(len(real)) for each in found]
        else:
            one, other = self._scored(real, labels), self._scored(fake, labels)
            halves = [*zip(one, other, strict=True)]
        logits = [processes.gathered(each) for each in halves[0]]
        return logits, [processes.mean(each.mean()) for each in halves[1]] if halves[1:] else []

    def _scored(self, images: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The critic's logits (n,) of images, and of one that classifies the cross-entropies (n,).

        Both at least float32. UserError for logits of another shape.
        """
        found = applied(self.critic, images, labels)
        logits, *of_classes = found if isinstance(found, tuple) else (found,)
        logits = widened(logits)
        if logits.shape not in ((len(images),), (len(images), 1)):
            raise UserError(
                f"the critic returns logits of shape {tuple(logits.shape)} for images of shape"
                f" {tuple(images.shape)}; it must return one for each, ({len(images)},) or"
                f" ({len(images)}, 1)"
            )
        if labels is None or self.options.conditioning != "acgan":
            return [logits.flatten()]
        shape = (len(images), self.options.classes)
        if not of_classes or of_classes[0].shape != shape:
            has = tuple(of_classes[0].shape) if of_classes else "none"
            raise UserError(
                f"--model.conditioning acgan: the critic returns class logits {has}; it must return"
                f" (logits, class logits), the latter of shape {shape}"
            )
        wrong = cross_entropy(widened(of_classes[0]), labels, reduction="none")
        return [logits.flatten(), wrong]

    def _again(self, labels: Tensor | None, real: Tensor, fake: Tensor) -> list[Tensor]:
        """The logits of `_score` in a critic update; running statistics stay as they are."""
        with statistics(self.critic, "batch"):
            return self._score(real, fake, labels, self.joint)[0]

    def _penalties(
        self, scored: ScoredBatch, labels: Tensor | None, number: int
    ) -> dict[str, Tensor]:
        """The value of each penalty that is a term of the loss of critic update `number`."""
        found = {}
        real, fake, draw = scored.real, widened(scored.fake), scored.draw
        for name, penalty, _ in self.penalties:
            if number % self.penalty_every[name]:
                continue
            if penalty.value is not None:
                critic = self.critic if penalty.of_weights else self.of_images(labels)
                with statistics(self.critic, self.options.penalty_statistics):
                    value = penalty.value(critic, real, fake, draw)
                found[name] = processes.mean(value)
            if penalty.of_logits is not None:
                found[name] = penalty.of_logits(scored)
        return found

    def of_images(self, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The critic as a function of images (N, C, H, W) alone, to logits (N,); labels (N,)."""
        if labels is None:
            return self.critic

        def logits(images: Tensor) -> Tensor:
            found = self.critic(images, labels)
            first: Tensor = found[0] if isinstance(found, tuple) else found
            return first

        return logits

    def _generator_update(
        self, optimizer: LightningOptimizer, batches: Sequence[Batch], augmented: Augmenting
    ) -> dict[str, Tensor]:
        backward = self._backward(optimizer, len(batches))
        # The critic's weights need no gradient here: that saves a third of its backward pass.
        with frozen(self.critic):
            found = [self._generator_losses(*batch, augmented, backward) for batch in batches]
        optimizer.step()
        if self.generator_bank.parts:
            self.generator_bank.update()
        return averaged(found)

    def _generator_losses(
        self,
        real: Tensor,
        labels: Tensor | None,
        z: Tensor,
        augmented: Augmenting,
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """The generator's losses of one batch, after `backward` of their sum."""
        means = self.options.generator_statistics
        joint = self.joint and means == "batch"
        with self.bank.shared(), statistics(self.critic, means):
            fake = augmented(applied(self.generator, z, labels))
            if joint or self.loss.paired:
                real = augmented(real)
                (real_logits, fake_logits), wrong = self._score(real, fake, labels, joint)
            else:
                scored = self._scored(fake, labels)
                real_logits, fake_logits = fake.new_empty(0), processes.gathered(scored[0])
                wrong = [processes.mean(each.mean()) for each in scored[1:]]
            adversarial = self.loss.generator(real_logits, fake_logits)
            loss = adversarial
            if wrong:  # of the fake images: the real ones are not the generator's
                loss = loss + self.options.class_weight * wrong[-1]
            backward(loss)
        figures = {"generator_loss": adversarial}
        figures |= zip(["generator_class_loss"], wrong[-1:], strict=False)
        return {name: value.detach() for name, value in figures.items()}

    def _latents(self, count: int, step: int, stream: rng.Stream, parts: int = 1) -> Tensor:
        draw = rng.generator(self.options.seed, step, 0, stream, self.device)
        return processes.normal((count, self.options.latent_dim), draw, self.device, parts)

    def sampler(self, ema: bool = True) -> nn.Module:
        """The network that samples: the moving average if there is one and it is wanted."""
        return self.ema if ema and self.ema is not None else self.generator

    def sample(
        self,
        count: int,
        seed: int,
        ema: bool = True,
        labels: Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """uint8 (count, C, H, W), eval mode; the same seed gives the same latents.

        labels: int64 (count,), for a conditional GAN; None: each class in turn. truncation: the
        largest number in a latent, see `msngan.networks.latents`.
        """
        network = self.sampler(ema)
        batches = draw_samples(network, count, seed, labels=labels, truncation=truncation)
        return torch.cat([*batches])


OPTIONS = frozenset(signature(GAN).parameters)  # names of its arguments
