"""The settings of each benchmark and the record that it leaves. This module does not import torch.

The options of `msngan bench` are derived from the fields: see `msngan.commands.bench`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

SIZE = 32  # height and width of the GAN's images
NETWORKS = ("cnn3", "vgg7", "densenet_bc", "resnet18")
PARTS = ("frechet", "low-rank", "kernel", "evaluation")
CRITIC_BATCHES = ("separate", "joint")


def option(default: Any, text: str, *, least: int = 1, choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """A field with its help text, least value and allowed values."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices})


def rounds_of(count: int) -> Any:  # noqa: ANN401  a dataclass field
    return option(count, "rounds in which every variant is measured once")


@dataclass(frozen=True)
class Settings:
    """What all benchmarks share.

    about: the benchmark in words. function: what measures, "module:function" in msngan.bench. plot:
    whether its record can be drawn.
    """

    about: ClassVar[str]
    function: ClassVar[str]
    plot: ClassVar[bool] = False
    rounds: int = rounds_of(20)
    threads: int = option(1, "CPU threads")


@dataclass(frozen=True)
class DeviceSettings(Settings):
    device: str = option("cpu", "device", choices=("cpu", "cuda"))


@dataclass(frozen=True)
class NormSettings(DeviceSettings):
    """dtype: of autocast; weights are always float32."""

    about = "the critic's forward and backward pass under each norm, relative to no norm"
    function = "norms:run"
    plot = True
    norms: tuple[str, ...] = option((), "norms to measure; default: all")
    width: int = option(64, "width of the critic")
    batch: int = option(64, "images in a batch")
    dtype: str = option("float32", "precision of autocast", choices=("float32", "bfloat16"))


@dataclass(frozen=True)
class FoldSettings(NormSettings):
    about = "inference of trained critics, folded and not, relative to no norm"
    function = "norms:run_fold"
    norms: tuple[str, ...] = option(("batch", "spectral", "mean_spectral"), "norms to measure")


@dataclass(frozen=True)
class StepSettings(DeviceSettings):
    about = "whole GAN steps of configs/cifar_msn.yaml, relative to a plain loop"
    function = "step:run"
    plot = True
    rounds: int = rounds_of(7)
    norms: tuple[str, ...] = option(("none", "spectral", "mean_spectral"), "norms to measure")
    width: int = option(64, "width of the networks")
    batch: int = option(64, "images in a batch")


@dataclass(frozen=True)
class ClassifySettings(DeviceSettings):
    """dtype: of autocast; weights are always float32."""

    about = "training steps of the paper's classifiers, relative to batch norm"
    function = "classify:run"
    networks: tuple[str, ...] = option(NETWORKS[:2], "networks to train", choices=NETWORKS)
    norms: tuple[str, ...] = option(
        ("none", "batch", "spectral", "mean_spectral"), "norms to measure"
    )
    dtype: str = option("float32", "precision of autocast", choices=("float32", "bfloat16"))


@dataclass(frozen=True)
class SigmaSettings(DeviceSettings):
    """norms, critic_batch: those of each config where empty."""

    about = "accuracy of the estimate of sigma in training, beside a single power iteration"
    function = "sigma:run"
    plot = True
    rounds: int = rounds_of(40)
    config: tuple[str, ...] = option(("digits_msn",), "configs to train")
    norms: tuple[str, ...] = option((), "norms to use instead of the configs' own")
    critic_batch: tuple[str, ...] = option(
        (), "batch modes to use instead of the configs' own", choices=CRITIC_BATCHES
    )
    steps: int = option(2000, "training steps", least=2)
    width: int = option(16, "width of the networks")
    seed: int = option(0, "seed of the training runs", least=0)


@dataclass(frozen=True)
class ScoreSettings(Settings):
    about = "the arithmetic of scores, relative to other libraries, and its share of an evaluation"
    function = "scores:run"
    rounds: int = rounds_of(5)
    only: tuple[str, ...] = option(PARTS, "parts to measure", choices=PARTS)
    samples: int = option(2000, "generated images of a sample set", least=2)
    few: int = option(500, "generated images of the low-rank part", least=2)
    dimensions: int = option(2048, "features of an image, except in the evaluation", least=2)
    kept: int = option(10_000, "real images of the kernel distance and the evaluation", least=2)
    subsets: int = option(100, "subsets of torch-fidelity's kernel distance")
    subset_size: int = option(1000, "images in each subset", least=2)
    runs: int = option(5, "sample sets of the evaluation")
    width: int = option(64, "width of the evaluation's generator")


BENCHMARKS: dict[str, type[Settings]] = {
    "norms": NormSettings,
    "step": StepSettings,
    "classify": ClassifySettings,
    "fold": FoldSettings,
    "scores": ScoreSettings,
    "sigma": SigmaSettings,
}


def record(
    benchmark: str,
    settings: Settings,
    clock: str,
    baseline: str,
    results: list[dict[str, Any]],
    **more: Any,  # noqa: ANN401  JSON values
) -> dict[str, Any]:
    """The whole result as a JSON object. Times are in seconds, memory is in bytes."""
    import torch

    from msngan.runs import hardware

    chosen = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(settings).items()
    }
    about = hardware.software()
    return {
        "format": 1,
        "benchmark": benchmark,
        "command": about["command"],
        "time": about["time"],
        "hardware": hardware.hardware(),
        "versions": {"msngan": about["msngan"], "python": about["python"], **about["versions"]},
        "threads": settings.threads,
        "clock": clock,
        "rounds": settings.rounds,
        "settings": {**chosen, "float32_matmul_precision": torch.get_float32_matmul_precision()},
        "baseline": baseline,
        "results": results,
        **more,
    }


# The networks of `msngan params` and their sizes in Table III, which does not hold resnet18.
SHAPES: dict[str, dict[str, Any]] = {
    "cnn3": {"width": 16, "size": 28, "channels": 1},
    "vgg7": {"width": 32, "size": 32, "channels": 3},
    "densenet_bc": {"width": 12, "size": 32, "channels": 3},
    "critic": {"width": 64, "size": 32, "channels": 3},
    "resnet18": {"width": 64, "size": 32, "channels": 3},
}
PUBLISHED: dict[str, dict[str, int]] = {  # Table III
    "cnn3": {"batch": 103_562, "spectral": 103_406, "mean_spectral": 103_486},
    "vgg7": {"batch": 438_314, "spectral": 437_168, "mean_spectral": 437_744},
    "densenet_bc": {"batch": 1_009_730, "spectral": 1_007_608, "mean_spectral": 1_008_670},
    "critic": {"batch": 2_938_689, "spectral": 2_935_873, "mean_spectral": 2_937_282},
}
REBUILT = ("as_released", "rebuilt")  # the forms of a network that Table III counts
