"""msngan sample: draw images from a run or checkpoint."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msngan.commands.parser import (
    Parser,
    add_out,
    add_root,
    add_sampling,
    add_weights,
    number,
    option,
    several,
)
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError, find_checkpoint
from msngan.runs.options import named

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp", ".tiff")
# Options that only some pictures use, with their defaults and the options that ask for those.
USED_BY: dict[str, tuple[Any, tuple[str, ...]]] = {
    "columns": (10, ("interpolate",)),
    "format": ("png", ("n",)),
    "by": ("pixels", ("neighbours",)),
    "data_root": (None, ("neighbours", "beside_real")),
}
GRID = 64  # images of a grid
OF_A_CLASS = 8  # of a grid whose classes are named
ROWS = 16  # samples beside their neighbours, one in each row
MOST_NAMED, LONGEST = 20, 100  # classes, and letters of another file, in the name of a file
MOST = 2**24  # images; their latents alone take 8 GiB at 128 numbers each

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn


def main(argv: list[str]) -> int:
    options = _parse(argv)
    path, run = find_checkpoint(options.target, options.root)
    from msngan.networks import read_generator

    generator, about = read_generator(path, ema=options.ema)
    _check_classes(options.classes, generator, options.target)
    if options.standing is not None:
        from msngan.networks.standing import with_standing_statistics

        how = options.standing, options.seed
        with named(f"--standing {options.standing}"):
            generator = with_standing_statistics(generator, *how, truncation=options.truncation)
    place = run.samples if run else Path()
    stem = _stem(options, about["msngan"]["step"], "" if run else path.stem[:LONGEST])
    ending = "" if options.n and options.format == "png" else ".npz" if options.n else ".png"
    try:
        if options.out:
            written = options.out
            _write(generator, about, options, written)
        else:
            written, others = _unused(place, stem, ending)
            _write(generator, about, options, written)
            written = _without_copy(written, others)
    except OSError as problem:
        raise UserError(
            f"cannot write {problem.filename or place}: {problem.strerror}"
        ) from problem
    print(written)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="msngan sample", description="Draw images from a run or checkpoint.")
    option(
        parser,
        "target",
        "a run, a checkpoint, an exported generator, or one that comes along: zoo/NAME",
    )
    add_root(parser)
    option(parser, "--seed", "seed of the latents", type=number(0), default=0)
    option(parser, "--n", "number of single images, instead of a grid", type=number(1, MOST))
    text = f"samples in the grid; default: {GRID}, with --classes {OF_A_CLASS} of each, with"
    text += f" --neighbours {ROWS}"
    option(parser, "--grid", text, type=number(1, MOST))
    text = "draw this many paths between samples (spherical interpolation), one in each row"
    option(parser, "--interpolate ROWS", text, type=number(1, MOST))
    text = (
        "classes of a conditional generator, such as 0,3: a row of the grid for each; with"
        " --interpolate two, of which each path goes from the first to the second; default: all"
    )
    option(parser, "--classes", text, type=several(kind=int))
    option(parser, "--columns", "images of each path; default: 10", type=number(2, MOST))
    text = "show each sample beside its K nearest training images"
    option(parser, "--neighbours K", text, type=number(1, 100))
    text = (
        "distance of --neighbours: of pixels, or of a scores extractor's features; default: pixels"
    )
    option(parser, "--by", text, choices=("pixels", "features"))
    text = "show N real images and N samples of each class, a row for each"
    option(parser, "--beside-real N", text, type=number(1, 1000))
    option(parser, "--data-root DIR", "the training images' folder, if it has moved")
    option(parser, "--format", "format of --n; default: png", choices=("png", "npz"))
    text = (
        "file to write, or folder for --n with png; default: in the run's samples/, or for a file"
        " of no run in this folder, named by what it shows: another picture is never replaced"
    )
    add_out(parser, "--out PATH", text)
    add_sampling(parser)
    add_weights(parser, "use", default=True)
    options = parser.parse_args(argv)
    _one_of(options, "n", "interpolate", "neighbours", "beside_real")
    _one_of(options, "grid", "n", "interpolate", "beside_real")
    usual = OF_A_CLASS * len(options.classes) if options.classes else GRID
    usual = usual if options.neighbours is None else ROWS
    options.other_grid = options.grid not in (None, usual)
    options.grid = options.grid or usual
    for name, (default, users) in USED_BY.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif all(getattr(options, user) is None for user in users):
            wanted = " or ".join(map(_flag, users))
            raise UserError(f"{_flag(name)} without {wanted} changes nothing; leave it out")
    if options.classes == ():
        raise UserError("--classes is empty; give numbers of classes, such as 0,3")
    if options.interpolate and len(options.classes or ()) > 2:
        raise UserError("--classes with --interpolate takes one class or two, such as 0,3")
    if options.n is None and options.out and options.out.suffix.lower() not in PICTURES:
        raise UserError(f"--out {options.out} must end in one of {', '.join(PICTURES)}")
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _one_of(options: argparse.Namespace, *names: str) -> None:
    given = [_flag(name) for name in names if getattr(options, name) is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two pictures; give one of them")


def _stem(options: argparse.Namespace, step: int, source: str) -> str:
    """What a picture is called without --out: by all that it shows.

    source: the name of a file that belongs to no run here, whose pictures are in one folder with
    those of other files.
    """
    words = ["sample", source, f"{step:08d}", f"seed{options.seed}", "" if options.ema else "raw"]
    if classes := options.classes:
        few = len(classes) <= MOST_NAMED
        words.append("classes" + ("_".join(map(str, classes)) if few else f"-{len(classes)}"))
    if options.truncation is not None:
        words.append(f"truncation{options.truncation:g}")
    if options.standing is not None:
        words.append(f"standing{options.standing}")
    if options.n is not None:
        words.append(f"n{options.n}")
    elif options.interpolate is not None:
        words.append(f"slerp{options.interpolate}x{options.columns}")
    elif options.beside_real is not None:
        words.append(f"real{options.beside_real}")
    elif options.other_grid:
        words.append(f"grid{options.grid}")
    if options.neighbours is not None:
        words.append(f"neighbours{options.neighbours}-{options.by}")
    return "-".join(filter(None, words))


def _unused(place: Path, stem: str, ending: str) -> tuple[Path, list[Path]]:
    """The first path of this name, or this and -2, -3, ..., that is not there; and those before."""
    there: list[Path] = []
    path = place / f"{stem}{ending}"
    while os.path.lexists(path):
        there.append(path)
        path = place / f"{stem}-{len(there) + 1}{ending}"
    return path, there


def _without_copy(path: Path, others: list[Path]) -> Path:
    """The one of the others that holds what `path` holds, which is then removed; else `path`."""
    for other in others:
        if _files(other) == _files(path) and all(
            filecmp.cmp(path / name, other / name, shallow=False) for name in _files(path)
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return other
    return path


def _files(path: Path) -> list[Path]:
    """Those of a folder, relative to it; of a file that one."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [each.relative_to(path) for each in found if each.is_file()]


