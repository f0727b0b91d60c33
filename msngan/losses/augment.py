"""Augment: DiffAugment of every image that the critic scores, with a fixed or adaptive probability.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", arXiv:2006.10738:
real and generated images are augmented in the critic's update, generated ones in the generator's
too, whose gradient passes through the augmentation. So the generator learns to make images that
look real after augmentation, and, unlike with augmented data, not augmented images.

What is drawn for an image are DRAWS numbers from U[0, 1). They are the same number whatever the
policy is, and all operations are functions of images and draws without other randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from msngan.runs import distributed as processes
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.option_values import check_ranges
from msngan.runs.options import Fraction, Range, group

PolicyName = Literal["color", "translation", "cutout"]
Probability = Annotated[float, Range(0, 1)]

# Of an image: whether it is augmented; brightness, saturation, contrast; the shifts down and to the
# right; the row and the column of the hole.
DRAWS = 8
SHIFT, HOLE = 1 / 8, 1 / 2  # largest shift, and side of the hole, as shares of the image's
# Karras et al. 2020, arXiv:2006.06676, section 3: steps between changes of an adaptive probability,
# and the number of real images in which it can rise from 0 to 1.
INTERVAL, RISE = 4, 500_000


def recolored(images: Tensor, draws: Tensor, on: Tensor) -> Tensor:
    """Images (N, C, H, W) with another brightness, then saturation, then contrast, of draws (N, 3).

    Brightness adds up to 1/2 or -1/2 to an image. Saturation multiplies each pixel's distance to
    the mean of its channels by 0 to 2, contrast that to the mean of the image by 1/2 to 3/2.
    on: (N,), 1 for an image to change and 0 for one to leave.
    """
    brightness, saturation, contrast = ((draws - 0.5) * on[:, None]).T[..., None, None, None]
    saturation = 2 * saturation
    grey = images.mean(1, keepdim=True)
    # The three as one function of the pixel, the mean of its channels, and the mean of the image.
    rest = brightness - contrast * grey.mean((2, 3), keepdim=True)
    rest = rest - saturation * (1 + contrast) * grey
    return torch.addcmul(rest, images, (1 + saturation) * (1 + contrast))


def moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of images (N, C, H, W) at rows (N, h) and columns (N, w); contiguous."""
    count, channels, _, width = images.shape
    places = rows[:, :, None] * width + columns[:, None]
    pixels = images.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1))
    return pixels.view(count, channels, *places.shape[1:])


class Shift(torch.autograd.Function):
    """Images moved down and to the right by whole pixels (N,), zeros where they came from.

    Its gradient is the shift back: the one that autograd finds adds up pixels one by one.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(down, right)
        axes = []
        for size, by in zip(images.shape[2:], (down, right), strict=True):
            source = torch.arange(size, device=by.device) - by[:, None]
            axes.append((source.clamp(0, size - 1), (source >= 0) & (source < size)))
        (rows, has_row), (columns, has_column) = axes
        return moved(images, rows, columns) * (has_row[:, :, None] & has_column[:, None])[:, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, right = ctx.saved_tensors
        return Shift.apply(gradient, -down, -right), None, None  # type: ignore[no-untyped-call]


def whole_number(draws: Tensor, count: int) -> Tensor:
    """Draws from U[0, 1) as int64 draws from range(count)."""
    return (draws * count).long()


def shifts(draws: Tensor, shape: torch.Size) -> list[Tensor]:
    """Of draws (N, 2), whole pixels (N,) down and to the right, up to SHIFT of the image's size."""
    most = [int(size * SHIFT + 0.5) for size in shape[-2:]]
    return [whole_number(d, 2 * m + 1) - m for d, m in zip(draws.T, most, strict=True)]


def translated(images: Tensor, draws: Tensor, on: Tensor) -> Tensor:
    """Images moved by whole pixels (see `shifts`), zeros where nothing is. on: as in recolored."""
    down, right = (by * on.long() for by in shifts(draws, images.shape))
    made: Tensor = Shift.apply(images, down, right)  # type: ignore[no-untyped-call]
    return made


def cut(images: Tensor, draws: Tensor, on: Tensor) -> Tensor:
    """Images with a square of zeros, HOLE as high and wide as they are.

    Its centre is uniform over the image, so parts of it may lie outside. on: as in recolored.
    """
    inside = []
    for size, draw in zip(images.shape[2:], draws.T, strict=True):
        side = int(size * HOLE + 0.5)
        # The centre of an even number of pixels lies between two of them, or on an edge.
        first = whole_number(draw, size + 1 - side % 2) - side // 2
        place = torch.arange(size, device=draw.device) - first[:, None]
        inside.append((place >= 0) & (place < side))
    rows, columns = inside
    hole = (rows & on.bool()[:, None])[:, :, None] & columns[:, None]
    return images * ~hole[:, None]


