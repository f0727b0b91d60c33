"""Training dynamics: measurements of every layer of the networks, kept in dynamics.npz.

The released code of arXiv:1907.04003 counts exact zeros of a gradient (its Figure 1) and chooses
bins for each network (its Figure 5). Here small entries are counted beside the exact zeros, and all
runs share one set of bins. The drift of the mean that the paper argues with (section III) is a mean
of what enters an activation; its figures 3 and 4 show the means of weights instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from msngan.data import ImageData, LabelledData
from msngan.data import images as convert
from msngan.networks.sampling import applied, latents
from msngan.norms import layers_of, stored
from msngan.norms.parts import outputs_of, widened
from msngan.runs import distributed, rng
from msngan.runs.folder import UserError
from msngan.runs.options import Every, Record
from msngan.training import dynamics as file
from msngan.training.activations import Seen, as_in_training, figures, look
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of
from msngan.training.dynamics import PER_LAYER, PER_NETWORK
from msngan.training.smoothness import Loss, smoothness
from msngan.training.weight_measures import (
    by_inputs,
    effective_weight,
    kernel_singular,
    leading,
    lipschitz_of,
    matrix_of,
    mean_cosine,
    operator_norm,
    output_lengths,
    precise,
    spectral_complexity,
    stable_rank,
)

PROBES = 128  # images, or latents, whose activations are measured
EARLY, SELDOM = (100, 200, 500, 1000, 2000, 5000), 10_000  # steps of `auto`
SHOWN = ("gradient_zero", "stable_rank", "drift", "dead", "operator_norm")  # in the logger
THRESHOLD = 0.01  # of the root mean square: an entry below it is small
# Of |g|, six a decade: 1e-10 to 1e3, from below Adam's epsilon to a diverging run.
EDGES: NDArray[np.float64] = 10.0 ** (np.arange(-60, 19) / 6)


class Dynamics(RunCallback):
    """Measures every layer of the networks and keeps all measurements in dynamics.npz.

    Measures before the first step (weights only, as there are no gradients yet), after the first
    step (its gradients are those at the first weights), then every so many steps and after the
    last. Every bit of training stays as it is. Activations are those of the first training images
    without augmentation; a generator's are those of fixed latents.

    A measurement takes as long as a few steps on a CPU, and as long as a hundred on a fast GPU:
    `auto` measures often in the beginning, when layers change most, and seldom in a long run.

    Args:
        every: steps between measurements of every layer; auto: after 100, 200, 500, 1,000, 2,000
            and 5,000 steps and every 10,000; 0: none.
        smoothness: also measure how smooth the loss (of a GAN, the critic's) is along its gradient;
            this takes as long as six updates with 128 images.
    """

    def __init__(
        self, every: Record[Every | Literal["auto"]] = "auto", smoothness: Record[bool] = False
    ) -> None:
        if smoothness and not every:
            raise UserError(
                "--dynamics.smoothness true with --dynamics.every 0 measures nothing; leave one out"
            )
        self.every, self.smoothness = every, smoothness
        self._known: file.Dynamics | None = None
        self._subjects: list[Subject] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._keep_until(trainer.global_step)
        if not self.every:
            return
        self._subjects = _subjects(pl_module, data_of(trainer), self.smoothness)
        if self._known is None or not len(self._known):
            self._measure(trainer)
        elif trainer.global_step == 0:  # killed before its first checkpoint, it begins again
            self.to_loggers(trainer, _means(self._known))

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        planned = is_planned(trainer.global_step, self.every)
        if self.every and self.due(trainer, int(planned)) and trainer.is_global_zero:
            self._measure(trainer)

    def _keep_until(self, step: int) -> None:
        """Drop the run's later measurements, which are about to be made again."""
        path = self.run.dynamics
        if not path.is_file():
            return
        try:
            found = file.read(path)
        except ValueError as problem:
            raise UserError(str(problem)) from problem
        self._known = kept = file.until(found, step)
        if len(kept) < len(found):
            self.saving.attempt(path.name, step, lambda: file.write(path, kept), needed=True)

    def _measure(self, trainer: Trainer) -> None:
        step, path = trainer.global_step, self.run.dynamics
        with distributed.alone():
            made = measure(self._subjects, step, self._known)
        try:
            self._known = known = file.appended(self._known, made)
        except ValueError as problem:
            raise UserError(f"{path}: {problem}; move it away to start a new one") from problem
        self.saving.attempt(path.name, step, lambda: file.write(path, known))
        self.to_loggers(trainer, _means(made))


def is_planned(step: int, every: int | Literal["auto"]) -> bool:
    """Whether the layers are measured after this step, apart from the run's last."""
    if every == "auto":
        return step in (1, *EARLY) or step % SELDOM == 0
    return every > 0 and (step == 1 or step % every == 0)


def _subjects(module: Any, data: ImageData, smooth: bool) -> list[Subject]:
    """The networks of a GAN or a classifier, each with its probe batch.

    smooth: with the loss whose smoothness is measured.
    """
    images, options = data.real[:PROBES], module.options
    if isinstance(data, LabelledData):
        probe = module.laid_out(data.prepared(images).to(module.device))
        given = probe, data.images_of("train").labels, options
        loss = partial(_classifier_loss, *given) if smooth else None
        return [Subject("network", module.network, probe, None, loss, options.lr)]
    z = latents(len(images), options.latent_dim, options.seed).to(module.device, module.dtype)
    probe = module.laid_out(convert.to_float(images).to(module.device))
    labels = data.labels[:PROBES].to(module.device) if options.conditional else None
    loss = partial(_critic_loss, module, probe, z, labels) if smooth else None
    return [
        Subject("critic", module.critic, probe, labels, loss, options.critic_lr),
        Subject("generator", module.generator, z, labels),
    ]


def _classifier_loss(probe: Tensor, labels: Any, options: Any) -> Loss:
    """The cross-entropy on the probe batch, as it is trained with; labels: of all images."""
    labels = labels[: len(probe)].to(probe.device)
    spread = options.label_smoothing

    def loss(network: nn.Module) -> Tensor:
        return cross_entropy(widened(network.forward(probe)), labels, label_smoothing=spread)

    return loss


def _critic_loss(module: Any, real: Tensor, z: Tensor, labels: Tensor | None) -> Loss:
    """The adversarial loss on the probe batch and what the generator makes of z at present.

    Without augmentation and penalties.
    """
    with rng.untouched(), torch.no_grad(), as_in_training(module.generator):
        fake = applied(module.generator.forward, z, labels)

    def logits(critic: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        found = applied(critic.forward, images, labels)
        return widened(found[0] if isinstance(found, tuple) else found).flatten()

    def loss(critic: nn.Module) -> Tensor:
        if module.joint:
            twice = None if labels is None else labels.repeat(2)
            halves = logits(critic, torch.cat([real, fake]), twice).split(len(real))
        else:
            halves = logits(critic, real, labels), logits(critic, fake, labels)
        return module.loss.critic(*halves)

    return loss


def _means(measurement: file.Dynamics) -> dict[str, float]:
    """For the logger: the mean over each network's layers; the maximum of its operator norms."""
    found = {}
    for network in measurement.networks:
        own = [name.startswith(f"{network}.") for name in measurement.layers]
        for name in SHOWN:
            values = getattr(measurement, name)[0, own]
            values = values[np.isfinite(values)]
            if len(values):
                value = values.max() if name == "operator_norm" else values.mean()
                found[f"dynamics/{network}/{name}"] = float(value)
    return found


@dataclass(frozen=True)
class Subject:
    """A named network, and the batch (N, ...) on which its activations are measured.

    labels: int64 (N,), of a network that takes them. Its embeddings are not measured. loss: called
    at each measurement for the loss whose smoothness is measured; rate: the learning rate.
    """

    name: str
    network: nn.Module
    probe: Tensor
    labels: Tensor | None = None
    loss: Callable[[], Loss] | None = None
    rate: float = nan


@dataclass
class _Layer:
    """All measures of one layer."""

    figures: dict[str, float]
    histogram: NDArray[np.uint32]
    singular: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_sd: NDArray[np.float32]
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    length: float  # the (2, 1) norm in the spectral complexity


@torch.no_grad()
@np.errstate(all="ignore")  # the numbers of a diverging run overflow
def measure(subjects: Sequence[Subject], step: int, first: file.Dynamics | None) -> file.Dynamics:
    """One measurement. It leaves the networks, their gradients and all random streams as they are.

    first: earlier measurements of the run, the first of which the drift is measured from; None:
    this is the first. Gradients are the parameters' .grad; without one their measures are NaN.
    """
    start = time.monotonic()
    first = first if first is not None and len(first) else None
    found: dict[str, _Layer] = {}
    shapes, networks = [], []
    for subject in subjects:
        layers = {
            name: layer
            for name, layer in layers_of(subject.network).items()
            if not isinstance(layer, nn.Embedding)
        }
        seen = look(subject.network, layers, subject.probe, subject.labels)
        own: dict[str, _Layer] = {}
        before: _Layer | None = None
        for name, layer in layers.items():
            before = _measured(layer, seen.get(name), first, len(found) + len(own), before)
            own[f"{subject.name}.{name}"] = before
            shapes.append(tuple(stored(layer).shape))
        norms = [layer.figures.get("operator_norm", nan) for layer in own.values()]
        lengths = [layer.length for layer in own.values()]
        complexity = spectral_complexity(norms, lengths, lipschitz_of(subject.network))
        networks.append({"spectral_complexity": complexity})
        if subject.loss is not None:
            networks[-1] |= smoothness(subject.network, subject.loss(), subject.rate)
        found |= own
    one = list(found.values())
    columns: dict[str, Any] = {
        name: np.array([[layer.figures.get(name, nan) for layer in one]], np.float32)
        for name in PER_LAYER
    }
    for name in PER_NETWORK:
        columns[name] = np.array([[each.get(name, nan) for each in networks]], np.float64)
    return file.Dynamics(
        layers=tuple(found),
        shapes=tuple(shapes),
        networks=tuple(subject.name for subject in subjects),
        threshold=THRESHOLD,
        edges=EDGES,
        step=np.array([step], np.int64),
        histogram=np.stack([layer.histogram for layer in one])[None],
        singular=tuple(layer.singular[None] for layer in one),
        channel_mean=tuple(layer.channel_mean[None] for layer in one),
        channel_sd=tuple(layer.channel_sd[None] for layer in one),
        first_left=first.first_left if first else tuple(layer.left for layer in one),
        first_right=first.first_right if first else tuple(layer.right for layer in one),
        seconds=np.array([time.monotonic() - start]),
        **columns,
    )


def _measured(
    layer: nn.Module,
    seen: Seen | None,
    first: file.Dynamics | None,
    index: int,
    before: _Layer | None,
) -> _Layer:
    """index: of the layer in `first`. before: the layer before it in its network."""
    parameter, weight = stored(layer), effective_weight(layer)
    matrices = matrix_of(layer, weight)
    values, left, right = leading(matrices)
    turned = by_inputs(layer, matrices)
    inputs = right if turned.shape[2] == matrices.shape[1] else leading(turned)[1]
    kept = (left, right) if first is None else (first.first_left[index], first.first_right[index])
    found = {
        "weight_mean": float(precise(parameter).mean()),
        "weight_sd": float(precise(parameter).std(correction=0)),
        "effective_mean": float(precise(weight).mean()),
        "effective_sd": float(precise(weight).std(correction=0)),
        "kernel_singular": kernel_singular(weight),
        "matrix_norm": float(values[0]),
        "stable_rank": stable_rank(values),
        "subspace_left": mean_cosine(left, kept[0]),
        "subspace_right": mean_cosine(right, kept[1]),
        "subspace_link": nan if before is None else mean_cosine(inputs, before.left),
    }
    mean = sd = np.full(outputs_of(layer)[0], nan, np.float32)
    length = nan
    if seen is not None:
        found["operator_norm"] = operator_norm(layer, weight, seen.size, known=float(values[0]))
        found |= figures(seen, None if first is None else first.channel_mean[index][0])
        length = output_lengths(layer, weight, seen.size)
        if seen.mean is not None and seen.sd is not None:
            mean, sd = seen.mean, seen.sd
    counts = np.zeros((2, len(EDGES)), np.uint32)
    if parameter.grad is not None:
        found |= gradient_figures(parameter.grad)
        counts = histogram(parameter.grad)
    singular = values.astype(np.float32)
    return _Layer(found, counts, singular, mean, sd, left, right, length)


def gradient_figures(gradient: Tensor) -> dict[str, float]:
    """gradient_zero, gradient_small (|g| < THRESHOLD * rms), _rms, _mean and _sd of the entries.

    The first two are fractions; if all entries are zero, both are 1. The sd is the population's.
    """
    wide = precise(gradient)
    rms = wide.square().mean().sqrt()
    small = wide.abs() < THRESHOLD * rms
    return {
        "gradient_zero": float((wide == 0).to(wide).mean()),
        "gradient_small": float(small.to(wide).mean()) if rms > 0 else 1.0,
        "gradient_rms": float(rms),
        "gradient_mean": float(wide.mean()),
        "gradient_sd": float(wide.std(correction=0)),
    }


def histogram(gradient: Tensor, edges: NDArray[np.float64] = EDGES) -> NDArray[np.uint32]:
    """Counts (2, len(edges)) of negative and of all other entries by magnitude.

    The first bin counts entries below the first edge, exact zeros too; bin k those from edge k - 1
    up to below edge k; the last bin has no upper end, and NaN counts there as negative.
    """
    wide = precise(gradient).flatten()
    bins = torch.bucketize(wide.abs(), torch.from_numpy(edges).to(wide.device), right=True)
    bins.clamp_(max=len(edges) - 1)
    counts = torch.bincount(bins + len(edges) * (wide >= 0), minlength=2 * len(edges))
    return counts.view(2, -1).cpu().numpy().astype(np.uint32)
