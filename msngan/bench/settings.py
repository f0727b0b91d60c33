"""The settings of each benchmark, and Table III of the paper. This module does not import torch.

The options of `msngan bench` are derived from the fields: see `msngan.commands.bench`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}  # torch's, by what --device takes
SIZE = 32  # height and width of the GAN's images
# The sizes of networks in Table III of the paper, which does not hold resnet18.
SHAPES: dict[str, dict[str, Any]] = {
    "cnn3": {"width": 16, "size": 28, "channels": 1},
    "vgg7": {"width": 32, "size": 32, "channels": 3},
    "densenet_bc": {"width": 12, "size": 32, "channels": 3},
    "critic": {"width": 64, "size": 32, "channels": 3},
    "resnet18": {"width": 64, "size": 32, "channels": 3},
}
PUBLISHED: dict[str, dict[str, int]] = {  # the counts of Table III
    "cnn3": {"batch": 103_562, "spectral": 103_406, "mean_spectral": 103_486},
    "vgg7": {"batch": 438_314, "spectral": 437_168, "mean_spectral": 437_744},
    "densenet_bc": {"batch": 1_009_730, "spectral": 1_007_608, "mean_spectral": 1_008_670},
    "critic": {"batch": 2_938_689, "spectral": 2_935_873, "mean_spectral": 2_937_282},
}
REBUILT = ("as_released", "rebuilt")  # the forms of a network that Table III counts


def option(default: Any, text: str, *, least: int = 1, choices: tuple[str, ...] = ()) -> Any:
    """A field with its help text, least value and allowed values."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices})


def rounds_of(count: int) -> Any:
    return option(count, "rounds in which every variant is measured once")


@dataclass(frozen=True)
class Settings:
    """What all benchmarks share. about: the benchmark in words; drawn: whether it has a picture."""

    about: ClassVar[str]
    drawn: ClassVar[bool] = True
    rounds: int = rounds_of(20)
    threads: int = option(1, "CPU threads")
    device: str = option("cpu", "cpu or gpu; cuda is the same as gpu", choices=(*DEVICES,))


@dataclass(frozen=True)
class NormSettings(Settings):
    """dtype: of autocast; weights are always float32."""

    about = "the critic's forward and backward pass under each norm, relative to no norm"
    norms: tuple[str, ...] = option((), "norms to measure; default: all")
    critic: str = option("cnn", "critic to measure")
    width: int = option(64, "width of the critic")
    batch: int = option(64, "images in a batch")
    dtype: str = option("float32", "precision of autocast", choices=("float32", "bfloat16"))


@dataclass(frozen=True)
class StepSettings(Settings):
    about = "whole GAN steps of configs/cifar_msn.yaml, relative to a plain loop"
    rounds: int = rounds_of(7)
    norms: tuple[str, ...] = option(("none", "spectral", "mean_spectral"), "norms to measure")
    critic: str = option("cnn", "critic to measure")
    width: int = option(64, "width of the networks")
    batch: int = option(64, "images in a batch")
    steps: int = option(0, "steps timed in a row; 0: 3 on a CPU, 100 on a GPU", least=0)


@dataclass(frozen=True)
class SigmaSettings(Settings):
    """norms, critic_batch: those of each config where empty."""

    about = "accuracy of the estimate of sigma in training, beside a single power iteration"
    rounds: int = rounds_of(40)
    config: tuple[str, ...] = option(("digits_msn",), "configs to train")
    norms: tuple[str, ...] = option((), "norms to use instead of the configs' own")
    critic_batch: tuple[str, ...] = option(
        (), "batch modes to use instead of the configs' own", choices=("separate", "joint")
    )
    steps: int = option(2000, "training steps", least=2)
    width: int = option(16, "width of the networks")
    seed: int = option(0, "seed of the training runs", least=0)


@dataclass(frozen=True)
class DataSettings(Settings):
    drawn = False
    about = "a folder of images: decoding, starts, private memory and fetching of batches"
    rounds: int = rounds_of(5)
    images: int = option(100_000, "images to make, JPEG and PNG in turns", least=64)
    size: int = option(64, "height and width of the images", least=8)
    batch: int = option(64, "images in a batch")
    width: int = option(64, "width of the networks whose step a batch is compared with")
    steps: int = option(2, "steps to time")


BENCHMARKS: dict[str, type[Settings]] = {
    "norms": NormSettings,
    "step": StepSettings,
    "sigma": SigmaSettings,
    "data": DataSettings,
}
