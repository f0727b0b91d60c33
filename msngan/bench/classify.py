"""`bench classify`: training steps of the paper's classifiers under each norm, against batch norm.

The paper (arXiv:1907.04003, section IV-B) says that MSN trains 16 % and SN 27 % faster than batch
norm, without a machine, a batch size or a repetition. Here all variants of a network have the same
activation, optimizer and batch; only the norm differs.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch.nn import functional as F

from msngan.bench.references import DESCRIPTIONS, REFERENCES, built
from msngan.bench.settings import SHAPES, ClassifySettings
from msngan.bench.timing import Clock, Progress, interleaved, ratio
from msngan.networks import CLASSIFIERS
from msngan.norms import SigmaBank

BASELINE = "batch"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCHES = {"cnn3": 128, "vgg7": 64, "densenet_bc": 64, "resnet18": 64}  # of the configs
CLAIMS = {"spectral": 27, "mean_spectral": 16}  # the paper's, in percent faster than batch norm


class Variant:
    """A network under a norm or a reference, in one memory layout, with its optimizer."""

    def __init__(self, network: str, norm: str, layout: str, settings: ClassifySettings) -> None:
        self.network, self.norm, self.layout, self.settings = network, norm, layout, settings
        self.name = f"{network}, {norm}, {layout}"
        shape, batch = SHAPES[network], BATCHES[network]
        module = built(lambda norm: CLASSIFIERS[network](norm, **shape), norm)
        form = LAYOUTS[layout]
        self.module = module.to(settings.device).to(memory_format=form)  # type: ignore[call-overload]
        self.bank = SigmaBank(self.module)
        self.optimizer = torch.optim.Adam(self.module.parameters(), 1e-3)
        draw = torch.Generator().manual_seed(0)
        pixels = (shape["channels"], shape["size"], shape["size"])
        images = torch.randn(batch, *pixels, generator=draw)
        self.images = images.to(settings.device).contiguous(memory_format=form)
        self.labels = torch.randint(10, (batch,), generator=draw).to(settings.device)

    def step(self) -> None:
        """What `msngan fit` does with a batch: forward, backward, Adam, the norm's update."""
        device, half = self.settings.device, self.settings.dtype == "bfloat16"
        with self.bank.shared(), torch.autocast(device, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(self.module(self.images).float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.bank.update()


def run(settings: ClassifySettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    norms = dict.fromkeys([BASELINE, *settings.norms, *REFERENCES])
    variants = [
        Variant(network, norm, layout, settings)
        for network in settings.networks
        for layout in LAYOUTS
        for norm in norms
    ]
    measures = {each.name: clock.repeated(each.step) for each in variants}
    seconds = interleaved(measures, settings.rounds, progress)
    rows = [_row(each, seconds) for each in variants]
    return {
        "baseline": BASELINE,
        "results": rows,
        "references": DESCRIPTIONS,
        "claims": CLAIMS,
    }


def _row(variant: Variant, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """throughput: steps a second over those of batch norm in the same network and layout."""
    own = seconds[variant.name]
    base = seconds[f"{variant.network}, {BASELINE}, {variant.layout}"]
    return {
        "name": variant.name,
        "network": variant.network,
        "norm": variant.norm,
        "layout": variant.layout,
        "batch": len(variant.images),
        "image_size": variant.images.shape[-1],
        "kind": "reference" if variant.norm in REFERENCES else "norm",
        "throughput": ratio(base, own),
        "steps_per_second": 1 / median(own),
        "seconds": own,
    }
