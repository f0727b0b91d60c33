"""Training dynamics: measurements of every layer of the networks, kept in dynamics.npz.

The released code of arXiv:1907.04003 counts exact zeros of a gradient (its Figure 1) and chooses
bins for each network (its Figure 5). Here small entries are counted beside the exact zeros, and all
runs share one set of bins. The drift of the mean that the paper argues with (section III) is a mean
of what enters an activation; its figures 3 and 4 show the means of weights instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from msngan.data import ImageData, LabelledData
from msngan.data import images as convert
from msngan.networks.sampling import applied, latents
from msngan.norms import layers_of, statistics, stored
from msngan.norms.parts import outputs_of
from msngan.runs import distributed, rng
from msngan.runs.folder import UserError
from msngan.runs.options import Every, Record
from msngan.training import dynamics as file
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of
from msngan.training.dynamics import PER_LAYER
from msngan.training.weight_measures import (
    effective_weight,
    kernel_singular,
    lipschitz_of,
    matrix_of,
    operator_norm,
    output_lengths,
    precise,
    singular_values,
    spectral_complexity,
    stable_rank,
)

PROBES = 128  # images, or latents, whose activations are measured
EARLY, SELDOM = (100, 200, 500, 1000, 2000, 5000), 10_000  # steps of `auto`
SHOWN = ("gradient_zero", "stable_rank", "drift", "dead", "operator_norm")  # in the logger
THRESHOLD = 0.01  # of the root mean square: an entry below it is small
# Of |g|, six a decade: 1e-10 to 1e3, from below Adam's epsilon to a diverging run.
EDGES: NDArray[np.float64] = 10.0 ** (np.arange(-60, 19) / 6)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
ROUNDING = 1e-6  # an sd below this share of the mean is that of a constant in float32


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
    """

    def __init__(self, every: Record[Every | Literal["auto"]] = "auto") -> None:
        self.every = every
        self._known: file.Dynamics | None = None
        self._subjects: list[Subject] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._keep_until(trainer.global_step)
        if not self.every:
            return
        self._subjects = _subjects(pl_module, data_of(trainer))
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


def _subjects(module: Any, data: ImageData) -> list[Subject]:
    """The networks of a GAN or a classifier, each with its probe batch."""
    images = data.real[:PROBES]
    if isinstance(data, LabelledData):
        probe = module.laid_out(data.prepared(images).to(module.device))
        return [Subject("network", module.network, probe)]
    z = latents(len(images), module.options.latent_dim, module.options.seed)
    probe = module.laid_out(convert.to_float(images).to(module.device))
    labels = data.labels[:PROBES].to(module.device) if module.options.conditional else None
    return [
        Subject("critic", module.critic, probe, labels),
        Subject("generator", module.generator, z.to(module.device, module.dtype), labels),
    ]


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

    labels: int64 (N,), of a network that takes them. Its embeddings are not measured.
    """

    name: str
    network: nn.Module
    probe: Tensor
    labels: Tensor | None = None


@dataclass
class _Layer:
    """All measures of one layer."""

    figures: dict[str, float]
    histogram: NDArray[np.uint32]
    singular: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_sd: NDArray[np.float32]
    length: float  # the (2, 1) norm in the spectral complexity


@torch.no_grad()
@np.errstate(all="ignore")  # the numbers of a diverging run overflow
def measure(subjects: Sequence[Subject], step: int, first: file.Dynamics | None) -> file.Dynamics:
    """One measurement. It leaves the networks, their gradients and all random streams as they are.

    first: earlier measurements of the run, the first of which the drift is measured from; None:
    this is the first. Gradients are the parameters' .grad; without one their measures are NaN.
    """
    start = time.monotonic()
    found: dict[str, _Layer] = {}
    shapes, complexities = [], []
    for subject in subjects:
        layers = {
            name: layer
            for name, layer in layers_of(subject.network).items()
            if not isinstance(layer, nn.Embedding)
        }
        seen = look(subject.network, layers, subject.probe, subject.labels)
        own: dict[str, _Layer] = {}
        for name, layer in layers.items():
            index = len(found) + len(own)
            mean = first.channel_mean[index][0] if first is not None and len(first) else None
            own[f"{subject.name}.{name}"] = _measured(layer, seen.get(name), mean)
            shapes.append(tuple(stored(layer).shape))
        norms = [layer.figures.get("operator_norm", nan) for layer in own.values()]
        lengths = [layer.length for layer in own.values()]
        complexities.append(spectral_complexity(norms, lengths, lipschitz_of(subject.network)))
        found |= own
    one = list(found.values())
    columns: dict[str, Any] = {
        name: np.array([[layer.figures.get(name, nan) for layer in one]], np.float32)
        for name in PER_LAYER
    }
    return file.Dynamics(
        layers=tuple(found),
        shapes=tuple(shapes),
        networks=tuple(subject.name for subject in subjects),
        threshold=THRESHOLD,
        edges=EDGES,
        step=np.array([step], np.int64),
        histogram=np.stack([layer.histogram for layer in one])[None],
        spectral_complexity=np.array([complexities], np.float64),
        singular=tuple(layer.singular[None] for layer in one),
        channel_mean=tuple(layer.channel_mean[None] for layer in one),
        channel_sd=tuple(layer.channel_sd[None] for layer in one),
        seconds=np.array([time.monotonic() - start]),
        **columns,
    )


def _measured(
    layer: nn.Module, seen: Seen | None, first_mean: NDArray[np.float32] | None
) -> _Layer:
    parameter, weight = stored(layer), effective_weight(layer)
    values = singular_values(matrix_of(layer, weight))
    found = {
        "weight_mean": float(precise(parameter).mean()),
        "weight_sd": float(precise(parameter).std(correction=0)),
        "effective_mean": float(precise(weight).mean()),
        "effective_sd": float(precise(weight).std(correction=0)),
        "kernel_singular": kernel_singular(weight),
        "matrix_norm": float(values[0]),
        "stable_rank": stable_rank(values),
    }
    mean = sd = np.full(outputs_of(layer)[0], nan, np.float32)
    length = nan
    if seen is not None:
        found["operator_norm"] = operator_norm(layer, weight, seen.size, known=float(values[0]))
        found |= figures(seen, first_mean)
        length = output_lengths(layer, weight, seen.size)
        if seen.mean is not None and seen.sd is not None:
            mean, sd = seen.mean, seen.sd
    counts = np.zeros((2, len(EDGES)), np.uint32)
    if parameter.grad is not None:
        found |= gradient_figures(parameter.grad)
        counts = histogram(parameter.grad)
    return _Layer(found, counts, values.numpy().astype(np.float32), mean, sd, length)


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


@dataclass
class Seen:
    """Of one layer in one pass: the size of its input, and what enters the activation after it.

    size: without batch and channels; () for a linear layer. mean, sd: (C,) float32 over all other
    axes, the population's sd. dead: (C,) bool, nowhere above 0. None: no activation follows.
    """

    size: tuple[int, ...]
    mean: NDArray[np.float32] | None = None
    sd: NDArray[np.float32] | None = None
    dead: NDArray[np.bool_] | None = None

    def note(self, x: Tensor) -> None:
        """x (N, C, ...) enters the activation."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean = x.mean(axes, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        # Two passes, because torch's var_mean takes ten times as long.
        sd = (x - mean).square_().mean(axes).sqrt()
        mean = mean.flatten()
        sd[sd <= ROUNDING * mean.abs()] = 0
        self.mean, self.sd = mean.float().cpu().numpy(), sd.float().cpu().numpy()
        self.dead = (x.amax(axes) <= 0).cpu().numpy()