def _write(
    generator: nn.Module, about: dict[str, Any], options: argparse.Namespace, path: Path
) -> None:
    """Draw the images and write them, a file or a folder."""
    import numpy as np
    import torch

    from msngan.data import images as convert
    from msngan.networks import draw_samples
    from msngan.networks.sampling import class_rows, classes_of

    if options.n is None and options.interpolate is not None:
        return convert.save_grid(_paths(generator, options), path, options.columns)
    if options.neighbours is not None or options.beside_real is not None:
        from msngan.commands.sample_beside_real import draw_beside_real

        pictures, in_row = draw_beside_real(generator, about, options)
        return convert.save_grid(pictures, path, in_row)
    count, labels, columns = options.grid if options.n is None else options.n, None, None
    if classes := options.classes or tuple(range(classes_of(generator))):
        if options.n is None:
            labels, columns = class_rows(classes, count)
            count = len(labels)
        else:
            labels = torch.tensor(classes)[torch.arange(count) % len(classes)]
    how = {"labels": labels, "truncation": options.truncation}
    batches = draw_samples(generator, count, options.seed, **how)
    if options.n is None:
        return convert.save_grid(torch.cat(list(batches)), path, columns)
    if options.format == "npz":  # the names and the layout of other tools:
        arrays = torch.cat(list(batches)).permute(0, 2, 3, 1).numpy()
        with replacing(path) as temporary, open(temporary, "wb") as file:
            # arr_0: uint8 (N, H, W, C); arr_1: int64 (N,), the labels
            np.savez(file, arrays, *([] if labels is None else [labels.numpy()]))
        return None
    digits = len(str(count - 1))
    for index, image in enumerate(image for batch in batches for image in batch):
        place = path if labels is None else path / str(int(labels[index]))
        place.mkdir(parents=True, exist_ok=True)
        convert.to_pil(image).save(place / f"{index:0{digits}d}.png")
    return None


def _check_classes(classes: tuple[int, ...] | None, generator: nn.Module, target: str) -> None:
    """UserError for classes that the generator does not have."""
    from msngan.networks.sampling import classes_of

    known = classes_of(generator)
    for label in classes or ():
        if not known:
            raise UserError(f"--classes: {target} is not conditional; leave it out")
        if not 0 <= label < known:
            raise UserError(f"--classes {label}: {target} has the classes 0 to {known - 1}")


def _check_shares(generator: nn.Module, shares: Tensor, target: str) -> None:
    """UserError for a generator that takes labels, but not shares of classes, (1, classes)."""
    from msngan.networks import decode, latents

    try:
        next(decode(generator, latents(1, cast(int, generator.latent_dim), 0), labels=shares))
    except Exception as problem:  # of onnxruntime, TorchScript, or a network of one's own
        raise UserError(
            f"--interpolate between two classes: {target} takes whole numbers as labels, no shares"
            " of classes, as ONNX and TorchScript files do; give a run or a .safetensors file"
        ) from problem


def _paths(generator: nn.Module, options: argparse.Namespace) -> Tensor:
    """Images of paths, row after row: between latents, or between two classes for one latent."""
    import torch

    from msngan.networks import decode, latents, slerp
    from msngan.networks.sampling import classes_of

    rows, columns, classes = options.interpolate, options.columns, options.classes or ()
    known = classes_of(generator)
    how = cast(int, generator.latent_dim), options.seed, options.truncation
    starts, ends = latents(2 * rows, *how).chunk(2)
    labels = None
    if len(classes) == 2:
        one, other = torch.eye(known)[list(classes)]
        shares = torch.linspace(0, 1, columns)[:, None]
        labels, ends = torch.lerp(one, other, shares).repeat(rows, 1), starts
        _check_shares(generator, labels[:1], options.target)
    elif known:
        each = torch.tensor(classes or range(known))
        labels = each[torch.arange(rows) % len(each)].repeat_interleave(columns)
    path = slerp(starts, ends, columns)  # (columns, rows, d)
    return torch.cat(list(decode(generator, path.transpose(0, 1).flatten(0, 1), labels=labels)))
