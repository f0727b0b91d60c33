"""Pictures of `msngan sample` that show samples beside the real images they were trained on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from msngan.commands.parser import own_options
from msngan.data import ImageData
from msngan.networks import draw_samples
from msngan.networks.sampling import classes_of
from msngan.runs.folder import UserError
from msngan.runs.progress_bar import progress
from msngan.scores.distances import nearest
from msngan.scores.reference import in_random_order
from msngan.scores.scorer import choose

PART = 1000  # images that are measured at once
LIGHT = 235  # of the gap between real images and samples, as between the images of a grid


def draw_beside_real(
    generator: nn.Module, saved: dict[str, Any], options: Namespace
) -> tuple[Tensor, int]:
    """The images of --neighbours or --beside-real, and how many are in a row."""
    data = training_data(saved, options.data_root)
    if options.neighbours is None:
        return beside_real(generator, data, options)
    images, columns, line = with_neighbours(generator, data, options)
    print(line)
    return images, columns


def training_data(saved: dict[str, Any], root: str | None) -> ImageData:
    """The data that a checkpoint names, in the size and channels of its generator.

    root: its folder, if it has moved; UserError if the images cannot be read.
    """
    shape = {name: saved["hyper_parameters"][name] for name in ("size", "channels")}
    moved = {} if root is None else {"root": root}
    with own_options("--data-root"):
        return ImageData(**saved["msngan"]["data"] | shape | moved)


def with_neighbours(
    generator: nn.Module, data: ImageData, options: Namespace
) -> tuple[Tensor, int, str]:
    """Rows of a sample and its nearest training images, the row's length, and a line to read.

    Far is the Euclidean distance of pixels, or of an extractor's features. Where training mirrors
    images, their mirrored copies count too. A sample nearer to the training images than images are
    that the generator has not seen is a sign that it repeats them.
    """
    with own_options("--data-root"):
        real, unseen = data.real, data.held_out
    k, count, labels = min(options.neighbours, len(real)), options.grid, None
    if options.classes:
        labels = torch.tensor(options.classes)[torch.arange(count) % len(options.classes)]
    samples = _samples(generator, count, options, labels)
    embed, unit = _measure(options.by, data)
    copies = [real, real.flip(3)] if data.mirror else [real]
    parts = [part for each in copies for part in each.split(PART)]
    others = samples[:0] if unseen is None else unseen[in_random_order(len(unseen))[:count]]
    distances, places = nearest(embed(torch.cat([samples, others])), _watched(parts, embed), k)
    at = places[: len(samples)].flatten()
    found = torch.stack([copies[int(place) // len(real)][int(place) % len(real)] for place in at])
    rows = torch.cat([samples[:, None], found.view(count, k, *real.shape[1:])], 1)
    own, of_others = distances[:count, 0], distances[count:, 0]
    line = (
        f"median {unit} to the nearest training image: {float(own.median()):.4g} of {count} samples"
    )
    if len(others):
        line += f", {float(of_others.median()):.4g} of {len(others)} images not trained on"
    return rows.flatten(0, 1), 1 + k, line


def _samples(generator: nn.Module, count: int, options: Namespace, labels: Tensor | None) -> Tensor:
    how = {"labels": labels, "truncation": options.truncation}
    return torch.cat(list(draw_samples(generator, count, options.seed, **how)))


def _measure(by: str, data: ImageData) -> tuple[Callable[[Tensor], Tensor], str]:
    """A function of uint8 images (N, C, H, W) to rows (N, d), and what their distance is called."""
    if by == "pixels":
        scale = data.real[0].numel() ** -0.5
        unit = "distance (root mean square, in grey levels)"
        return lambda images: images.flatten(1).double() * scale, unit
    extractor, _ = choose("auto", data.dataset, data.shape[0])
    return lambda images: extractor.features(images).pool, f"distance in {extractor.name}"


def _watched(parts: list[Tensor], embed: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    total, done = sum(map(len, parts)), 0
    with progress("training images") as watch:
        for part in parts:
            yield embed(part)
            done += len(part)
            watch(done, total)


def beside_real(generator: nn.Module, data: ImageData, options: Namespace) -> tuple[Tensor, int]:
    """A row for each class: real images, a gap, and as many samples of it; and the row's length.

    UserError for a generator that is not conditional, and for data of other classes.
    """
    classes, each = classes_of(generator), options.beside_real
    if not classes:
        raise UserError("--beside-real needs a conditional generator; this one has no classes")
    data.labelled = True
    with own_options("--data-root"):
        real, labels = data.real, data.labels
    if data.classes != classes:
        raise UserError(
            f"--beside-real: the generator has {classes} classes, the data {data.classes}; give the"
            " data that it was trained on, --data-root DIR"
        )
    chosen = range(classes) if options.classes is None else options.classes
    wanted = torch.tensor(list(chosen)).repeat_interleave(each)
    samples = _samples(generator, len(wanted), options, wanted)
    rows = []
    for row, label in enumerate(chosen):
        own = real[(labels == label).nonzero().flatten()[:each]]
        gap = torch.full((1 + each - len(own), *real.shape[1:]), LIGHT, dtype=torch.uint8)
        rows += [own, gap, samples[row * each : (row + 1) * each]]
    return torch.cat(rows), 2 * each + 1