def look(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    x: Tensor,
    labels: Tensor | None = None,
) -> dict[str, Seen]:
    """One pass of x (N, ...) in training mode that leaves no trace in the network.

    What enters an activation belongs to the layer called last before it, whatever lies between: the
    layer's own norm, a sum with a shortcut, or a concatenation with older features, of which all
    channels count. The first of several activations between two layers counts.

    Batch-coupled norms use the statistics of this batch, dropout is off, estimates stay as they
    are. A layer that is not called has no entry; one that is called again has its last.
    """
    seen: dict[str, Seen] = {}
    last: list[str] = []

    def enter(name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
        axes = 0 if isinstance(layer, nn.Linear) else given[0].dim() - 2
        seen[name] = Seen(tuple(given[0].shape[given[0].dim() - axes :]))
        last[:] = [name]

    def activate(activation: nn.Module, given: tuple[Any, ...]) -> None:
        if last and (entry := seen[last[0]]).mean is None:
            entry.note(given[0])

    with ExitStack() as stack, rng.untouched(), torch.no_grad(), _as_in_training(network):
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(partial(enter, name))
            stack.callback(hook.remove)
        for module in network.modules():
            if isinstance(module, ACTIVATIONS):
                stack.callback(module.register_forward_pre_hook(activate).remove)
        # Not by a call: a compiled network would be compiled again because of the hooks.
        applied(network.forward, x, labels)
    return seen


@contextmanager
def _as_in_training(network: nn.Module) -> Iterator[None]:
    """Training mode without dropout, moving running statistics or updates of estimates."""
    before = [(module, module.training) for module in network.modules()]
    try:
        network.train()
        for module, _ in before:
            own = getattr(module, "weight_norm", None)
            if isinstance(own, nn.Module):
                own.eval()
            if isinstance(module, _DropoutNd):
                module.eval()
        with statistics(network, "batch"):
            yield
    finally:
        for module, training in before:
            module.train(training)  # a norm then restores its estimate for eval


def figures(seen: Seen, first_mean: NDArray[np.float32] | None) -> dict[str, float]:
    """preactivation_mean, _sd, offset, drift, drift_signed and dead of one layer.

    first_mean: (C,), from which the drift is measured; None: from these means. Channels that do not
    vary have no offset and no drift; if no channel varies, both are NaN.
    """
    if seen.mean is None or seen.sd is None or seen.dead is None:
        return {}
    varies = seen.sd > 0
    moved = np.zeros_like(seen.mean) if first_mean is None else seen.mean - first_mean
    moved = moved[varies] / seen.sd[varies]

    def mean(values: NDArray[Any]) -> float:
        return float(values.mean(dtype=np.float64)) if len(values) else nan

    return {
        "preactivation_mean": float(seen.mean.mean()),
        "preactivation_sd": float(seen.sd.mean()),
        "offset": mean(np.abs(seen.mean[varies]) / seen.sd[varies]),
        "drift": mean(np.abs(moved)),
        "drift_signed": mean(moved),
        "dead": float(seen.dead.mean()),
    }
