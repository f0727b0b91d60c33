"""A folder or zip file of images, as one uint8 tensor.

The zip file may be one that StyleGAN2-ADA's dataset_tool.py wrote (Karras et al. 2020,
arXiv:2006.06676): images, and a dataset.json whose "labels" pairs their names with classes.
What is decoded may go to a file of msngan.data.cache.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from msngan.data import cache
from msngan.data.folder_labels import (
    TEST_SHARE,
    LabelsError,
    check_labels,
    divided,
    labels_of,
    places_of,
)
from msngan.data.images import Images
from msngan.data.parallel import in_chunks
from msngan.data.pictures import DataError, Look, UnreadableError, pixels, strict_pillow
from msngan.data.sources import Source, opened
from msngan.runs.folder import counted, plural

ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)
MOST_BYTES = 2**36  # of all images in memory
MOST_NAMED = 10  # unreadable files that a message names


class Notes(NamedTuple):
    """What decoding finds, by name: why images cannot be read, and how others look."""

    bad: dict[str, str]
    small: dict[str, Look]
    mixed: dict[str, Look]


def load_folder(
    root: Path,
    size: int | None,
    channels: int | None,
    skip_bad: bool | None = None,
    split: str = "all",
    test_share: float = TEST_SHARE,
    labelled: bool = False,
) -> Images:
    """The images of a folder or zip file, in the order of their names, with labels if any.

    size: the shorter side is resized to it (Lanczos) and the centre cut out; None if all images
    are squares of one size. channels: 1 or 3; None: 1 if all are grey, otherwise 3. skip_bad: leave
    out files that cannot be read, with a warning; otherwise they are a DataError, which names the
    option to skip them if this is False. labelled: refuse images without labels to learn from.
    Labels come from dataset.json if it has "labels" (null: none), otherwise from the subfolders of
    the first level, in order of name, if every image lies in one; from those of the second, if the
    first is train and test. split: these two folders, or, where they are not, `test_share` of each
    class at random, always the same, is test and the others train. Any other input is a DataError.
    """
    root = Path(root)
    with opened(root) as source:
        names = [name for name in source.names if name.lower().endswith(ENDINGS)]
        if not names:
            raise DataError(f"no images in {root}; it needs files ending in {' '.join(ENDINGS)}")
        others = sorted({*source.names} - {*names, "dataset.json"})
        if split != "all" and divided(names, 1):
            whole, names = names, [name for name in names if name.startswith(("train/", "test/"))]
            if outside := len(whole) - len(names):
                are, what = plural(outside, "is", "are"), counted(outside, "image")
                _say(f"{what} in {root} {are} in neither train nor test and {are} left out")
        known = labels_of(source, names)
        if labelled:
            check_labels(source, names, known)
        labels, places = known.labels, places_of(root, names, known, split, test_share)
        if places is not None:
            names = [names[place] for place in places]
            labels = None if labels is None else labels[places]
        images, kept = decoded(replace(source, names=names), size, channels, skip_bad)
    _report_others(root, others)
    labels = labels if labels is None or kept is None else labels[kept]
    if labelled and labels is not None and (missing := known.missing(labels)):
        what = f"the class {missing[0]} in {root} has no {'' if split == 'all' else split} images"
        if split != "test":
            raise LabelsError(f"{what}; add some, or remove the class everywhere")
        _say(what)
    return Images(images, labels, known.classes)


def decoded(
    source: Source, size: int | None, channels: int | None, skip_bad: bool | None = None
) -> tuple[Tensor, Tensor | None]:
    """All images of a source, uint8 (N, C, H, W), and the places of those kept; None for all.

    Options and errors are those of `load_folder`.
    """
    root, names = source.root, source.names
    bad: dict[str, str] = {}
    small: dict[str, Look] = {}  # smaller than `size`
    mixed: dict[str, Look] = {}  # of another kind than the first

    def fill(chunk: range) -> Notes:
        own = bad, small, mixed = Notes({}, {}, {})
        for index in chunk:
            name = names[index]
            try:
                with source.picture(name) as image:
                    look = Look.of(name, image)
                    _check_size(root, size, first, look)
                    if channels is None and look.kind != first.kind:
                        mixed[name] = look
                        if images.shape[1] == 1:
                            return own  # all are decoded again, in colour
                    if size is not None and min(look.width, look.height) < size:
                        small[name] = look
                    images[index] = pixels(image, *images.shape[1:3])
            except UnreadableError as problem:
                bad[name] = problem.reason
        return own

    with strict_pillow():
        for name in names:
            try:
                with source.picture(name) as image:
                    first = Look.of(name, image)
                break
            except UnreadableError as problem:
                bad[name] = problem.reason
        else:
            _report_bad(root, names, bad, skip_bad)
        for kind in dict.fromkeys((first.kind, "colour")):
            own = channels or (1 if kind == "grey" else 3)
            images = cache.empty(*_shape(root, len(names), first, size, own))
            for found in in_chunks(fill, len(names), source.begin):
                bad |= found.bad
                small |= found.small
                mixed |= found.mixed
            if not (mixed and own == 1):
                break
    if bad:
        _report_bad(root, names, bad, skip_bad)
    if mixed:
        other = mixed[min(mixed)]
        option = "" if skip_bad is None else " (--data.channels 1 makes all grey)"
        _say(
            f"images in {root} mix grey and colour ({first.name} is {first.kind}, {other.name} is"
            f" {other.kind}): all become colour{option}"
        )
    if small:
        least, are = small[min(small)], plural(len(small), "is", "are")
        _say(
            f"{len(small):,} of {counted(len(names), 'image')} in {root} {are} smaller than"
            f" {size}x{size} and {are} enlarged ({least.name} is {least.size})"
        )
    if not bad:
        return images, None
    kept = torch.tensor([index for index, name in enumerate(names) if name not in bad])
    return cache.kept(images, kept), kept


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=5)


def _report_others(root: Path, others: list[str]) -> None:
    if not others:
        return
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in others)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(MOST_NAMED))
    _say(
        f"{counted(len(others), 'other file')} in {root} {plural(len(others), 'is', 'are')} left"
        f" out: {listed}; images in another format can be converted to PNG"
    )


def _report_bad(root: Path, names: list[str], bad: dict[str, str], skip: bool | None) -> None:
    """A DataError, or a warning where the bad images are to be skipped and others are left."""
    named = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:MOST_NAMED])
    if len(bad) > MOST_NAMED:
        named += f" and {len(bad) - MOST_NAMED} more"
    what = f"{len(bad)} of {counted(len(names), 'image')} in {root} cannot be read"
    if skip and len(bad) < len(names):
        _say(f"{what} and {plural(len(bad), 'is', 'are')} skipped: {named}")
        return
    refusal = f"{what}: {named}; repair or remove them"
    if len(bad) == 1 and not skip:
        ((name, reason),) = bad.items()
        refusal = str(UnreadableError(str(root / name), reason))
    raise DataError(refusal + (", or set --data.on_bad_image skip" if skip is False else ""))


def _shape(
    root: Path, count: int, look: Look, size: int | None, channels: int
) -> tuple[int, int, int, int]:
    if size is None and look.width != look.height:
        raise DataError(
            f"images in {root} are not square ({look.size} {look.name}); set --data.size"
        )
    side = size or look.width
    need = count * channels * side * side
    if need > MOST_BYTES and not cache.has_room(need):
        raise DataError(
            f"{counted(count, 'image')} from {root} at {side}x{side}: {need / 2**30:.0f} GiB"
            f" of memory, over {MOST_BYTES / 2**30:.0f}; set a smaller --data.size or give fewer"
        )
    return count, channels, side, side


def _check_size(root: Path, size: int | None, first: Look, other: Look) -> None:
    if size is None and first.size != other.size:
        both = f"{first.size} {first.name}, {other.size} {other.name}"
        raise DataError(f"images in {root} differ in size ({both}); set --data.size")
