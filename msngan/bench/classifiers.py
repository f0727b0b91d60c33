"""`bench classify`: training steps of the paper's classifiers under each norm, against batch norm.

The paper (arXiv:1907.04003, section IV-B) says that MSN trains 16 % and SN 27 % faster than batch
norm, without a machine, a batch or a repetition. Here all arms have the same network, activation,
optimizer and batch; only the norm differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.bench.ratios import ratio
from msngan.bench.references import DESCRIPTIONS, NAIVE, REFERENCES, TORCH, seeded
from msngan.bench.rounds import Watcher, clock_of, interleaved
from msngan.bench.settings import ClassifierSettings, record
from msngan.networks import CLASSIFIERS
from msngan.norms import SigmaBank

BASELINE = "batch"
LAYOUTS = ("contiguous", "channels_last")
# Batch, channels and size of the configs' images.
SHAPES = {
    "cnn3": (128, 1, 28),
    "vgg7": (64, 3, 32),
    "densenet_bc": (64, 3, 32),
    "resnet18": (64, 3, 32),
}
CLASSES = 10
# What the paper claims, in percent faster than batch norm.
CLAIMS = {"spectral": 27, "mean_spectral": 16}


class Arm:
    """One network under one norm, or under PyTorch's, in one layout, with its optimizer."""

    def __init__(self, network: str, norm: str, layout: str, settings: ClassifierSettings) -> None:
        self.network, self.norm, self.layout, self.settings = network, norm, layout, settings
        batch, channels, size = SHAPES[network]
        change = REFERENCES.get(norm)
        plain = norm if change is None else "none"

        def make() -> nn.Module:
            made = CLASSIFIERS[network](plain, CLASSES, channels, size)
            return made if change is None else change(made)

        self.module = seeded(make).to(settings.device)
        self.bank = SigmaBank(self.module)
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.module.to(memory_format=form)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.module.parameters(), 1e-3)
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(batch, channels, size, size, generator=draw)
        self.images = images.to(settings.device).contiguous(memory_format=form)
        labels = torch.randint(CLASSES, (batch,), generator=draw)
        self.labels = labels.to(settings.device)

    @property
    def name(self) -> str:
        return f"{self.network}, {self.norm}, {self.layout}"

    def step(self) -> None:
        """What `fit` does with a batch: forward, backward, Adam, the norm's update."""
        kinds = {"enabled": self.settings.dtype == "bfloat16"}
        with (
            self.bank.shared(),
            torch.autocast(self.settings.device, torch.bfloat16, **kinds),
        ):
            loss = F.cross_entropy(self._logits(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.bank.update()

    def _logits(self) -> Tensor:
        return self.module(self.images).float()


def run(settings: ClassifierSettings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    clock = clock_of(settings.device, settings.threads)
    norms = [BASELINE, *(name for name in settings.norms if name != BASELINE)]
    arms = [
        Arm(network, norm, layout, settings)
        for network in settings.networks
        for layout in LAYOUTS
        for norm in (*norms, TORCH, NAIVE)
    ]
    measures: dict[str, Callable[[], float]] = {}
    for arm in arms:
        measures[arm.name] = clock.repeated(arm.step)
    seconds = interleaved(measures, settings.rounds, watcher)
    rows = [_row(arm, seconds) for arm in arms]
    about = {name: DESCRIPTIONS[name] for name in (TORCH, NAIVE)}
    return record("classify", settings, clock.name, BASELINE, rows, references=about, claims=CLAIMS)


def _row(arm: Arm, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """throughput: steps a second over those of batch norm in the same network and layout."""
    mine = seconds[arm.name]
    base = seconds[f"{arm.network}, {BASELINE}, {arm.layout}"]
    return {
        "name": arm.name,
        "network": arm.network,
        "norm": arm.norm,
        "layout": arm.layout,
        "batch": len(arm.images),
        "image_size": arm.images.shape[-1],
        "kind": "reference" if arm.norm in REFERENCES else "norm",
        "throughput": asdict(ratio(base, mine)),
        "steps_per_second": 1 / median(mine),
        "seconds": mine,
    }
