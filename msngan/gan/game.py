"""The step of a GAN: updates of the critic, then one of the generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from msngan.data import images as convert
from msngan.losses import Augment, Loss, Penalty, ScoredBatch
from msngan.networks import frozen
from msngan.networks.sampling import applied
from msngan.networks.updates import TrainedModule, update_average
from msngan.norms import SigmaBank, gate_figures, statistics
from msngan.norms.parts import widened
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.folder import UserError, counted
from msngan.runs.options import named

# Of an update, or a part of it: real images, their labels if there are any, and latents.
Batch = tuple[Tensor, Tensor | None, Tensor]

if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer


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


class Game(TrainedModule):
    """The step that trains the two networks of a GAN, the players of a game: see `GAN`.

    bank, generator_bank: of the networks' norms. joint: whether the critic scores real and fake
    images in one batch. penalties: name, penalty and weight of each; penalty_every: by name.
    """

    generator: nn.Module
    critic: nn.Module
    ema: nn.Module | None
    loss: Loss
    augment: Augment | None
    penalties: list[tuple[str, Penalty, float]]
    penalty_every: dict[str, int]
    bank: SigmaBank
    generator_bank: SigmaBank
    joint: bool
    streams = ("critic", "generator", "penalty", "augment")
    _looked = False  # whether the first batch has been looked at

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One update of the generator, after critic_steps updates of the critic.

        batch: images (critic_steps * accumulate * n, C, H, W), float in [-1, 1] or uint8, or
        (images, labels), the labels int64, one for each image. Returns the step's losses and mean
        logits. Raises UserError for other batches.
        """
        step = self.begin_step()
        images, labels = self._images(batch)
        images = self.laid_out(images)
        each = self.options.accumulate  # parts of the batch in an update
        parts = self.options.critic_steps * each
        chunk = len(images) // parts
        if not chunk:
            times = f" x {each} accumulate" if each > 1 else ""
            raise UserError(
                f"a batch of {counted(len(images), 'image')} for {self.options.critic_steps}"
                " critic_steps"
                f"{times}; give more"
            )
        images = images[: chunk * parts]
        labels = None if labels is None else labels[: chunk * parts]
        updates = self.options.critic_steps
        due = tuple(self._due(step * updates + index + 1) for index in range(updates))
        self.draws.begin(self.options.seed, step)
        share = self.average_share(step)
        alone = "a batch leaves one image for an update; give more, or DataLoader(drop_last=True)"
        with named(alone) if chunk == 1 else nullcontext():  # a norm over the batch refuses it
            figures = self.played(due, partial(self._play, due, share), images, labels)
        if self.augment is not None:
            figures = figures | self.augment.adapt(step)
        self.refuse_nan(figures, step)
        self.to_loggers(figures)
        return figures

    def _play(
        self,
        due: Sequence[frozenset[str]],
        share: float | Tensor,
        images: Tensor,
        labels: Tensor | None,
    ) -> dict[str, Tensor]:
        """The updates of a step, with all that changes from step to step in tensors.

        due: the penalties that are due in each update of the critic. share: see `update_average`.
        """
        generator_optimizer, critic_optimizer = cast("list[LightningOptimizer]", self.optimizers())
        each = self.options.accumulate
        parts = self.options.critic_steps * each
        chunk = len(images) // parts
        real = images.split(chunk)
        own = [None] * parts if labels is None else labels.split(chunk)
        latents = self._latents(len(images), "critic", parts).split(chunk)
        batches = [*zip(real, own, latents, strict=True)]
        figures: dict[str, Tensor] = {}
        for index, names in enumerate(due):
            some = batches[index * each : (index + 1) * each]
            figures = self._critic_update(critic_optimizer, some, names)
        latents = self._latents(chunk * each, "generator", each).split(chunk)
        some = [*zip(real[-each:], own[-each:], latents, strict=True)]
        figures |= self._generator_update(generator_optimizer, some)
        if self.ema is not None:
            update_average(self.ema, self.generator, share)
        return figures

    def _due(self, number: int) -> frozenset[str]:
        """The penalties that are due in update `number` of the critic."""
        return frozenset(name for name, every in self.penalty_every.items() if not number % every)

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
                f" GAN {counted(classes, 'class', 'classes')}, 0 to {classes - 1}; give"
                " GAN(classes=...)"
            )
        return labels

    def _augmented(self, images: Tensor) -> Tensor:
        """The images that the critic scores."""
        if self.augment is None:
            return images
        made: Tensor = self.augment(images, draw=self.draws["augment"])
        return made

    def _critic_update(
        self,
        optimizer: LightningOptimizer,
        batches: Sequence[Batch],
        due: frozenset[str],
    ) -> dict[str, Tensor]:
        backward = self._backward(optimizer, len(batches))
        found = [self._critic_losses(*batch, due, backward) for batch in batches]
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
        due: frozenset[str],
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """The critic's losses of one batch, after `backward` of their sum."""
        with torch.no_grad():
            fake = applied(self.generator, z, labels)
            check_alike(fake, real)
            real, fake = self._augmented(real), self._augmented(fake)
        with self.bank.shared():
            logits, wrong = self._score(real, fake, labels, self.joint)
            adversarial = self.loss.critic(*logits)
            again = partial(self._again, labels)
            draw = self.draws["penalty"]
            scored = ScoredBatch(self.critic, real, fake, logits[0], logits[1], again, draw)
            penalties = self._penalties(scored, labels, due)
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
        logits = processes.gathered_alike(*halves[0])
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
        self, scored: ScoredBatch, labels: Tensor | None, due: frozenset[str]
    ) -> dict[str, Tensor]:
        """The value of each penalty that is due and a term of the critic's loss."""
        found = {}
        real, fake, draw = scored.real, widened(scored.fake), scored.draw
        for name, penalty, _ in self.penalties:
            if name not in due:
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
        self, optimizer: LightningOptimizer, batches: Sequence[Batch]
    ) -> dict[str, Tensor]:
        backward = self._backward(optimizer, len(batches))
        # The critic's weights need no gradient here: that saves a third of its backward pass.
        with frozen(self.critic):
            found = [self._generator_losses(*batch, backward) for batch in batches]
        optimizer.step()
        if self.generator_bank.parts:
            self.generator_bank.update()
        return averaged(found)

    def _generator_losses(
        self,
        real: Tensor,
        labels: Tensor | None,
        z: Tensor,
        backward: Callable[[Tensor], None],
    ) -> dict[str, Tensor]:
        """The generator's losses of one batch, after `backward` of their sum."""
        means = self.options.generator_statistics
        joint = self.joint and means == "batch"
        with self.bank.shared(), statistics(self.critic, means):
            fake = self._augmented(applied(self.generator, z, labels))
            if joint or self.loss.paired:
                real = self._augmented(real)
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

    def _latents(self, count: int, stream: rng.Stream, parts: int = 1) -> Tensor:
        shape = count, self.options.latent_dim
        return processes.normal(shape, self.draws[stream], self.device, parts)
