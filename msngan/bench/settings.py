"""What a benchmark measures, and the record that it leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from msngan.bench.score_settings import ScoreSettings
from msngan.runs import hardware as machine

DeviceName = Literal["cpu", "cuda"]
SIZE = 32  # of the images


@dataclass(frozen=True)
class Settings:
    """Of one benchmark. `dtype` is that of autocast; weights are always float32."""

    norms: tuple[str, ...]
    rounds: int
    threads: int = 1
    device: DeviceName = "cpu"
    width: int = 64
    batch: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16")

    def images(self, seed: int = 0, batch: int | None = None) -> Tensor:
        """(batch, 3, SIZE, SIZE) in [-1, 1], channels last."""
        draw = torch.Generator().manual_seed(seed)
        made = torch.rand(batch or self.batch, 3, SIZE, SIZE, generator=draw) * 2 - 1
        return made.to(self.device).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class ClassifierSettings:
    """Of `bench classify`. `dtype` is that of autocast; weights are always float32."""

    networks: tuple[str, ...]
    norms: tuple[str, ...]
    rounds: int
    threads: int = 1
    device: DeviceName = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class SigmaSettings:
    """Of `bench sigma`. No norms, or passes: each config's own. minutes: of a training at most."""

    configs: tuple[str, ...]
    norms: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    steps: int = 2000
    minutes: float | None = None
    rounds: int = 40
    width: int = 16
    threads: int = 1
    seed: int = 0
    device: DeviceName = "cpu"


OWN_SIZES = (ClassifierSettings, SigmaSettings)  # each network's, or each data set's


def record(
    benchmark: str,
    settings: Settings | ClassifierSettings | ScoreSettings | SigmaSettings,
    clock: str,
    baseline: str,
    results: list[dict[str, Any]],
    **more: Any,  # noqa: ANN401  JSON values
) -> dict[str, Any]:
    """The whole result as JSON. Times are in seconds, memory in bytes."""
    chosen = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(settings).items()
    }
    about = machine.software()
    return {
        "format": 1,
        "benchmark": benchmark,
        "command": about["command"],
        "time": about["time"],
        "hardware": machine.hardware(),
        "versions": {"msngan": about["msngan"], "python": about["python"], **about["versions"]},
        "threads": settings.threads,
        "clock": clock,
        "rounds": settings.rounds,
        "settings": {
            **chosen,
            **({} if isinstance(settings, OWN_SIZES) else {"image_size": SIZE}),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "baseline": baseline,
        "results": results,
        **more,
    }
