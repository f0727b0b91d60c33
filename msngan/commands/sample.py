"""msngan sample: images from a run or checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from msngan.commands.parser import Parser
from msngan.runs import bounds as checks
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError, find_checkpoint

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn


def main(argv: list[str]) -> int:
    options = _parse(argv)
    path, run = find_checkpoint(options.target, Path(options.root))
    from msngan.networks import read_generator

    generator, about = read_generator(path, ema=options.ema)
    step = about["msngan"]["step"]
    place = run.samples if run else Path()
    stem = f"sample-{step:08d}-seed{options.seed}"
    try:
        written = _write(generator, options, place, stem)
    except OSError as problem:
        raise UserError(
            f"cannot write {problem.filename or place}: {problem.strerror}"
        ) from problem
    print(written)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="msngan sample", description="Draw images from a run or checkpoint.")
    parser.add_argument(
        "target", help="a run's name or folder, a checkpoint, or an exported generator"
    )
    parser.add_argument("--root", default=".", help="folder that holds checkpoints/ and samples/")
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
    parser.add_argument("--n", type=int, help="so many images, each by itself, instead of a grid")
    parser.add_argument("--grid", type=int, default=64, help="images in the grid (default 64)")
    parser.add_argument("--interpolate", type=int, metavar="ROWS", help="rows of slerp paths")
    parser.add_argument("--columns", type=int, default=10, help="images on such a path")
    parser.add_argument("--format", choices=("png", "npz"), default="png", help="for --n")
    parser.add_argument("--out", help="file (grid, npz) or folder (--n with png)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--ema", dest="ema", action="store_true", default=True)
    weights.add_argument("--raw", dest="ema", action="store_false", help="not the moving average")
    options = parser.parse_args(argv)
    for name, least in (("n", 1), ("grid", 1), ("interpolate", 1), ("columns", 2), ("seed", 0)):
        checks.at_least(f"--{name}", getattr(options, name), least)
    return options


def _write(generator: nn.Module, options: argparse.Namespace, place: Path, stem: str) -> Path:
    if options.n is not None:
        if options.format == "npz":
            return _npz(generator, options, Path(options.out or place / f"{stem}.npz"))
        return _singles(generator, options, Path(options.out or place / stem))
    import torch

    from msngan.data import images as convert
    from msngan.networks import draw_samples

    if options.interpolate is not None:
        pictures = _paths(generator, options)
        out = Path(options.out or place / f"{stem}-slerp.png")
        columns = options.columns
    else:
        pictures = torch.cat(list(draw_samples(generator, options.grid, options.seed)))
        out, columns = Path(options.out or place / f"{stem}.png"), None
    convert.save_grid(pictures, out, columns)
    return out


def _paths(generator: nn.Module, options: argparse.Namespace) -> Tensor:
    import torch

    from msngan.networks import decode, latents, slerp

    starts, ends = latents(
        2 * options.interpolate, cast(int, generator.latent_dim), options.seed
    ).chunk(2)
    path = slerp(starts, ends, options.columns)  # (columns, rows, d)
    return torch.cat(list(decode(generator, path.transpose(0, 1).flatten(0, 1))))


def _singles(generator: nn.Module, options: argparse.Namespace, folder: Path) -> Path:
    from msngan.data import images as convert
    from msngan.networks import draw_samples

    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(options.n - 1))
    index = 0
    for batch in draw_samples(generator, options.n, options.seed):
        for image in batch:
            convert.to_pil(image).save(folder / f"{index:0{digits}d}.png")
            index += 1
    return folder


def _npz(generator: nn.Module, options: argparse.Namespace, out: Path) -> Path:
    """`images`: uint8 (N, H, W, C), the layout that other tools read; as `arr_0` by its place."""
    import numpy as np
    import torch

    from msngan.networks import draw_samples

    pictures = torch.cat(list(draw_samples(generator, options.n, options.seed)))
    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, pictures.permute(0, 2, 3, 1).numpy())
    return out
