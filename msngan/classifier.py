"""Classifier: a network, its norm and its optimizer; the paper's experiments of section IV-A."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from msngan.networks import ActivationName, ClassifierName
from msngan.networks.build import build_classifier
from msngan.networks.optimizers import suited
from msngan.networks.updates import Decay, TrainedModule
from msngan.norms import NormName, SigmaBank, follow, gate_figures
from msngan.norms.parts import widened
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.runs.option_values import check_ranges
from msngan.runs.options import (
    AtLeastOne,
    Count,
    Fraction,
    Network,
    NotNegative,
    OwnOptions,
    Positive,
    Range,
    SetByFit,
)

if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer

Batch = tuple[Tensor, Tensor]


class Classifier(TrainedModule):
    """A network that tells classes apart, trained by cross-entropy and Adam.

    One batch is one step. Every arm of a comparison has the same network, activation and dropout;
    the paper's released code does not, which `as_released` recreates.

    Args:
        network: cnn3, vgg7 and densenet_bc are those of the paper's Table III.
        norm: norm of the network's layers; the last layer gets the weight's part only.
        norm_options: options of that norm, such as {gain: true}; --model.norm_options.gain true
            sets one.
        norm_layers: layers that get the norm; null: all. A list of indices, names or patterns
            (body.*; "!head" excludes), or kinds (Linear).
        other_norm: norm of the layers that norm_layers leaves out.
        as_released: build the network of the authors' released code, whose arms differ in
            activation, dropout and in which layers have the norm; for batch, spectral,
            mean_spectral, and none of cnn3.
        placement: where densenet_bc puts a norm of outputs: before each activation, as DenseNet
            does, or after each layer, as in the paper's equations.
        activation: activation after each layer but the last.
        slope: slope of the LeakyReLU for negative inputs.
        dropout: fraction of activations that training drops.
        width: channels of the first layer, or DenseNet's growth; null: the network's own.
        depth: layers in each block of DenseNet; null: 16.
        conv_bias: keep convolution biases that the norm cancels, as the published networks do.
        lr: learning rate of Adam.
        betas: decay rates of Adam.
        weight_decay: factor of the weight that is added to its gradient; not for biases, offsets
            and gains.
        lr_decay: how the learning rate falls to zero over the run.
        label_smoothing: probability that is spread over all classes.
        channels_last: use the channels-last memory layout, which is faster on most hardware.
        compile: run the network through torch.compile.
        seed: seed of all random numbers.
        steps: length of the run in steps, for lr_decay.
        channels: channels of the images.
        size: height and width of the images in pixels.
        classes: number of classes.
        network_options: options of a registered network, by name.
    """

    task = "classifier"
    rates = ("lr",)  # options of the optimizer
    trained = ("network",)  # names of the networks that are trained
    shorter = "fewer --epochs or a smaller --model.width take less"
    # What to try again with after a divergence.
    remedy = "a lower --model.lr, another --model.norm, or --trainer.precision 32-true"
    epoch_loss: Tensor
    epoch_right: Tensor
    epoch_seen: Tensor

    def __init__(
        self,
        network: Network[ClassifierName] = "cnn3",
        norm: Network[NormName] = "mean_spectral",
        norm_options: Network[dict[str, bool | int | float | str] | None] = None,
        norm_layers: Network[list[int | str] | None] = None,
        other_norm: Network[NormName] = "none",
        as_released: Network[bool] = False,
        placement: Network[Literal["before_activation", "after_layer"]] = "before_activation",
        activation: ActivationName = "leaky_relu",
        slope: NotNegative = 0.1,
        dropout: Fraction = 0.0,
        width: Network[Count | None] = None,
        depth: Network[Annotated[int, Range(1, 1000)] | None] = None,
        conv_bias: Network[bool] = False,
        lr: Positive = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        weight_decay: NotNegative = 0.0,
        lr_decay: Decay = "none",
        label_smoothing: Fraction = 0.0,
        channels_last: bool = True,
        compile: bool = False,
        seed: SetByFit[int] = 0,
        steps: SetByFit[AtLeastOne] = 10_000,
        channels: SetByFit[Network[Count]] = 3,
        size: SetByFit[Network[Count]] = 32,
        classes: SetByFit[Network[Count]] = 10,
        network_options: SetByFit[Network[OwnOptions]] = None,
    ) -> None:
        super().__init__()
        options = dict(locals())
        check_ranges("classifier", "model", options)
        self.save_hyperparameters()
        self.automatic_optimization = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(seed, 0, 0, "init"))
            self.network = build_classifier(options)
        self.bank = SigmaBank(self.network)
        self.banks = (self.bank,)
        # Sums over the epoch at hand; in every checkpoint, so that a resumed epoch has all of it.
        self.register_buffer("epoch_loss", torch.zeros(()))
        self.register_buffer("epoch_right", torch.zeros((), dtype=torch.long))
        self.register_buffer("epoch_seen", torch.zeros((), dtype=torch.long))
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.network.compile()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        o = self.options
        decayed = [p for p in self.network.parameters() if p.dim() > 1]
        others = [p for p in self.network.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others}]
        adam = torch.optim.Adam([g for g in groups if g["params"]], o.lr, tuple(o.betas))
        optimizer = suited(adam)
        follow(self.bank.parts, optimizer)
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """batch: images (n, C, H, W), labels (n,). Returns the step's loss and accuracy."""
        step = self.begin_step()
        figures = self.played((), self._play, *batch)
        self.refuse_nan(figures, step)
        self.to_loggers(figures)
        return figures

    def _play(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The update of a step, with all that changes from step to step in tensors."""
        optimizer = cast("LightningOptimizer", self.optimizers())
        with self.bank.shared():
            logits = processes.gathered(self.logits(images))
            labels = processes.gathered(labels)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.options.label_smoothing)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.bank.update()
        loss, right = loss.detach(), (logits.argmax(1) == labels).sum()
        figures = {"loss": loss, "accuracy": right / len(labels)}
        figures |= gate_figures(self.bank.parts)
        self.epoch_loss += loss.to(self.epoch_loss.dtype) * len(labels)
        self.epoch_right += right
        self.epoch_seen += len(labels)
        return figures

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, classes), in float32 at least, of prepared images (n, C, H, W)."""
        return widened(self.network(self.laid_out(images)))

    def try_network(self, name: str, images: Tensor) -> None:
        """UserError if the network does not give one logit a class of each image."""
        logits = self.logits(images)
        if logits.shape != (len(images), self.options.classes):
            raise UserError(
                f"the network returns logits of shape {tuple(logits.shape)} for images of shape"
                f" {tuple(images.shape)}; it must return ({len(images)}, {self.options.classes})"
            )

    def epoch_figures(self) -> dict[str, float]:
        """Mean loss and accuracy over what the epoch has trained on so far."""
        seen = max(int(self.epoch_seen), 1)
        return {
            "train_loss": float(self.epoch_loss) / seen,
            "train_accuracy": int(self.epoch_right) / seen,
        }

    def next_epoch(self) -> None:
        """Begin the epoch's sums anew."""
        for total in (self.epoch_loss, self.epoch_right, self.epoch_seen):
            total.zero_()
