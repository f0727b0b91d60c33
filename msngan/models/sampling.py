"""Samples from a generator, and generators from checkpoints; no Lightning needed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from msngan import images as convert
from msngan import rng
from msngan.models.dcgan import GENERATORS
from msngan.runs import UserError

CHECKPOINT_FORMAT = 1


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of `module` asks for a gradient inside."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards each part is in the mode it was in."""
    before = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def latents(count: int, latent_dim: int, seed: int) -> Tensor:
    """z (count, latent_dim) ~ N(0, 1), on the CPU, derived from (seed, "samples")."""
    return torch.randn(count, latent_dim, generator=rng.generator(seed, 0, 0, "samples"))


def draw_samples(
    generator: nn.Module,
    count: int,
    seed: int,
    batch_size: int = 250,
    *,
    only: Tensor | None = None,
    truncate: bool = False,
) -> Iterator[Tensor]:
    """uint8 batches of `count` samples in all, on the CPU, or of those at the indices `only`.

    The latents are drawn whole, on the CPU, so neither batch size nor device changes them, nor
    what other processes draw.
    """
    z = latents(count, cast(int, generator.latent_dim), seed)
    yield from decode(generator, z if only is None else z[only], batch_size, truncate)


def decode(
    generator: nn.Module, z: Tensor, batch_size: int = 250, truncate: bool = False
) -> Iterator[Tensor]:
    """uint8 batches of the images of z (N, latent_dim), eval mode, on the CPU."""
    first = next(generator.parameters())
    for part in z.split(batch_size):
        with evaluating(generator):
            images = generator(part.to(first.device, first.dtype))
            yield convert.to_uint8(images, truncate).cpu()


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """(steps, N, d): from start to end (both (N, d)) on great circles; lengths go over linearly.

    Gaussian latents lie near a sphere; a straight line would pass through its unlikely inside.
    White 2016, arXiv:1609.04468.
    """
    share = torch.linspace(0, 1, steps).view(-1, 1, 1)
    a, b = start.norm(dim=1, keepdim=True), end.norm(dim=1, keepdim=True)
    cosine = ((start / a) * (end / b)).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    # On one line through the origin there is no great circle to choose; go straight.
    flat = sine < 1e-6
    safe = torch.where(flat, torch.ones_like(sine), sine)
    first = torch.where(flat, 1 - share, ((1 - share) * angle).sin() / safe)
    second = torch.where(flat, share, (share * angle).sin() / safe)
    length = torch.lerp(a.expand(steps, -1, -1), b.expand(steps, -1, -1), share)
    return (first * (start / a) + second * (end / b)) * length


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A msngan checkpoint as plain data; nothing in it is executed.

    Raises UserError for a file that is missing, cut, no checkpoint, or not of msngan.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint {path}") from None
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile) as problem:
        raise UserError(f"{path} is no readable checkpoint: it is cut or of another program") from (
            problem
        )
    about = checkpoint.get("msngan") if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict) or about.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is not a msngan checkpoint of format {CHECKPOINT_FORMAT}")
    return checkpoint


def check_gan(checkpoint: dict[str, Any], path: Path) -> None:
    """UserError for a checkpoint that holds no generator."""
    task = checkpoint["msngan"].get("task", "gan")
    if task != "gan":
        raise UserError(
            f"{path} is of a {task}, which has no samples and no FID; `msngan report` shows what it"
            " gets right"
        )


def load_generator(path: Path, ema: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """The generator in a checkpoint, in eval mode, and the checkpoint itself.

    ema: the moving average; UserError if the run kept none.
    """
    checkpoint = read_checkpoint(path)
    check_gan(checkpoint, path)
    options, prefix = checkpoint["hyper_parameters"], "ema." if ema else "generator."
    weights = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    if not weights:
        raise UserError(f"{path} holds no moving average (its ema_decay was 0); use --raw")
    with rng.untouched():
        generator = GENERATORS[options["generator"]](
            options["latent_dim"], options["width"], options["channels"], options["size"]
        )
    generator.to(next(iter(weights.values())).dtype)
    generator.load_state_dict(weights)
    if options.get("channels_last"):  # as in training: twice as fast, and the same last bits
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator.eval(), checkpoint
