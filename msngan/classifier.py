"""Classifier: a network, its norm and its optimizer; the paper's experiments of section IV-A."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from msngan import norms
from msngan.networks import CLASSIFIERS, ActivationName, ClassifierName
from msngan.networks.schedule import Decay, set_learning_rates
from msngan.norms import NormName, SigmaBank
from msngan.norms.parts import widened
from msngan.runs import bounds as checks
from msngan.runs import distributed as processes
from msngan.runs import rng
from msngan.runs.bounds import named
from msngan.runs.divergence import refuse_nan

RATES = ("lr",)  # of the optimizers, in their order
# What a run that diverged may be tried again with.
REMEDY = "a lower --model.lr, another --model.norm, or --trainer.precision 32-true"


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of msngan.classifier.Classifier's arguments that cannot work."""
    for name in ("width", "depth", "steps"):
        checks.at_least(f"--model.{name}", given[name], 1)
    checks.positive("--model.lr", given["lr"])
    for beta in given["betas"]:
        checks.fraction("--model.betas: each", beta)
    checks.not_negative("--model.weight_decay", given["weight_decay"])
    checks.not_negative("--model.slope", given["slope"])
    for name in ("dropout", "label_smoothing"):
        checks.fraction(f"--model.{name}", given[name])


if TYPE_CHECKING:
    from pytorch_lightning.core.optimizer import LightningOptimizer

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """A network that tells classes apart, trained by cross-entropy and Adam.

    One batch is one step. Every arm of a comparison has the same network, activation and dropout;
    the paper's released code does not, which `as_released` recreates.

    Args:
        network: the paper's `cnn3`, `vgg7` and `densenet_bc` (Table III), or `resnet18`.
        norm: what the network's layers go through; its last layer gets the weight's part alone.
        norm_options: of that norm, as {gain: true}; `--model.norm_options.gain true` for one.
        norm_layers: the layers that get the norm; null: all. A list of indices, names or patterns
            (body.*; "!head": not it), kinds (Linear).
        other_norm: what the layers go through that norm_layers leaves.
        as_released: build the network of the authors' released code, whose arms differ in
            activation, dropout and in which layers have the norm; for `batch`, `spectral`,
            `mean_spectral`, and `none` of cnn3.
        placement: where a norm of the output goes in `densenet_bc`: on what enters each activation,
            as DenseNet has it, or on what each convolution puts out, as the paper's equations.
        activation: after each layer but the last.
        slope: of the LeakyReLU for negative inputs.
        dropout: fraction of activations that training drops.
        width: channels of the first layer, or DenseNet's growth; null: the network's own.
        depth: DenseNet's layers in each block; null: its own 16.
        conv_bias: keep convolution biases that the norm cancels, as the published networks do.
        lr: Adam's learning rate.
        betas: Adam's decay rates.
        weight_decay: added to the gradient as weight_decay * weight, of weights, not of biases,
            offsets and gains.
        lr_decay: whether the rate falls to zero over the run's steps.
        label_smoothing: probability that is spread over all classes.
        channels_last: memory layout of the network; faster on most hardware.
        compile: run the network through torch.compile.
        seed: of every random number; `fit` sets it.
        steps: length of the run, for lr_decay; `fit` sets it.
        channels: of the images; `fit` takes it from the data.
        size: of the images; `fit` takes it from the data.
        classes: of the labels; `fit` takes it from the data.
    """

    epoch_loss: Tensor
    epoch_right: Tensor
    epoch_seen: Tensor

    def __init__(
        self,
        network: ClassifierName = "cnn3",
        norm: NormName = "mean_spectral",
        norm_options: dict[str, bool | int | float | str] | None = None,
        norm_layers: list[int | str] | None = None,
        other_norm: NormName = "none",
        as_released: bool = False,
        placement: Literal["before_activation", "after_layer"] = "before_activation",
        activation: ActivationName = "leaky_relu",
        slope: float = 0.1,
        dropout: float = 0.0,
        width: int | None = None,
        depth: int | None = None,
        conv_bias: bool = False,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        lr_decay: Decay = "none",
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        compile: bool = False,
        seed: int = 0,
        steps: int = 10_000,
        channels: int = 3,
        size: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        options = dict(locals())
        check_options(options)
        self.save_hyperparameters()
        self.automatic_optimization = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.derive(seed, 0, 0, "init"))
            shape = {name: options[name] for name in SHAPE}
            with named(f"--model.network {network}"):
                self.network = CLASSIFIERS[network](norm, classes, channels, size, **shape)
        self.bank = SigmaBank(self.network)
        # Sums over the epoch at hand; in every checkpoint, so that a resumed epoch has all of it.
        self.register_buffer("epoch_loss", torch.zeros(()))
        self.register_buffer("epoch_right", torch.zeros((), dtype=torch.long))
        self.register_buffer("epoch_seen", torch.zeros((), dtype=torch.long))
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.network.compile()

    @property
    def options(self) -> Any:
        """The arguments of this classifier, by name; plain values, saved in every checkpoint."""
        return self.hparams

    def configure_optimizers(self) -> torch.optim.Optimizer:
        o = self.options
        decayed = [p for p in self.network.parameters() if p.dim() > 1]
        others = [p for p in self.network.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others}]
        optimizer = torch.optim.Adam([g for g in groups if g["params"]], o.lr, tuple(o.betas))
        norms.follow(self.bank.parts, optimizer)
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """batch: images (n, C, H, W), labels (n,). Returns the step's loss and accuracy."""
        o, step = self.options, self.trainer.global_step
        images, labels = batch
        optimizer = cast("LightningOptimizer", self.optimizers())
        set_learning_rates(self.trainer.optimizers, RATES, o, step)
        torch.manual_seed(rng.derive(o.seed, step, processes.rank(), "global"))
        with self.bank.shared():
            logits = processes.gathered(self.logits(images))
            labels = processes.gathered(labels)
            loss = F.cross_entropy(logits, labels, label_smoothing=o.label_smoothing)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.bank.update()
        loss, right = loss.detach(), (logits.argmax(1) == labels).sum()
        figures = {"loss": loss, "accuracy": right / len(labels)}
        figures |= norms.gate_figures(self.bank.parts)
        refuse_nan(figures, step + 1, REMEDY)
        self.epoch_loss += loss.to(self.epoch_loss.dtype) * len(labels)
        self.epoch_right += right
        self.epoch_seen += len(labels)
        return figures

    def logits(self, images: Tensor) -> Tensor:
        """Logits (n, classes), in float32 at least, of prepared images (n, C, H, W)."""
        images = images.to(self.dtype)
        if self.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return widened(self.network(images))

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


# The network's own options, by name, and with them all that is checked.
SHAPE: tuple[str, ...]
SHAPE = ("width", "depth", "activation", "slope", "dropout", "conv_bias", "placement")
SHAPE += ("as_released", "norm_options", "norm_layers", "other_norm")