def laid_out_like(images: Tensor, other: Tensor) -> Tensor:
    """Images in the memory layout of others."""
    last = not other.is_contiguous() and other.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return images.contiguous(memory_format=layout)


OPERATIONS = {  # in the paper's order, with their columns of the draws
    "color": (recolored, slice(1, 4)),
    "translation": (translated, slice(4, 6)),
    "cutout": (cut, slice(6, 8)),
}


def augmented(
    images: Tensor, draws: Tensor, policy: list[str], probability: float | Tensor = 1.0
) -> Tensor:
    """Images (N, C, H, W) after the operations of a policy, by draws (N, DRAWS) from U[0, 1).

    An image is augmented, by all of the policy, with this probability; the others stay as they are.
    Differentiable in the images any number of times. The memory layout is kept.
    """
    on = (draws[:, 0] < probability).to(draws.dtype)
    made = images.contiguous()  # where values of an image or a pixel are applied to it faster
    for name, (operation, columns) in OPERATIONS.items():
        if name in policy:
            made = operation(made, draws[:, columns], on)
    return laid_out_like(made, images)


class Augment(nn.Module):
    """What `--augment` asks for: augments images, and adapts the probability if it has a target.

    Adaptive probability (ADA): Karras et al. 2020, arXiv:2006.06676, section 3. The mean sign of
    the critic's logits of augmented real images grows as the critic overfits. Every INTERVAL steps
    the probability moves up if that mean was above the target, and down if it was below. It begins
    at 0. Its state is in buffers, so that a checkpoint holds it; they exist only with a target.

    Args:
        policy: what is done to every image that the critic scores, real and generated
            (DiffAugment): brightness, saturation and contrast (color), shifts by up to 1/8 of the
            size (translation), a hole of half the size (cutout); a list, or null for nothing.
        probability: share of images that are augmented; with a target the largest share.
        target: adapt the probability, beginning at 0, so that the mean sign of the critic's logits
            of real images becomes this, as ADA does with 0.6; null: keep it fixed.
    """

    p: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(
        self,
        policy: PolicyName | list[PolicyName] | None = None,
        probability: Probability = 1.0,
        target: Fraction | None = None,
    ) -> None:
        super().__init__()
        names = [policy] if isinstance(policy, str) else list(policy or [])
        if len({*names}) < len(names):
            raise UserError(f"--augment.policy {names}: give each operation once")
        if not names and (target is not None or probability != 1):
            what = "probability" if target is None else "target"
            raise UserError(
                f"--augment.{what} without --augment.policy: nothing is augmented; give a policy,"
                " such as color,translation,cutout"
            )
        self.policy, self.limit, self.target = cast("list[str]", names), probability, target
        if target is not None:
            for name in ("p", "signs", "seen"):
                self.register_buffer(name, torch.zeros(()))

    @classmethod
    def chosen(cls, options: Mapping[str, Any] | None) -> Augment | None:
        """Of the arguments; None if they augment nothing. UserError for those it does not have."""
        given, known = options or {}, group("gan", "augment")
        for name in given:
            if name not in known:
                near = did_you_mean(str(name), list(known))
                raise UserError(
                    f"GAN(augment=...): unknown option {name!r}{near}; its options are"
                    f" {', '.join(known)}"
                )
        check_ranges("gan", "augment", given)
        made = cls(**given)
        return made if made.policy else None

    def forward(self, images: Tensor, draw: Generator) -> Tensor:
        """Augmented images. draw: a generator on their device, the same in all processes."""
        draws = processes.uniform((len(images), DRAWS), draw, images.device)
        probability = self.limit if self.target is None else self.p
        return augmented(images, draws, self.policy, probability)

    @torch.no_grad()
    def observe(self, logits: Tensor, boundary: float) -> None:
        """Count a critic update's logits of real images, of all processes.

        boundary: the logit that the critic gives what might as well be real as generated.
        """
        if self.target is not None:
            self.signs += (logits - boundary).sign().sum()
            self.seen += len(logits)

    @torch.no_grad()
    def adapt(self, step: int) -> dict[str, Tensor]:
        """Move the probability at the end of a step, counted from 0; return the step's figures."""
        if self.target is None:
            return {}
        if (step + 1) % INTERVAL == 0:
            change = (self.signs / self.seen - self.target).sign() * self.seen / RISE
            self.p.copy_((self.p + change).clamp(0, self.limit))
            self.signs.zero_()
            self.seen.zero_()
        return {"augment_probability": self.p.clone()}
