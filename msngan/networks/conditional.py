"""Labels in networks: conditional batch norm for generators, class heads for critics.

Where a network is given labels, they are int64 (N,), or float (N, classes): the shares of classes
in each image, by which a generator goes from one class to another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from msngan.norms.classic import BatchNorm2d
from msngan.norms.parts import LOW_PRECISION, traced
from msngan.runs import distributed

CONDITIONINGS = ("projection", "acgan")

if TYPE_CHECKING:
    Conditioning = str
else:
    Conditioning = Literal[CONDITIONINGS]

NEEDS_LABELS = "the network is conditional; give it labels, int64 (N,), as network(x, labels)"


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm with a gain and an offset for each class: x (N, C, H, W), labels -> (N, C, H, W).

    Dumoulin et al. 2017, arXiv:1610.07629, section 2.2; de Vries et al. 2017, arXiv:1707.00683. The
    gains, (classes, C), begin at 1 and the offsets at 0. They are parameters and not layers, so no
    norm is put on them. In training it has no second derivative. Raises ValueError without labels.
    """

    has_no_matrix = True  # so that `convert` does not take the gains for weights without a norm

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = nn.Parameter(torch.ones(classes, channels))
        self.offset = nn.Parameter(torch.zeros(classes, channels))

    def extra_repr(self) -> str:
        return "classes={}, channels={}".format(*self.gain.shape)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(NEEDS_LABELS)
        gain, offset = (_of(each, labels) for each in (self.gain, self.offset))
        norm = self.norm
        plain = traced() or distributed.count() > 1 or x.dtype in LOW_PRECISION or x.is_meta
        plain = plain or x.numel() == x.shape[1]  # of which torch says that it has no variance
        if norm.training and norm.track_running_stats and norm.momentum is not None and not plain:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
            running = norm.running_mean, norm.running_var
            made: Tensor = _Scaled.apply(x, gain, offset, *running, norm.momentum, norm.eps)  # type: ignore[no-untyped-call]
            return made
        y = norm(x)
        return torch.addcmul(_on_maps(offset.to(y)), _on_maps(gain.to(y)), y)


class _Scaled(torch.autograd.Function):
    """gain * batch_norm(x) + offset, with gain and offset (N, C), in training.

    Its backward pass reads and writes the maps half as often as autograd's, which on a CPU is what
    both cost.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, mean: Tensor, var: Tensor, *how: float
    ) -> Tensor:
        y, _, scale = torch.native_batch_norm(x, None, None, mean, var, True, *how)
        ctx.save_for_backward(y, gain, scale)
        return torch.addcmul(_on_maps(offset), _on_maps(gain), y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        y, gain, scale = ctx.saved_tensors
        product = gradient * y
        offsets, gains = _over_maps(gradient), _over_maps(product)
        count = y.numel() // y.shape[1]
        # What the gradient of y has along 1 and along y itself, a batch norm takes out.
        along_one, along_y = ((gain * each).sum(0) * scale / -count for each in (offsets, gains))
        torch.addcmul(_on_maps(along_one[None]), _on_maps(gain * scale), gradient, out=product)
        product.addcmul_(_on_maps(along_y[None]), y)
        return product, gains, offsets, None, None, None, None


def _on_maps(values: Tensor) -> Tensor:
    """(N, C) as (N, C, 1, 1)."""
    return values[:, :, None, None]


def _over_maps(maps: Tensor) -> Tensor:
    """The sums (N, C) of maps (N, C, H, W), by a product of matrices."""
    rows = maps.movedim(1, -1).flatten(1, 2)
    return (rows.new_ones(1, rows.shape[1]) @ rows).squeeze(1)


def _of(values: Tensor, labels: Tensor) -> Tensor:
    """(N, C): the rows of values (classes, C) for these labels."""
    return labels @ values if labels.is_floating_point() else F.embedding(labels, values)


def batch_norm(channels: int, classes: int = 0) -> nn.Module:
    """A generator's batch norm: conditional if there are classes."""
    return ConditionalBatchNorm2d(channels, classes) if classes else BatchNorm2d(channels)


def sequential(layers: Iterable[nn.Module], x: Tensor, labels: Tensor | None) -> Tensor:
    """The output of one layer after another; conditional batch norms are given the labels."""
    for layer in layers:
        x = layer(x, labels) if isinstance(layer, ConditionalBatchNorm2d) else layer(x)
    return x


def add_heads(critic: nn.Module, features: int, classes: int, conditioning: Conditioning) -> None:
    """Give the critic its `head`, a linear layer to logits, and with classes a second one.

    projection: `embedding`, a vector V_y for each class; the logit is psi(phi) + <V_y, phi>, where
    phi are the features (N, features) that the head psi gets too (Miyato & Koyama 2018,
    arXiv:1802.05637, equation 3). acgan: `classifier`, a linear layer to class logits (Odena et al.
    2017, arXiv:1610.09585, equations 2 and 3). As on the head, a norm has its weight part only.
    """
    if conditioning not in CONDITIONINGS:
        known = ", ".join(CONDITIONINGS)
        raise ValueError(f"unknown conditioning {conditioning!r}; choose one of {known}")
    critic.head = nn.Linear(features, 1)
    if classes and conditioning == "acgan":
        critic.classifier = nn.Linear(features, classes)
    elif classes:
        critic.embedding = nn.Embedding(classes, features)


def class_logits(
    critic: nn.Module, features: Tensor, labels: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """Logits (N,) of a critic with the heads of `add_heads`, from features (N, d).

    With a `classifier` also its class logits (N, classes). Raises ValueError where an embedding has
    no labels.
    """
    logits: Tensor = critic.head(features).squeeze(1)  # type: ignore[operator]
    if isinstance(classifier := getattr(critic, "classifier", None), nn.Module):
        return logits, classifier(features)
    if isinstance(embedding := getattr(critic, "embedding", None), nn.Module):
        if labels is None:
            raise ValueError(NEEDS_LABELS)
        return logits + (embedding(labels) * features).sum(1)
    return logits
